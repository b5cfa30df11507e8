import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands import latency as command
from bench.latency.architecture import ArchitectureSettings, outside_share, short_captions
from bench.latency.bundle import BundleSettings, measure_bundle, usable_utterances
from bench.latency.side_by_side import Rounds
from bench.latency.stage_timing import STAGES
from bench.latency.tables import report_text
from bench.measure.company import company
from bench.measure.metrics import circumstances
from bench.measure.timing import Stopwatch
from bench.peers.earsight import add_decoding_stages
from bench.peers.models import prepare_peers
from runtime.bundle.bundle import Bundle
from runtime.errors import ManifestError, OutputError, SettingsError
from tests.conftest import POCKET

DATA = POCKET / "data" / "test" / "manifest.jsonl"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "pocket"
    sources = ["--whisper", str(POCKET / "models" / "whisper"), "--clip", str(POCKET / "models" / "clip")]
    command = [sys.executable, "-m", "export", *sources, "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def report(bundle):
    settings = BundleSettings(
        bundle,
        DATA,
        threads=1,
        repeats=2,
        warm_up=1,
        limit=3,
        batches=(1, 2, 64),
        cold_runs=1,
        pareto_beams=(1, 2),
        max_new_tokens=20,
        distinct="words",
    )
    return command.make_report(lambda: measure_bundle(settings))


def test_every_stage_is_measured(report):
    assert set(report["stages"]) >= set(STAGES) - {"language"}
    for name, stage in report["stages"].items():
        # Every utterance twice; the decoder runs a step for each further token.
        assert (stage["count"] == 6) is (name != "step"), name
        assert len(stage["raw_s"]) == stage["count"]
        assert not stage["percentiles"]["p99"]["supported"]


def test_stages_add_up_to_less_than_a_few_times_the_whole(report):
    stages = report["stages"]
    parts = sum(sum(stages[name]["raw_s"]) for name in stages if name != "whole")
    # Measured in calls of their own, so noise may tip either way; a stage that were counted twice or left out
    # would still show on a machine that is busy.
    assert 0.2 < parts / sum(stages["whole"]["raw_s"]) < 5


def test_report_states_what_was_in_force(report, bundle):
    assert report["schema"] == "earsight.latency/1"
    assert report["settings"]["precision"] == "int8"
    assert report["settings"]["providers"]["decoder"] == ["CPUExecutionProvider"]
    assert report["settings"]["intra_op_threads"] == 1
    assert report["bundle"]["name"] == json.loads((bundle / "bundle.json").read_text())["name"]
    assert len(report["bundle"]["sha256"]) == 64
    assert report["system"]["packages"]["onnxruntime"]


def test_report_states_what_was_measured(report):
    expected = {"window": "full", "distinct": "words", "manifest": str(DATA), "image_cache": None}
    expected |= {"max_new_tokens": 20, "language": None, "beams": 5}
    assert {name: report["settings"][name] for name in expected} == expected
    other = report | {"settings": report["settings"] | {"distinct": "tokens", "window": "short"}}
    before, after = circumstances(report), circumstances(other)
    assert {name for name in before if before[name] != after[name]} == {
        "settings.distinct",
        "settings.window",
    }


def test_throughput_cold_start_and_real_time_factor(report):
    assert [row["batch"] for row in report["throughput"]] == [1, 2]  # 64 utterances are not there
    assert report["throughput"][1]["utterances"] == 2  # the third fills no batch
    assert set(report["cold_start"]["stages"]) == {"import", "sessions", "first"}
    assert report["peak_memory_bytes"] > 10_000_000
    assert report["rtf"]["corpus"] == pytest.approx(1 / report["rtfx"])


def test_pareto_covers_beams_and_precisions(report):
    assert {(row["precision"], row["beams"]) for row in report["pareto"]} == {
        (precision, beams) for precision in ("fp32", "int8") for beams in (1, 2)
    }
    assert any(row["on_front"] for row in report["pareto"])
    assert report["normalizer"]["name"] == "words"
    assert all(row["notebook_wer"] is not None for row in report["pareto"])


def test_tables_hold_every_stage_and_mark_thin_percentiles(report):
    text = report_text(report)
    assert all(name in text for name in report["stages"])
    assert "?" in text
    assert "RTFx" in text


def test_report_is_json(report, tmp_path):
    path = command.write_report(report, tmp_path / "new" / "folder")
    assert json.loads(path.read_text()) == json.loads(json.dumps(report))


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--output"):
        command.write_report({}, tmp_path / "file")


def test_audio_beyond_the_window_is_left_out_and_counted(bundle):
    utterances, durations, too_long = usable_utterances(BundleSettings(bundle, DATA, limit=None), 3.0)
    assert too_long > 0
    assert len(utterances) == len(durations) == len(DATA.read_text().splitlines()) - too_long
    assert max(durations) <= 3.0
    with pytest.raises(ManifestError, match="at most"):
        usable_utterances(BundleSettings(bundle, DATA), 0.001)


def test_limit_spreads_over_the_manifest(bundle):
    every, _, _ = usable_utterances(BundleSettings(bundle, DATA, limit=None), 30)
    some, _, _ = usable_utterances(BundleSettings(bundle, DATA, limit=4), 30)
    assert [utterance.id for utterance in some] == [every[i * len(every) // 4].id for i in range(4)]


# -- arithmetic and settings --------------------------------------------------------------------------------


def test_decoding_is_split_into_prompt_steps_and_the_rest():
    watch = Stopwatch()
    add_decoding_stages(watch, [0.5, 0.1, 0.2], decoding=1.0)
    assert watch.raw("prompt") == [0.5]
    assert watch.raw("step") == [0.1, 0.2]
    assert watch.raw("bookkeeping") == pytest.approx([0.2])


def test_share_outside_onnxruntime_is_a_median_over_runs():
    share = outside_share({"bookkeeping": [0.1, 0.2, 0.9], "decoding": [1.0, 1.0, 1.0]})
    assert share == {"share": 0.2, "least": 0.1, "greatest": 0.9}


def test_captions_are_reproducible_and_short():
    texts = short_captions(64, seed=1)
    assert texts == short_captions(64, seed=1)
    assert {len(text) for text in texts} <= set(range(4, 13))


def parse(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_architecture_arguments():
    args = parse(
        "--architecture",
        "whisper-small",
        "--against",
        "ctranslate2,optimum",
        "--threads",
        2,
        "--output",
        "out",
    )
    settings = command.architecture_settings(args)
    assert settings.systems() == [
        "earsight-int8",
        "earsight-fp32",
        "ctranslate2-int8",
        "ctranslate2-fp32",
        "optimum-fp32",
    ]
    assert (settings.steps, settings.beams, settings.rounds.measured) == (32, 5, 10)


def test_clip_architecture_has_its_own_peers():
    settings = ArchitectureSettings("clip-vit-base-patch32", ("transformers",), ("int8",), rounds=Rounds())
    assert settings.systems() == ["earsight-int8", "transformers-fp32"]
    with pytest.raises(SettingsError, match="ctranslate2"):
        ArchitectureSettings("clip-vit-base-patch32", ("ctranslate2",)).systems()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "b"], "--data"),
        (["--bundle", "b", "--data", "d", "--busy", "2"], "--busy"),
        (["--bundle", "b", "--data", "d", "--checkpoint", "c"], "--checkpoint"),
        (["--bundle", "b", "--data", "d", "--models", "m"], r"--models \(which belongs to --against\)"),
        (["--bundle", "b", "--data", "d", "--against", "notebook"], "notebook"),
        (["--bundle", "b", "--data", "d", "--against", "optimum", "--busy", "-1"], "busy"),
        (["--bundle", "b", "--against", "optimum"], "--data"),
        (["--bundle", "b", "--data", "d", "--precision", "fp32,int8"], "--pareto"),
        (["--bundle", "b", "--data", "d", "--batches", "1,x"], "whole numbers"),
        (["--bundle", "b", "--data", "d", "--beams", "0"], "beams"),
        (["--bundle", "b", "--data", "d", "--limit", "0"], "limit"),
        (["--architecture", "whisper-tiny", "--data", "d"], "--data"),
        (["--architecture", "whisper-tiny", "--batch", "0"], "--batch"),
        (["--architecture", "whisper-tiny", "--repeats", "0"], "rounds"),
        (["--architecture", "whisper-tiny", "--against", "whisper.cpp"], "whisper.cpp"),
        (["--architecture", "whisper-tiny", "--precision", "int3"], "int3"),
    ],
)
def test_unusable_arguments_are_refused(arguments, message, tmp_path):
    args = parse(*arguments, "--output", tmp_path)
    with pytest.raises(SettingsError, match=message):
        command.run(args)
    assert not list(tmp_path.iterdir())


BUNDLE = ("--bundle", "b", "--data", "d")
PEERS = (*BUNDLE, "--against", "transformers")
SPEECH, TEXTS = ("--architecture", "whisper-tiny"), ("--architecture", "clip-vit-base-patch32")
ALONE = {
    "--provider": "cpu",
    "--window": "full",
    "--distinct": "tokens",
    "--max-new-tokens": 9,
    "--image-cache": "c.npz",
    "--batches": "1,2,4,8",
    "--cold-runs": 3,
    "--pareto": "1",
}
RANDOM = {"--steps": 32, "--seconds": 4, "--batch": 1, "--texts": 64, "--slow-repeats": 1, "--seed": 0}


@pytest.mark.parametrize(
    ("mode", "option", "value"),
    [
        *((mode, *pair) for mode in (PEERS, SPEECH) for pair in ALONE.items()),
        *((mode, *pair) for mode in (BUNDLE, PEERS) for pair in RANDOM.items()),
        *((SPEECH, *pair) for pair in {"--language": "en", "--limit": 50, "--busy": 0}.items()),
        *((SPEECH, *pair) for pair in {"--texts": 64, "--slow-repeats": 1}.items()),
        *((TEXTS, *pair) for pair in {"--steps": 32, "--beams": 5, "--batch": 1, "--seconds": 4}.items()),
    ],
)
def test_options_of_another_mode_are_refused_even_at_their_default(mode, option, value, tmp_path):
    with pytest.raises(SettingsError, match=rf"does not read {option} \(which belongs to --"):
        command.run(parse(*mode, option, value, "--output", tmp_path))


def test_every_mode_reads_its_own_options():
    args = parse(*BUNDLE, "--output", "out", *(f"{name}={value}" for name, value in ALONE.items()))
    alone = command.bundle_settings(args)
    assert (alone.batches, alone.pareto_beams, alone.max_new_tokens) == ((1, 2, 4, 8), (1,), 9)
    assert command.bundle_settings(parse(*BUNDLE, "--output", "out")) == BundleSettings(Path("b"), Path("d"))
    beside = command.clip_settings(parse(*PEERS, "--busy", 2, "--limit", 7, "--output", "out"))
    assert (beside.busy, beside.bundle.limit, beside.peers) == (2, 7, ("transformers",))
    notebook = parse(*SPEECH, "--against", "notebook", "--slow-repeats", 2, "--output", "out")
    assert command.architecture_settings(notebook).rounds.slow == 2


def test_help_shows_the_defaults():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    text = " ".join(parser.format_help().split())
    assert "of the encoder (default full)" in text
    assert "Default(" not in text


def test_either_bundle_or_architecture():
    with pytest.raises(SystemExit):
        parse("--output", "out")
    with pytest.raises(SystemExit):
        parse("--output", "out", "--bundle", "b", "--architecture", "whisper-tiny")


def test_busy_machine_and_unstable_stages_are_warned_of(report):
    busy = report | {"system": report["system"] | {"load_average": [64.0]}, "unstable_stages": ["encoder"]}
    warnings = command.warnings(busy)
    assert any("busy" in text for text in warnings)
    assert any("encoder varied" in text for text in warnings)


@pytest.mark.slow
def test_side_by_side_with_a_peer(tmp_path):
    pytest.importorskip("ctranslate2")
    args = parse(
        *(
            "--architecture",
            "whisper-tiny",
            "--against",
            "ctranslate2,transformers",
            "--steps",
            4,
            "--threads",
            1,
        ),
        *("--repeats", 2, "--warm-up", 0, "--models", tmp_path / "models", "--output", tmp_path / "out"),
    )
    assert command.run(args) == 0
    report = json.loads((tmp_path / "out" / "latency.json").read_text())
    names = [system["name"] for system in report["systems"]]
    assert names == [
        "earsight-int8",
        "earsight-fp32",
        "ctranslate2-int8",
        "ctranslate2-fp32",
        "transformers-fp32",
    ]
    # The same weights in the same precision must find the same hypotheses.
    assert report["hypotheses_shared"]["share"]["earsight-fp32"] == 1.0
    assert all(system["peak_memory_bytes"] > 0 for system in report["systems"])
    assert report["floor"]["earsight-int8"]["step_over_read"]["value"] > 1


@pytest.fixture(scope="module")
def beside_peers(bundle, tmp_path_factory):
    """The pocket bundle and PyTorch, which runs the checkpoint that the bundle was made of."""
    folder = tmp_path_factory.mktemp("clips")
    args = parse(
        *("--bundle", bundle, "--data", DATA, "--against", "transformers", "--limit", 3, "--busy", 1),
        *("--checkpoint", POCKET / "models" / "whisper", "--models", folder / "models"),
        *("--repeats", 2, "--warm-up", 1, "--threads", 1, "--language", "en", "--output", folder / "out"),
    )
    assert command.run(args) == 0
    return folder / "out"


def test_peers_of_a_bundle_run_its_checkpoint_on_the_same_clips(beside_peers):
    report = json.loads((beside_peers / "latency.json").read_text())
    names = [system["name"] for system in report["systems"]]
    assert names == ["earsight-int8", "earsight-fp32", "transformers-fp32"]
    assert report["data"]["utterances"] == 3
    assert report["settings"]["busy_processes"] == 1
    assert (report["settings"]["manifest"], report["settings"]["language"]) == (str(DATA), "en")
    for system in report["systems"]:
        assert system["stages"]["whole"]["count"] == 6
        assert len(system["warm_up_raw_s"]["whole"]) == 1
    # The same weights in the same precision: texts that end by themselves are the same, and their errors.
    assert report["texts"]["earsight-fp32"] == report["texts"]["transformers-fp32"]
    assert any(report["texts"]["earsight-fp32"])
    accuracy = report["accuracy"]
    assert accuracy["earsight-fp32"]["wer"] == accuracy["transformers-fp32"]["wer"]
    assert accuracy["earsight-fp32"]["first_changed"] == 0.0
    wanted = ("transformers-fp32", "earsight-fp32", "whole")
    ratio = next(
        entry for entry in report["ratios"] if (entry["system"], entry["against"], entry["stage"]) == wanted
    )
    assert sorted(ratio["per_round"])[2] <= ratio["median_of_ratios"] <= sorted(ratio["per_round"])[3]


def test_clips_are_tabled_and_drawn(beside_peers):
    report = json.loads((beside_peers / "latency.json").read_text())
    text = report_text(report)
    assert "1 busy processes" in text
    assert "earsight-fp32 is" in text
    assert (beside_peers / "wer-over-ms.svg").read_text().count("earsight-int8") == 1


def test_peers_of_another_checkpoint_are_refused(bundle, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="--checkpoint"):
        prepare_peers(Bundle.open(bundle), other, ["transformers"], tmp_path / "models")
    with pytest.raises(SettingsError, match="not packaged"):
        prepare_peers(Bundle.open(bundle), None, ["transformers"], tmp_path / "models")


def test_company_ends_with_the_body():
    with company(2) as neighbours:
        assert all(neighbour.poll() is None for neighbour in neighbours)
    assert all(neighbour.poll() is not None for neighbour in neighbours)
