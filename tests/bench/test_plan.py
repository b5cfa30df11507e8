"""The model of cost: what it finds in runs of known cost, what it says of others, what it refuses."""

import json
from dataclasses import asdict, replace

import pytest

from bench.commands.main import main as bench_main
from bench.nbest.blocks import BLOCK
from bench.nbest.run_record import SCHEMA, RunRecord
from bench.scale.cost import fit, plan, predict
from runtime.errors import SettingsError

PER_UTTERANCE, PER_SECOND, CONTENTION, START, DRIVER = 0.5, 0.1, 0.2, 3.0, 0.001


def record(utterances, mean_s, workers, provider="cpu", **more):
    """A run that costs what the model says, by its parameters above."""
    speech = utterances * mean_s
    alone = PER_UTTERANCE * utterances + PER_SECOND * speech
    work = alone * (1 + CONTENTION * (workers - 1))
    tail = work / utterances * BLOCK / 2 if workers > 1 else 0.0
    facts = {
        "header": {"settings": {"provider": provider}},
        "crew": "workers" if workers > 1 else "in process",
        "workers": workers,
        "threads": 1,
        "rows": utterances,
        "utterances": utterances,
        "speech_s": speech,
        "audio_bytes": int(32_000 * speech),
        "output_bytes": 1000 * utterances,
        "wall_s": START + work / workers + tail,
        "start_s": START,
        "work_s": work,
        "cpu_s": alone,
        "driver_cpu_s": DRIVER * utterances,
        "peak_memory_bytes": 500_000_000,
        "driver_memory_bytes": 70_000_000 + 2000 * utterances,
        "cpu": "a processor",
    }
    return RunRecord(**{**facts, **more})


RUNS = [record(100, 3.0, 1), record(50, 10.0, 1), record(100, 3.0, 2), record(300, 3.0, 4)]


def test_the_fit_finds_what_the_runs_were_made_with():
    model = fit(RUNS)
    assert model.per_utterance_s == pytest.approx(PER_UTTERANCE, rel=1e-6)
    assert model.per_speech_s == pytest.approx(PER_SECOND, rel=1e-6)
    assert model.contention == pytest.approx(CONTENTION)
    assert model.start_s == START
    assert model.driver_s == pytest.approx(DRIVER)
    assert model.driver_bytes == pytest.approx((70e6, 2000.0), rel=1e-6)
    assert model.output_bytes == pytest.approx(1000)
    assert model.audio_bytes == pytest.approx(32_000)
    assert not model.one_length
    assert (model.most_workers, model.on_gpu) == (4, False)


def test_a_run_that_was_not_fitted_on_is_predicted():
    other = record(777, 5.0, 3)
    expected = predict(fit(RUNS), other.utterances, other.speech_s, other.workers, other.workers)
    assert expected.wall_s == pytest.approx(other.wall_s, rel=1e-6)
    assert expected.work_s == pytest.approx(other.work_s, rel=1e-6)


def test_a_plan_by_hand():
    """1,000 hours in utterances of 5 s are 720,000; each costs 1 s alone, 1.2 s with a neighbour."""
    found = plan(fit(RUNS), 1000, 8, per_machine=2, utterance_s=5.0)
    assert found.utterances == pytest.approx(720_000)
    assert found.machines == 4
    assert found.work_s == pytest.approx(720_000 * 1.2, rel=1e-6)
    assert found.wall_s == pytest.approx(START + 720_000 * 1.2 / 8 + 1.2 * BLOCK / 2, rel=1e-6)
    assert found.cpu_s_per_hour == pytest.approx(720, rel=1e-2)
    assert found.gpu_s_per_hour is None
    assert found.machine_bytes == 1e9
    assert found.output_bytes == pytest.approx(720e6)
    assert found.bottleneck == "workers"
    assert found.driver_limit == pytest.approx(1200, rel=1e-6)


def test_the_bottleneck_moves_to_the_driver():
    model = fit(RUNS)
    slow, fast, faster = (plan(model, 1000, n, per_machine=2, utterance_s=5.0) for n in (600, 2400, 4800))
    assert (slow.bottleneck, fast.bottleneck, faster.bottleneck) == ("workers", "driver", "driver")
    assert fast.wall_s == faster.wall_s == pytest.approx(START + 720, rel=1e-6)


def test_runs_on_a_gpu_cost_gpu_seconds():
    model = fit([record(100, 3.0, 1, "cuda"), record(100, 9.0, 1, "cuda")])
    assert plan(model, 1, 1, utterance_s=5.0).gpu_s_per_hour == pytest.approx(720)


def test_one_length_of_utterances_says_nothing_of_others():
    model = fit([record(100, 3.0, 1), record(200, 3.1, 1)])
    assert model.one_length
    assert plan(model, 1, 1).work_s == pytest.approx(1200 * 0.8, rel=0.02)
    with pytest.raises(SettingsError, match="record runs of another length"):
        plan(model, 1, 1, utterance_s=10.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hours": 0}, "got 0 hours"),
        ({"hours": float("nan")}, "got nan hours"),
        ({"workers": 0}, "0 workers"),
        ({"utterance_s": -1.0}, "utterances of -1.0 s"),
        ({"per_machine": 5, "workers": 8}, "at most 4 were measured"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        plan(fit(RUNS), **{"hours": 1, "workers": 1, **arguments})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"threads": 2}, "differ in threads: 1 and 2"),
        ({"cpu": "another"}, "differ in cpu"),
        ({"header": {"settings": {"provider": "cuda"}}}, "differ in header"),
        ({"utterances": 0}, "recognised nothing"),
        ({"utterances": 10}, "recognised 10 of 50 rows"),
    ],
)
def test_runs_that_cannot_be_fitted_together_are_refused(more, message):
    with pytest.raises(SettingsError, match=message):
        fit([RUNS[0], replace(RUNS[1], **more)])
    with pytest.raises(SettingsError, match="no run was given"):
        fit([])


def written(folder, name, one):
    one.write(folder / name)
    return str(folder / name)


def test_command(tmp_path, capsys):
    records = [written(tmp_path, f"{i}.json", one) for i, one in enumerate(RUNS)]
    assert RunRecord.read(tmp_path / "0.json") == RUNS[0]
    against = written(tmp_path, "against.json", record(777, 5.0, 3))
    report = tmp_path / "plan.json"
    command = ["plan", "--records", *records, "--hours", "1000", "--workers", "1", "8"]
    assert bench_main([*command, "--against", against, "--output", str(report)]) == 0
    printed = capsys.readouterr().out
    assert ": 1.000" in printed
    assert "1,000 hours of speech" in printed
    content = json.loads(report.read_text())
    assert [each["workers"] for each in content["plans"]] == [1, 8]
    assert content["against"]["measured_s"] == pytest.approx(content["against"]["wall_s"])
    assert content["model"]["contention"] == pytest.approx(CONTENTION)


def test_one_process_says_nothing_of_a_driver(tmp_path, capsys):
    alone = written(tmp_path, "alone.json", RUNS[0])
    report = tmp_path / "plan.json"
    assert bench_main(["plan", "--records", alone, "--hours", "1", "--output", str(report)]) == 0
    assert "was not measured: record a run with --workers" in capsys.readouterr().out
    assert json.loads(report.read_text())["plans"][0]["driver_limit"] is None


def test_command_refuses(tmp_path, capsys):
    good = written(tmp_path, "good.json", RUNS[0])
    broken = {"schema": SCHEMA, **asdict(RUNS[0]), "work_s": "much"}
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    for arguments, message in (
        ([good], "neither --hours nor --against"),
        ([str(tmp_path / "none.json"), "--hours", "1"], "no record of a run"),
        ([str(tmp_path / "broken.json"), "--hours", "1"], "work_s is 'much'"),
    ):
        assert bench_main(["plan", "--records", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
