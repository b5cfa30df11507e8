import argparse
import itertools
import json
import random
from dataclasses import replace

import pytest

from bench.accuracy.comparison import compare_accuracy, kendall_tau_b, list_change, share_interval
from bench.commands import accuracy as command
from bench.nbest.records import NBestHeader, NBestHypothesis, NBestUtterance
from bench.nbest.writer import NBestWriter
from bench.text.normalizers import normalizer
from runtime.errors import NBestFileError, SettingsError
from tests.conftest import POCKET


def utterance(name, entries, reference="a cat", cosines=None):
    cosines = cosines or [None] * len(entries)
    hypotheses = tuple(
        NBestHypothesis(text, score, c) for (text, score), c in zip(entries, cosines, strict=True)
    )
    return NBestUtterance(id=name, reference=reference, hypotheses=hypotheses)


FIRST = utterance("u1", [("a cat", -0.1), ("a bat", -0.3), ("the cat", -0.5)])
SWAPPED = utterance("u1", [("a bat", -0.2), ("a cat", -0.25), ("a hat", -0.6)])


def test_kendall_tau_of_known_orders():
    assert kendall_tau_b([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert kendall_tau_b([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert kendall_tau_b([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert kendall_tau_b([1, 1], [1, 2]) is None
    assert kendall_tau_b([1.0], [1.0]) is None


def test_kendall_tau_equals_its_definition_with_ties():
    source = random.Random(3)
    for _ in range(200):
        n = source.randint(2, 7)
        x, y = ([source.randint(0, 3) for _ in range(n)] for _ in range(2))
        pairs = list(itertools.combinations(range(n), 2))
        concordant = sum((x[i] - x[j]) * (y[i] - y[j]) > 0 for i, j in pairs)
        discordant = sum((x[i] - x[j]) * (y[i] - y[j]) < 0 for i, j in pairs)
        untied = sum(x[i] != x[j] for i, j in pairs) * sum(y[i] != y[j] for i, j in pairs)
        tau = kendall_tau_b(x, y)
        assert tau == (pytest.approx((concordant - discordant) / untied**0.5) if untied else None)


def test_change_of_one_list():
    change = list_change(FIRST, SWAPPED)
    assert change.first_changed
    assert change.kendall_tau == -1
    assert change.overlap == pytest.approx(2 / 3)
    assert change.score_difference == pytest.approx(0.15)


def test_empty_lists():
    empty = utterance("u1", [])
    assert list_change(empty, empty).overlap == 1.0
    assert not list_change(empty, empty).first_changed
    assert list_change(FIRST, empty).first_changed
    assert list_change(FIRST, empty).overlap == 0.0


def test_equal_lists_change_nothing():
    result = compare_accuracy([FIRST], [FIRST], normalizer("notebook"))
    assert result["wer_difference"] == 0
    assert result["first_changed"] == 0
    assert result["kendall_tau"]["mean"] == 1
    assert result["overlap"]["least"] == 1
    assert result["score_difference"]["greatest"] == 0
    assert result["best_alpha_change"] is None  # no picture


def test_figures_of_changed_lists():
    other = utterance("u2", [("a dog", -0.1)], reference="a dog")
    result = compare_accuracy([FIRST, other], [other, SWAPPED], normalizer("notebook"))
    assert result["reference"]["wer"] == 0
    assert result["candidate"]["wer"] == 0.25  # "a bat" for "a cat": one error in four words
    assert result["wer_difference"] == 0.25
    assert result["first_changed"] == 0.5
    assert result["kendall_tau"]["count"] == 1  # one hypothesis has no order


def test_the_notebooks_figures_stand_beside():
    spoken = replace(FIRST, reference="A cat.")
    result = compare_accuracy([spoken], [replace(SWAPPED, reference="A cat.")], normalizer("words"))
    assert (result["reference"]["wer"], result["candidate"]["wer"]) == (0.0, 0.5)
    notebook = result["notebook"]
    assert (notebook["reference"]["wer"], notebook["candidate"]["wer"]) == (0.5, 0.5)
    assert (result["wer_difference"], notebook["wer_difference"]) == (0.5, 0.0)


def test_figures_by_length():
    short, long = replace(FIRST, duration_s=1.5), replace(FIRST, id="u2", duration_s=20.0)
    changed = replace(SWAPPED, id="u2", duration_s=20.0)
    classes = compare_accuracy([short, long], [short, changed], normalizer("notebook"))["by_length"]
    assert [(each["seconds"], each["count"]) for each in classes] == [("0 to 2 s", 1), ("16 s and more", 1)]
    assert [each["first_changed"] for each in classes] == [0.0, 1.0]
    assert [each["wer"] for each in classes] == [[0.0, 0.0], [0.0, 0.5]]
    assert [each["wer_difference"] for each in classes] == [0.0, 0.5]


def test_best_alpha_moves_with_the_cosines():
    # The picture knows better: any alpha above the crossing gives no error, alpha 0 one.
    entries = [("a bat", -0.1), ("a cat", -0.2)]
    weak = utterance("u1", entries, cosines=[0.20, 0.21])
    strong = utterance("u1", entries, cosines=[0.20, 0.30])
    result = compare_accuracy([weak], [strong], normalizer("notebook"))
    assert result["reference"]["best_wer"] == result["candidate"]["best_wer"] == 0
    assert result["reference"]["wer"] == 0.5
    assert result["reference"]["best_alpha"] == 0.1  # crossing at 0.0998
    assert result["candidate"]["best_alpha"] == 0.05  # crossing at 0.0476
    assert result["best_alpha_change"] == pytest.approx(-0.05)


@pytest.mark.parametrize(("count", "total"), [(0, 10), (1, 33), (9, 264), (10, 10)])
def test_the_ends_of_the_interval_lie_two_of_their_own_deviations_away(count, total):
    low, high = share_interval(count, total)
    assert low - 1e-9 <= count / total <= high + 1e-9
    for end in (low, high):
        assert (count / total - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / total, abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "total", "said"), [(7, 264, ""), (9, 264, "undecided"), (16, 264, "crossed")]
)
def test_a_limit_is_crossed_where_the_sample_can_tell(tmp_path, capsys, changed, total, said):
    for name, other in (("a.jsonl", FIRST), ("b.jsonl", SWAPPED)):
        with NBestWriter(tmp_path / name, NBestHeader()) as writer:
            for i in range(total):
                writer.write(replace(other if i < changed else FIRST, id=f"u{i}"))
    arguments = ["--nbest", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--output", tmp_path / "out"]
    status = command.run(parse(*arguments, "--max-wer-difference", 1))
    printed = capsys.readouterr().out
    assert status == (said == "crossed")
    assert {word for word in ("crossed", "undecided") if f"{word}: " in printed} == (
        {said} if said else set()
    )


def test_different_utterances_are_refused():
    with pytest.raises(NBestFileError, match="u9"):
        compare_accuracy([FIRST], [utterance("u9", [("a", -1.0)])], normalizer("notebook"))


def parse(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


@pytest.mark.parametrize(("candidate", "status"), [(FIRST, 0), (SWAPPED, 1)])
def test_command_on_nbest_files(tmp_path, capsys, candidate, status):
    for name, entry in (("a.jsonl", FIRST), ("b.jsonl", candidate)):
        with NBestWriter(tmp_path / name, NBestHeader({"name": name}, {})) as writer:
            writer.write(entry)
    args = parse("--nbest", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--output", tmp_path / "out")
    assert command.run(args) == status
    report = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert report["schema"] == "earsight.accuracy/1"
    assert bool(report["crossed"]) is bool(status)
    assert (report["normalizer"]["name"], report["notebook"]["normalizer"]["name"]) == ("words", "notebook")
    assert ("'a cat' -> 'a bat'" in capsys.readouterr().out) is bool(status)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output", "out"],
        ["--output", "out", "--bundle", "b", "--data", "d", "--precision", "fp32"],
        [
            "--output",
            "out",
            "--bundle",
            "b",
            "--data",
            "d",
            "--window",
            "auto",
            "--reference-window",
            "auto",
            "--precision",
            "fp32",
        ],
        ["--output", "out", "--bundle", "b", "--nbest", "a", "b"],
        ["--output", "out", "--bundle", "b", "--data", "d", "--limit", "0"],
        ["--output", "out", "--bundle", "b", "--data", "d", "--limit", "-1"],
    ],
)
def test_contradicting_arguments_are_refused(arguments):
    with pytest.raises(SettingsError):
        command.run(parse(*arguments))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--limit", 3),
        ("--precision", "int8"),  # its default
        ("--reference-precision", "fp16"),
        ("--window", "auto"),
        ("--reference-window", "full"),
        ("--beams", 5),
        ("--max-new-tokens", 9),
        ("--threads", 2),
        ("--image-cache", "c.npz"),
    ],
)
def test_nbest_files_take_no_options_of_recognition(option, value):
    with pytest.raises(SettingsError, match=rf"--nbest does not read {option} \(which belongs to --bundle\)"):
        command.run(parse("--nbest", "a", "b", "--output", "out", option, value))


def test_limit_takes_the_first_rows_and_is_told(pocket_bundle, tmp_path, capsys):
    data = POCKET / "data" / "test" / "manifest.jsonl"
    args = ["--bundle", pocket_bundle.folder, "--data", data, "--output", tmp_path, "--limit", 2]
    status = command.run(parse(*args, "--max-new-tokens", 12, "--max-wer-difference", 9))
    report = json.loads((tmp_path / "accuracy.json").read_text())
    assert (report["num_samples"], report["settings"]["limit"]) == (2, 2)
    assert status == bool(report["crossed"])
    assert "2 utterances" in capsys.readouterr().out
