"""Tuning: the notebook's keys and choices, real n-best lists, honesty about small or odd data."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest

from bench.commands import tune as command
from bench.commands.main import main
from bench.commands.tune import summary_lines, write_tune_files
from bench.nbest.file import NBestFile, NBestHeader, NBestHypothesis, NBestUtterance
from bench.nbest.table import build_table, rescored
from bench.nbest.writer import NBestWriter
from bench.report import write_report
from bench.text.normalizers import normalizer
from bench.tuning import TuneResult, tune, tune_alpha
from bench.tuning.explain import explain
from bench.tuning.fusion_lines import fusion_lines
from bench.tuning.options import GRID, TuneOptions
from bench.tuning.selection import runtime_choices
from runtime.errors import NBestFileError, SettingsError
from runtime.fusion import to_caption_style
from runtime.fusion_settings import FusionSettings
from runtime.results import Hypothesis
from tests.conftest import ROOT
from tests.tools.nbest_examples import corpus, random_utterances

HYPORADISE = ROOT.parent / "shared/data/hyporadise"
QUICK = TuneOptions(replicates=200)


def nbest(*utterances: NBestUtterance) -> NBestFile:
    return NBestFile(NBestHeader(), utterances)


def pictured(
    number: int, reference: str, *hypotheses: tuple[str, float, float | None], **more: Any
) -> NBestUtterance:
    listed = tuple(NBestHypothesis(text, score, cosine) for text, score, cosine in hypotheses)
    return NBestUtterance(str(number), reference, hypotheses=listed, **more)


@pytest.mark.parametrize("seed", range(20))
def test_grid_equals_jiwer_over_runtime_choices(seed: int) -> None:
    file = nbest(*random_utterances(np.random.default_rng(seed)))
    report = tune(file, QUICK).to_dict()
    table = build_table(file.utterances, normalizer("notebook"))
    rates = []
    for alpha in GRID:
        chosen = runtime_choices(table, alpha)
        assert np.array_equal(chosen, fusion_lines(table).choices(alpha))
        rates.append(jiwer.wer(table.references, [table.texts[pair] for pair in chosen]))
    # The same integers divided: 1e-12 is what is promised, equality is what is expected.
    assert [row["wer"] for row in report["grid_results"]] == pytest.approx(rates, abs=1e-12)
    assert report["best_alpha"] == GRID[int(np.argmin(rates))]
    assert report["exact"]["best_wer"] <= report["best_wer"] + 1e-15
    assert report["exact"]["runtime_check"]["different_choices"] == 0
    assert report["oracle_wer"] <= report["envelope_oracle_wer"] <= report["exact"]["best_wer"]
    assert report["anti_oracle_wer"] >= max(rates)
    json.dumps(report, allow_nan=False)


def test_contract_keys() -> None:
    report = tune(corpus(0), QUICK).to_dict()
    assert [row["alpha"] for row in report["grid_results"]] == [round(0.05 * i, 2) for i in range(21)]
    assert {
        "best_alpha",
        "best_wer",
        "baseline_wer",
        "wer_reduction",
        "num_samples",
        "exact",
        "oracle_wer",
        "anti_oracle_wer",
        "envelope_oracle_wer",
        "confidence",
        "cross_validation",
        "groups",
        "controls",
        "normalizer",
    } <= set(report)
    assert {"breakpoints", "wer", "best_intervals", "best_wer"} <= set(report["exact"])
    assert len(report["exact"]["wer"]) == len(report["exact"]["breakpoints"]) - 1
    assert report["wer_reduction"] == report["baseline_wer"] - report["best_wer"]
    assert report["cross_validation"]["scheme"] == "leave one speaker out"
    assert set(report["groups"]) == {"even", "odd"}
    assert report["confidence"]["unit"] == "speaker"


def test_smallest_alpha_within_one_error_equals_a_plain_loop() -> None:
    result = tune(corpus(5), QUICK)
    table = result.table
    best = fusion_lines(table).choices(result.exact["alpha"])
    found = None
    points = result.surface.breakpoints
    for alpha in [0.0, *(0.5 * (points[:-1] + points[1:]))]:
        difference = table.errors[fusion_lines(table).choices(float(alpha))] - table.errors[best]
        by_speaker = np.array([difference[s::4].sum() for s in range(4)], dtype=float)
        words = np.array([table.reference_words[s::4].sum() for s in range(4)], dtype=float)
        ratio = by_speaker.sum() / words.sum()
        error = np.sqrt(((by_speaker - ratio * words) ** 2).sum() * 4 / 3) / words.sum()
        if ratio <= error:
            found = float(alpha)
            break
    assert found is not None
    smallest = result.exact["smallest_within_one_standard_error"]
    assert result.surface.errors_at(smallest) == result.surface.errors_at(found)
    # The surface joins intervals in which choices change and errors do not; both lie in the same one.
    place = np.searchsorted(points, [smallest, found])
    assert place[0] == place[1]


def test_test_data_are_scored_at_the_frozen_alpha() -> None:
    result = tune(corpus(1), QUICK, corpus(2))
    assert result.test is not None
    table = build_table(corpus(2).utterances, normalizer("notebook"))
    chosen = runtime_choices(table, result.chosen_alpha)
    assert result.test.summary["chosen"]["wer"] == table.errors[chosen].sum() / table.total_words
    assert result.test.alpha == result.development.alpha == result.chosen_alpha


def test_controls_lose_the_gain() -> None:
    report = tune(corpus(3, count=200), QUICK).to_dict()
    gain = report["confidence"]["delta_wer"]["estimate"]
    controls = report["controls"]
    assert gain < -0.05
    assert controls["image_shuffle"]["wer"] - report["baseline_wer"] > 0.5 * gain
    assert controls["cosine_permutation"]["wer"] - report["baseline_wer"] > 0.5 * gain
    assert len(report["improved"]) > len(report["worsened"])


def test_scales_are_tuned_and_never_worse() -> None:
    report = tune(corpus(4), TuneOptions(replicates=200, tune_scale=True)).to_dict()
    assert report["scale"]["wer"] <= report["exact"]["best_wer"]
    assert report["scale"]["cross_validated_wer"] >= report["scale"]["wer"]


def scaled_rates(file: NBestFile, fusion: FusionSettings) -> dict[str | None, float]:
    """WER of what the runtime chooses with `fusion`, over all utterances (None) and by group."""
    table = build_table(file.utterances, normalizer("words"))
    chosen = runtime_choices(
        table, fusion.alpha, asr_temperature=fusion.asr_temperature, clip_scale=fusion.clip_scale
    )
    rates = {}
    for name in (None, "even", "odd"):
        rows = [row for row, u in enumerate(file.utterances) if name in (None, u.group)]
        rates[name] = table.errors[chosen][rows].sum() / table.reference_words[rows].sum()
    return rates


@pytest.mark.parametrize("seed", [1, 2])  # both have scales that win on held-out folds
def test_the_figures_are_those_of_fusion_json(tmp_path: Path, seed: int) -> None:
    files = corpus(seed), corpus(seed + 100)
    result = tune(files[0], TuneOptions(replicates=200, tune_scale=True), files[1])
    fusion = result.fusion
    assert (fusion.asr_temperature, fusion.clip_scale) != (1.0, 100.0)
    report = result.to_dict()
    for file, part in zip(files, (report, report["test"]), strict=True):
        rates = scaled_rates(file, fusion)
        assert (part["chosen"]["alpha"], part["chosen"]["wer"]) == (fusion.alpha, rates[None])
        assert part["confidence"]["wer"]["estimate"] == pytest.approx(rates[None], abs=1e-12)
        assert {name: row["wer"] for name, row in part["groups"].items()} == {
            name: rate for name, rate in rates.items() if name
        }
        shuffled = [
            replace(u, hypotheses=tuple(replace(h, clip_score=h.clip_score_shuffled) for h in u.hypotheses))
            for u in file.utterances
        ]
        assert part["controls"]["image_shuffle"]["wer"] == scaled_rates(nbest(*shuffled), fusion)[None]
        plain = FusionSettings(alpha=result.chosen_alpha)
        assert part["default_scales"] == {
            "alpha": result.chosen_alpha,
            "wer": scaled_rates(file, plain)[None],
        }
    # The notebook's formula stays what it was.
    untuned = tune(files[0], QUICK).to_dict()
    for key in ("grid_results", "best_alpha", "exact", "chosen_alpha", "cross_validation"):
        assert report[key] == untuned[key]

    write_tune_files(tmp_path, result)
    explained = [json.loads(line) for line in (tmp_path / "explanations.jsonl").read_text().splitlines()]
    errors = sum(e["hypotheses"][e["after"]]["errors"] for e in explained)
    assert errors / result.table.total_words == report["chosen"]["wer"]
    page = write_report(tmp_path, result, files[1]).read_text(encoding="utf-8")
    printed = "\n".join(summary_lines(result))
    for said in (page, printed):
        assert f"ASR temperature {fusion.asr_temperature:g}" in said
    assert f"chosen at α = {fusion.alpha:.3g};" in page
    assert f"the notebook's scales reach WER {report['test']['default_scales']['wer']:.2%}" in printed


@pytest.mark.parametrize("seed", [0, 3])  # neither has
def test_scales_that_do_not_win_change_no_figure(seed: int) -> None:
    with_scales = tune(corpus(seed), TuneOptions(replicates=200, tune_scale=True)).to_dict()
    without = tune(corpus(seed), QUICK).to_dict()
    differing = {key for key in without if with_scales[key] != without[key]}
    assert differing == {"scale", "options"}
    assert not without["tuned_scales"]


def headed(file: NBestFile, bundle: dict[str, Any], **settings: Any) -> NBestFile:
    return replace(file, header=NBestHeader(bundle, settings))


def test_other_test_lists_are_told() -> None:
    one, other = ({"name": name, "sha256": name * 8} for name in ("base", "tiny"))
    file, elsewhere = corpus(1), replace(corpus(2), utterances=corpus(2, count=80).utterances[40:])
    gate = {"silence_dbfs": -70.0, "doubt": 0.1}
    tuned = headed(file, one, distinct="words", num_beams=5, speech_gate=gate, window="full")
    cached = NBestHeader(one, {**tuned.header.settings, "image_cache": "of its own"})
    assert "The lists" not in str(tune(tuned, QUICK, replace(elsewhere, header=cached)).test.statements)
    same = tune(tuned, QUICK, replace(elsewhere, header=tuned.header)).to_dict()
    assert not [s for s in same["test"]["statements"] if "The lists" in s or "ids" in s]
    assert same["test"]["shared_ids"] == 0
    assert same["test_nbest"] == tuned.header.to_dict()
    assert tune(tuned, QUICK).to_dict()["test_nbest"] is None

    lists = headed(elsewhere, other, distinct="tokens", num_beams=5, speech_gate=gate | {"doubt": 0.2})
    result = tune(tuned, QUICK, lists)
    said = result.to_dict()["test"]["statements"]
    assert said[:2] == [
        "The lists are of another bundle: 'tiny' (tinytinytiny); α was tuned on lists of 'base' "
        "(basebasebase).",
        'The lists were made with other settings than the tuning lists: distinct "tokens", not "words"; '
        'speech_gate.doubt 0.2, not 0.1; window (not stated), not "full".',
    ]
    assert f"Test: {said[0]}" in summary_lines(result)


def test_ids_of_the_tuning_data_are_counted(tmp_path: Path) -> None:
    file = corpus(1)
    half = replace(corpus(2), utterances=corpus(2, count=60).utterances[30:])
    for test, shared, told in (
        (file, 40, "α was tuned on 40 of these ids, so the gain is flattered."),
        (half, 10, "α was tuned on 10 of these ids, so the gain is flattered, and on 30 others."),
    ):
        result = tune(file, QUICK, test)
        report = result.to_dict()
        assert report["test"]["shared_ids"] == shared
        said = f"{shared} of the {len(test.utterances)} utterances have ids that the tuning data have"
        assert said in report["test"]["statements"][0]
        assert told in write_report(tmp_path, result, test).read_text(encoding="utf-8")


def test_sum_of_log_probabilities() -> None:
    file = corpus(0)
    assert tune(file, TuneOptions(replicates=200, asr_score="sum")).table.scores[1] == -4.0
    plain = nbest(pictured(0, "a", ("a", -0.5, 0.1)))
    with pytest.raises(NBestFileError, match="neither asr_sum nor num_tokens"):
        tune(plain, TuneOptions(replicates=200, asr_score="sum"))


def statements(*utterances: NBestUtterance) -> tuple[TuneResult, str]:
    result = tune(nbest(*utterances), QUICK)
    json.dumps(result.to_dict(), allow_nan=False)
    return result, " ".join(result.development.statements)


def test_odd_data_get_a_statement() -> None:
    result, said = statements(pictured(0, "a b", ("a", -1.0, 0.1), ("b", -2.0, 0.4)))
    assert "One utterance only" in said
    assert result.cross_validation is None
    result, said = statements(*(pictured(i, "a", ("a", -1.0, None), ("b", -2.0, None)) for i in range(3)))
    assert "No utterance has clip scores" in said
    assert (result.chosen_alpha, result.development.summary["controls"]["image_shuffle"]) == (0.0, None)
    _, said = statements(*(pictured(i, "a", ("b", -1.0, 0.3)) for i in range(3)))
    assert "Every list has one hypothesis" in said
    _, said = statements(pictured(0, "", ("a b c", -1.0, 0.3)), pictured(1, " ", ("", -1.0, 0.3)))
    assert "2 references hold no word" in said
    assert "All references are empty" in said
    _, said = statements(pictured(0, "a"), pictured(1, "a", ("a", -1.0, 0.3)))
    assert "1 utterances have no hypothesis" in said


def test_wer_above_one_is_kept() -> None:
    result, _ = statements(*(pictured(i, "a", ("b c d", -1.0, 0.3)) for i in range(3)))
    assert result.to_dict()["baseline_wer"] == 3.0


def test_normalizer_that_empties_a_reference_is_counted() -> None:
    file = nbest(pictured(0, "[laughs]", ("ha", -1.0, 0.3)), pictured(1, "A cat!", ("a cat", -1.0, 0.3)))
    result = tune(file, TuneOptions(replicates=200, normalizer="basic"))
    assert result.to_dict()["baseline_wer"] == 0.5
    assert any("removed altogether" in statement for statement in result.development.statements)
    smile = tune(
        nbest(pictured(0, "😀", ("ha", -1.0, 0.3)), pictured(1, "A cat!", ("a cat", -1.0, 0.3))), QUICK
    )
    assert smile.to_dict()["baseline_wer"] == 0.5
    assert any("'words' removed altogether" in statement for statement in smile.development.statements)


PUNCTUATED = nbest(
    pictured(0, "A Pear, please.", ("a bear please", -1.0, 0.20), ("a pear please", -1.1, 0.30)),
    pictured(1, "Don’t go!", ("don't go", -1.0, 0.30), ("dont go", -1.1, 0.20), ("don't, go", -1.2, 0.1)),
)


def test_words_are_the_default_and_the_notebook_stands_beside_them() -> None:
    report = tune(PUNCTUATED, QUICK, PUNCTUATED).to_dict()
    alone = tune(PUNCTUATED, TuneOptions(replicates=200, normalizer="notebook")).to_dict()
    assert (report["baseline_wer"], report["best_wer"]) == (0.2, 0.0)
    notebook = report["notebook"]
    for key in ("grid_results", "best_alpha", "best_wer", "baseline_wer", "wer_reduction"):
        assert notebook[key] == alone[key]
    assert notebook["chosen"] == {"alpha": report["chosen_alpha"], "wer": 0.8}
    assert report["test"]["notebook"] == {k: notebook[k] for k in report["test"]["notebook"]}
    named = [
        part["normalizer"]["name"] for part in (report, notebook, report["test"], report["test"]["notebook"])
    ]
    assert named == ["words", "notebook", "words", "notebook"]
    assert alone["normalizer"]["name"] == alone["notebook"]["normalizer"]["name"] == "notebook"


def test_hypotheses_that_are_the_same_words_stay_separate() -> None:
    table = tune(PUNCTUATED, QUICK).table
    assert table.texts[2:] == ["dont go"] * 3
    assert table.sizes.tolist() == [2, 3]
    assert table.errors.tolist() == [1, 0, 0, 0, 0]


def test_rescoring_keeps_the_lists_and_equals_a_new_table() -> None:
    words, notebook = (build_table(PUNCTUATED.utterances, normalizer(name)) for name in ("words", "notebook"))
    again = rescored(words, normalizer("notebook"))
    assert again.texts == notebook.texts
    assert np.array_equal(again.errors, notebook.errors)
    assert np.array_equal(again.reference_words, notebook.reference_words)
    assert rescored(words, normalizer("words")) is words


def test_the_language_is_given_or_that_of_the_file() -> None:
    utterances = (pictured(0, "IŞIK", ("ışık", -1.0, 0.3)),)
    turkish = NBestFile(NBestHeader(settings={"language": "turkish"}), utterances)
    assert tune(turkish, QUICK).to_dict()["baseline_wer"] == 0.0
    assert tune(nbest(*utterances), QUICK).to_dict()["baseline_wer"] == 1.0
    given = tune(nbest(*utterances), TuneOptions(replicates=200, language="tr")).to_dict()
    assert (given["baseline_wer"], given["normalizer"]["language"]) == (0.0, "tr")


def test_explanations_name_the_flip() -> None:
    file = nbest(pictured(0, "pear", ("bear", -1.0, 0.20), ("pear", -1.0001, 0.30)))
    result = tune(file, QUICK)
    (explained,) = explain(result.table, FusionSettings(alpha=0.5))
    assert (explained.before, explained.after) == (0, 1)
    ((flip, index),) = explained.flips
    asr = [h.asr_probability for h in explained.hypotheses]
    clip = [h.clip_probability for h in explained.hypotheses]
    # At the flip both fused scores are equal; float64 rounding only.
    assert (1 - flip) * asr[0] + flip * clip[0] == pytest.approx(
        (1 - flip) * asr[1] + flip * clip[1], abs=1e-15
    )
    assert (index, explained.nearest_flip) == (1, flip)
    assert explained.margin == pytest.approx(
        abs(explained.hypotheses[1].fused_score - explained.hypotheses[0].fused_score)
    )


class StubPipeline:
    """Two hypotheses; the picture prefers the second. Counts how often texts are encoded."""

    encoded = 0

    def generate_nbest(self, audio: Any, sr: int = 16000) -> list[Hypothesis]:
        return [Hypothesis("a bear", -0.5), Hypothesis("um pear", -0.6)]

    def image_embedding(self, image_id: Any = None, image_path: Any = None) -> tuple[Any, str | None]:
        return (np.ones(2), None) if image_id == "known" else (None, "Image not found")

    def clip_similarity(self, image_embedding: Any, texts: Any) -> np.ndarray:
        assert list(texts) == [to_caption_style("a bear"), to_caption_style("um pear")]
        self.encoded += 1
        return np.array([0.2, 0.3], dtype=np.float32)


def test_tune_alpha_has_the_notebooks_keys_and_encodes_once() -> None:
    pipeline = StubPipeline()
    samples = [
        {"audio_array": np.zeros(10), "sr": 16000, "reference": " UM Pear ", "image_id": "known"},
        {"audio_array": np.zeros(10), "reference": "a bear", "image_id": "unknown"},
    ]
    result = tune_alpha(pipeline, samples)
    assert list(result) == [
        "grid_results",
        "best_alpha",
        "best_wer",
        "baseline_wer",
        "wer_reduction",
        "num_samples",
    ]
    assert (result["baseline_wer"], result["best_wer"], result["num_samples"]) == (0.5, 0.0, 2)
    spoken = [{"audio_array": np.zeros(10), "reference": "A bear.", "image_id": "unknown"}]
    assert tune_alpha(pipeline, spoken)["best_wer"] == 0.5  # "bear." is not "bear", as in the notebook
    assert result["best_alpha"] == 0.05
    assert pipeline.encoded == 1
    assert tune_alpha(pipeline, samples, np.array([0.9]))["baseline_wer"] == 0.5
    for bad in ([], [{"reference": "x"}]):
        with pytest.raises(SettingsError):
            tune_alpha(pipeline, bad)
    with pytest.raises(SettingsError, match=r"alpha_range holds 1\.5"):
        tune_alpha(pipeline, samples, [0.0, 1.5])


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": "x"},
        {"language": "x"},
        {"asr_score": "max"},
        {"select": "best"},
        {"folds": 1},
        {"replicates": 0},
        {"level": 1.0},
    ],
)
def test_options_are_verified(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(changes))):
        TuneOptions(**changes)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "n.jsonl"
    with NBestWriter(path, NBestHeader()) as writer:
        for utterance in corpus(0).utterances:
            writer.write(utterance)
    common = ["tune", "--output", str(tmp_path / "out"), "--replicates", "200"]
    assert main([*common, "--nbest", str(path), "--test", str(path), "--tune-scale"]) == 0
    report = json.loads((tmp_path / "out/tune.json").read_text())
    assert report["schema"] == "earsight.tune/1"
    assert len((tmp_path / "out/explanations.jsonl").read_text().splitlines()) == 40
    assert (tmp_path / "out/index.html").is_file()
    printed = capsys.readouterr().out
    assert "test data (α frozen)" in printed
    assert "WER: texts are taken as words" in printed
    assert "notebook: texts are stripped and lower-cased." in printed
    assert main([*common, "--nbest", str(path), "--language", "en"]) == 0
    assert json.loads((tmp_path / "out/tune.json").read_text())["normalizer"]["language"] == "en"
    capsys.readouterr()
    assert main([*common, "--nbest", str(tmp_path / "none")]) == 2
    assert main(common) == 2
    assert main([*common, "--data", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "no such n-best file" in lines[0]


@pytest.mark.parametrize(
    "given",
    [
        ("--bundle", "b"),
        ("--fusion", "f.json"),
        ("--num-beams", "5"),  # its default
        ("--num-hypotheses", "5"),
        ("--image-cache", "c.npz"),
        ("--window", "full"),
        ("--tf32",),
    ],
)
def test_lists_take_no_options_of_recognition(tmp_path: Path, given: tuple[str, ...]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--nbest", "n.jsonl", "--output", str(tmp_path), *given])
    with pytest.raises(SettingsError, match=rf"--nbest does not read {given[0]} \(which belongs to --data\)"):
        command.run(args)
    shown = " ".join(parser.format_help().split())
    assert "beams (default 5)" in shown
    assert "Default(" not in shown


def oracle_by_hand(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """1-best and 5-best oracle WER by a plain edit distance, without jiwer."""

    def distance(reference: list[str], hypothesis: list[str]) -> int:
        row = list(range(len(hypothesis) + 1))
        for i, word in enumerate(reference, start=1):
            diagonal, row[0] = row[0], i
            for j, other in enumerate(hypothesis, start=1):
                diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
        return row[-1]

    words = first = lowest = 0
    for row in rows:
        reference = row["output"].lower().split()
        distances = [distance(reference, text.lower().split()) for text in row["input"]]
        words, first, lowest = words + len(reference), first + distances[0], lowest + min(distances)
    return first / words, lowest / words


@pytest.mark.shared
@pytest.mark.parametrize("name", ["atis", "chime4", "ls_other"])
def test_real_lists_equal_an_independent_count(name: str) -> None:
    path = HYPORADISE / f"test_{name}.json"
    if not path.is_file():
        pytest.skip("no HyPoradise lists beside the checkout")
    rows = json.loads(path.read_text())
    utterances = [
        pictured(
            i,
            row["output"],
            *((t, s, None) for t, s in zip(row["input"], row.get("am_score", [0.0] * 5), strict=True)),
        )
        for i, row in enumerate(rows)
    ]
    result = tune(nbest(*utterances), TuneOptions(replicates=200, normalizer="notebook"))
    report = result.to_dict()
    first, oracle = oracle_by_hand(rows)
    assert report["baseline_wer"] == pytest.approx(first, abs=1e-12)
    by_words = tune(nbest(*utterances), QUICK).to_dict()
    assert by_words["notebook"]["baseline_wer"] == pytest.approx(first, abs=1e-12)
    assert report["oracle_wer"] == pytest.approx(oracle, abs=1e-12)
    assert report["oracle_by_depth"][0]["oracle_wer"] == report["baseline_wer"]
    assert any("No utterance has clip scores" in statement for statement in result.development.statements)
