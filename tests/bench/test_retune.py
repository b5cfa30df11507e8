"""Tuning on corrections: proposed where held-out people gain, refused with a reason elsewhere."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest

from bench.commands.main import main
from bench.commands.retune import add_arguments as add_retune_arguments
from bench.corrections.effort import effort
from bench.corrections.retune import BIAS, retune
from bench.manifest import read_manifest
from bench.nbest.file import NBestFile, NBestHeader, NBestHypothesis, NBestUtterance, read_nbest
from bench.tuning.options import TuneOptions
from bench.tuning.selection import runtime_choices
from runtime.commands import serve
from runtime.commands.options import add_server_pipeline_arguments
from runtime.fusion_settings import FusionSettings
from runtime.server.correction_store import Correction, CorrectionStore, SentFile
from tests.conftest import POCKET

QUICK = TuneOptions(replicates=500)
BLIND = FusionSettings(alpha=0.0)
WORDS = ("bear", "pear", "boat", "coat")


def corrected(seed=0, speakers=8, each=12, knows=0.9, hows=("confirmed", "picked", "typed"), pictured=True):
    """Lists of two texts of which the picture knows the right one with the probability `knows`."""
    rng = np.random.default_rng(seed)
    utterances = []
    for number in range(speakers * each):
        right, wrong = rng.choice(WORDS, 2, replace=False)
        first, second = (right, wrong) if rng.random() < 0.5 else (wrong, right)
        seen = right if rng.random() < knows else wrong
        hypotheses = tuple(
            NBestHypothesis(f"a {word}", score, (0.30 if word == seen else 0.25) if pictured else None)
            for word, score in ((first, -0.5), (second, -0.6))
        )
        utterances.append(
            NBestUtterance(
                str(number),
                f"a {right}",
                f"speaker {number % speakers}",
                str(rng.choice(hows)),
                None,
                1.0,
                hypotheses,
            )
        )
    return NBestFile(NBestHeader({"name": "b", "sha256": "1"}), tuple(utterances))


def test_what_held_out_speakers_gain_by_is_proposed():
    retuning = retune(corrected(), BLIND, QUICK)
    gain = retuning.overall
    assert retuning.refusal is None
    assert retuning.proposal == retuning.result.fusion
    assert retuning.proposal.alpha > 0
    assert retuning.proposal.confidence is not None
    assert (gain.unit, gain.units, gain.utterances, gain.words) == ("speaker", 8, 96, 192)
    assert gain.difference.high < 0
    # By hand: every utterance of each speaker with the alpha that the seven others chose.
    table = retuning.result.table
    errors = np.zeros(table.size, dtype=int)
    for fold in retuning.result.cross_validation["folds"]:
        rows = np.array([u.speaker == fold["held_out"] for u in table.utterances])
        errors[rows] = table.errors[runtime_choices(table, fold["alpha"])][rows]
    assert gain.held_out == errors.sum() / table.total_words
    assert (
        gain.current
        == gain.speech_only
        == table.errors[runtime_choices(table, 0.0)].sum() / table.total_words
    )
    assert gain.difference.estimate == pytest.approx(gain.held_out - gain.current, abs=1e-12)
    assert gain.right_first[2] == int((errors == 0).sum())
    assert set(retuning.by_how) == {"confirmed", "picked", "typed"}
    assert sum(part.utterances for part in retuning.by_how.values()) == 96
    json.dumps(retuning.to_dict(), allow_nan=False)
    assert BIAS in list(retuning.lines())


def test_where_the_picture_knows_nothing_a_proposal_is_rare():
    """An interval of 95 % lies below 0 by chance once in forty times."""
    retunings = [retune(corrected(seed, knows=0.5), BLIND, QUICK) for seed in range(12)]
    refused = [each.refusal for each in retunings if each.refusal]
    assert len(refused) >= 11
    assert all("does not lie below 0" in reason for reason in refused)


def test_settings_that_are_as_good_stay():
    best = retune(corrected(), BLIND, QUICK).proposal
    retuning = retune(corrected(), best, QUICK)
    assert retuning.overall.current == retuning.overall.held_out
    assert retuning.proposal is None
    assert retuning.overall.difference.estimate == 0.0


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (corrected(pictured=False), "no correction has a picture"),
        (corrected(speakers=3, each=32), "3 speakers are too few"),
        (corrected(speakers=1, each=3), "3 utterances are too few"),
        (corrected(speakers=1, each=1), "one correction"),
    ],
)
def test_too_little_to_go_by_is_said(file, reason):
    retuning = retune(file, BLIND, QUICK)
    assert reason in retuning.refusal
    assert retuning.proposal is None
    assert any(reason in line for line in retuning.lines())


def test_one_speaker_is_held_out_by_utterance():
    retuning = retune(corrected(speakers=1, each=80), BLIND, QUICK)
    assert retuning.overall.unit == "utterance"
    assert retuning.refusal is None


def test_typed_references_that_get_worse_forbid_it():
    """The picture knows what was picked from lists, and misleads where people had to type."""
    listed, typed = corrected(each=60, hows=("picked",)), corrected(1, each=12, knows=0.1, hows=("typed",))
    both = replace(
        listed, utterances=(*listed.utterances, *(replace(u, id=f"t{u.id}") for u in typed.utterances))
    )
    retuning = retune(both, BLIND, QUICK)
    assert retuning.overall.difference.high < 0
    assert retuning.by_how["typed"].difference.low > 0
    assert "typed references alone" in retuning.refusal
    assert retune(listed, BLIND, QUICK).refusal is None


def test_scales_are_held_out_too():
    """With --tune-scale the gain is that of the scales, each chosen without the fold."""
    options = replace(QUICK, tune_scale=True)
    rng = np.random.default_rng(0)
    file = corrected()
    noisy = [
        replace(
            u,
            hypotheses=tuple(
                replace(h, score=h.score + 2 * rng.normal(), clip_score=h.clip_score + 0.03 * rng.normal())
                for h in u.hypotheses
            ),
        )
        for u in file.utterances
    ]
    retuning = retune(replace(file, utterances=tuple(noisy)), BLIND, options)
    scale = retuning.result.scale
    better = scale["cross_validated_wer"] < retuning.result.cross_validation["wer"]
    expected = scale["cross_validated_wer"] if better else retuning.result.cross_validation["wer"]
    assert retuning.overall.held_out == pytest.approx(expected, abs=1e-12)
    assert (retuning.result.fusion.asr_temperature, retuning.result.fusion.clip_scale) == (
        (scale["asr_temperature"], scale["clip_scale"]) if better else (1.0, 100.0)
    )


def shown(*ranks, pictured=True):
    return [
        {"text": str(rank), "rank_without_picture": rank, **({"clip_score": 0.2} if pictured else {})}
        for rank in ranks
    ]


def test_effort_by_hand():
    rows = [
        {"group": "confirmed", "rank": 0, "shown": shown(2, 0, 1), "taps": 1, "seconds": 2.0},
        {"group": "confirmed", "rank": 0, "shown": shown(0, 1, 2), "taps": 1, "seconds": 4.0},
        {"group": "confirmed", "rank": 0, "shown": shown(4, 0, 1), "taps": 1, "seconds": 3.0},
        {"group": "picked", "rank": 1, "shown": shown(1, 0, 2), "taps": 2, "seconds": 6.0},
        {"group": "typed", "shown": shown(0, 1, 2), "taps": 20, "seconds": 12.0},
        {"group": "none", "shown": shown(0, 1), "taps": 1, "seconds": 9.0},
        {"group": "typed", "shown": shown(0, 1, pictured=False), "taps": 30},
    ]
    report = effort(rows)
    assert report["by_how"]["confirmed"] == {"utterances": 3, "taps": 1, "seconds": 3.0}
    assert report["by_how"]["typed"] == {"utterances": 2, "taps": 25, "seconds": 12.0}
    cost = report["per_correct_sentence"]
    assert cost["all"] == {"utterances": 7, "taps": 56 / 6, "seconds": (9 + 6 + 12 + 12 + 9) / 6}
    assert cost["with_picture"] == {
        "utterances": 6, "right_first": 3, "right_in_list": 4, "mean_rank": 0.25,
        "taps": (1 + 1 + 1 + 2 + 20 + 1) / 5, "seconds": (3 * 3 + 6 + 12 + 9) / 5,
    }  # fmt: skip
    # Picked, confirmed, typed (a list of three would not hold it), confirmed, typed, given up.
    assert cost["without_picture"] == {
        "utterances": 6, "right_first": 2, "right_in_list": 3, "mean_rank": 2 / 3,
        "taps": (2 + 1 + 20 + 1 + 20 + 1) / 5, "seconds": (6 + 3 + 12 + 3 + 12 + 9) / 5,
    }  # fmt: skip
    # What a kind costs that nobody measured is not made up.
    untimed = [row for row in rows if row["group"] != "picked"]
    assert effort(untimed)["per_correct_sentence"]["without_picture"]["seconds"] is None
    assert effort([])["per_correct_sentence"]["all"] == {"utterances": 0, "taps": None, "seconds": None}


@pytest.fixture
def kept(tmp_path):
    """A folder as the server leaves it: two pictures a speaker, one sentence nobody typed."""
    store = CorrectionStore(tmp_path / "corrections")
    for number, row in enumerate(read_manifest(POCKET / "data" / "test" / "manifest.jsonl")[:10]):
        texts = ({"text": row.reference, "mean_logprob": -1.0, "clip_score": 0.2, "rank_without_picture": 1},)
        picked = Correction(f"s{number % 5}", "confirmed", row.reference, texts, 0, seconds=1.0, taps=1)
        correction = picked if number else replace(picked, how="none", reference="", rank=None)
        store.add(
            correction, SentFile(row.audio.read_bytes(), "a.ogg"), SentFile(row.image.read_bytes(), "p.webp")
        )
    return store


def test_the_command(pocket_bundle, kept, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "fusion.json").write_text("a proposal of other corrections")
    bundle = str(pocket_bundle.folder)
    command = [
        "retune", "--corrections", str(kept.folder), "--bundle", bundle, "--output", str(output),
        "--replicates", "200", "--precision", "fp32",
    ]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    report = json.loads((output / "retune.json").read_text())
    assert (report["corrections"], report["rejected"], report["recognised_by_another_bundle"]) == (9, 1, 9)
    assert report["overall"]["utterances"] == 9
    assert (output / "fusion.json").exists() == report["proposed"]
    if report["proposed"]:
        FusionSettings.load(output / "fusion.json")
    assert ("nothing is proposed: " in printed) != report["proposed"]
    assert "9 of 9 corrections were shown lists of another bundle" in printed
    assert report["effort"]["by_how"]["none"]["utterances"] == 1

    # Another run recognises what is new alone, and knows nothing of whom it was told to forget.
    before = {u.id: u for u in read_nbest(output / "nbest.jsonl").utterances}
    assert kept.forget("s1") == 2
    lines = (output / "nbest.jsonl").read_text().splitlines()
    doubtful = lines[-1].replace('"duration_s": ', '"duration_s": 9')
    (output / "nbest.jsonl").write_text("\n".join([*lines[:-1], doubtful]) + "\n")
    assert main(command) == 0
    after = read_nbest(output / "nbest.jsonl").utterances
    assert len(after) == 7
    assert all(u.speaker != "s1" for u in after)
    changed = [u.id for u in after if u.duration_s != before[u.id].duration_s]
    assert changed == [json.loads(doubtful)["id"]]  # it was kept, and not recognised again
    assert main([*command, "--num-beams", "2"]) == 0
    assert {len(u.hypotheses) for u in read_nbest(output / "nbest.jsonl").utterances} == {2}

    assert main([*command, "--alpha", "0"]) == 0  # as a server without the picture runs
    report = json.loads((output / "retune.json").read_text())
    assert report["current"]["alpha"] == 0
    assert report["overall"]["current"] == report["overall"]["speech_only"]

    assert main([*command, "--speaker", "s2"]) == 0
    assert json.loads((output / "retune.json").read_text())["corrections"] == 2
    capsys.readouterr()
    assert main([*command, "--speaker", "s1"]) != 0
    assert "no corrections of speaker 's1'" in capsys.readouterr().err
    assert main([*command, "--fusion", str(output / "fusion.json")]) != 0
    assert "give another --output" in capsys.readouterr().err
    assert main(["retune", "--corrections", str(tmp_path), "--bundle", bundle, "--output", str(output)]) != 0
    assert "--corrections" in capsys.readouterr().err


def test_the_pipeline_is_by_default_the_server_s():
    server, retuning, other = (argparse.ArgumentParser() for _ in range(3))
    serve.add_arguments(server)
    add_retune_arguments(retuning)
    add_server_pipeline_arguments(other)
    needed = ["--bundle", "b"]
    served = vars(server.parse_args(needed))
    compared = vars(retuning.parse_args([*needed, "--corrections", "c", "--output", "o"]))
    options = vars(other.parse_args(needed))
    assert {"alpha", "window", "distinct", "fusion"} <= set(options)
    assert {name: compared[name] for name in options} == {name: served[name] for name in options}
    assert compared["window"] == "auto"


def test_bench_tune_reads_the_folder_as_it_is(pocket_bundle, kept, tmp_path):
    manifest = str(kept.folder / "manifest.jsonl")
    assert main(
        ["tune", "--data", manifest, "--bundle", str(pocket_bundle.folder), "--output", str(tmp_path / "t"),
         "--replicates", "200", "--precision", "fp32"]
    ) == 0  # fmt: skip
    report = json.loads((tmp_path / "t" / "tune.json").read_text())
    assert report["num_samples"] == report["num_with_image"] == 9
    assert list(report["groups"]) == ["confirmed"]
