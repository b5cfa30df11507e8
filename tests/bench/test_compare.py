import argparse
import json
import math

import pytest

from bench.commands.compare import (
    Change,
    ComparisonError,
    Threshold,
    add_arguments,
    compare,
    run,
    table,
)
from bench.latency.pareto import Point, pareto_front, pareto_report, pareto_table
from bench.measure.metrics import larger_is_better, metrics
from runtime.errors import SettingsError

REPORT = {
    "schema": "earsight.latency/1",
    "system": {"cpu": {"cores": 2}, "load_average": [0.1]},
    "rtfx": 10.0,
    "stages": {"whole": {"percentiles": {"p50": {"seconds": 1.0, "supported": False}}, "raw_s": [1.0, 2.0]}},
    "systems": [{"name": "a", "peak_memory_bytes": 100}, {"name": "b", "peak_memory_bytes": 200}],
    "grid_results": [{"alpha": 0.0, "wer": 0.5}, {"alpha": 0.05, "wer": 0.4}],
}
WHOLE = "stages.whole.percentiles.p50.seconds"


def changed(**values):
    report = json.loads(json.dumps(REPORT))
    report.update(values)
    return report


def slower(factor):
    return changed(stages={"whole": {"percentiles": {"p50": {"seconds": factor}}}})


def by_name(changes):
    return {change.name: change for change in changes}


def test_metrics_are_numbers_by_path_without_raw_values_and_circumstances():
    assert metrics(REPORT) == {
        "rtfx": 10.0,
        WHOLE: 1.0,
        "systems[a].peak_memory_bytes": 100.0,
        "systems[b].peak_memory_bytes": 200.0,
        "grid_results[0.0].wer": 0.5,
        "grid_results[0.05].wer": 0.4,
    }


def test_equal_reports_have_no_change():
    changes = compare(REPORT, REPORT, [Threshold("*", 0)])
    assert not any(change.crossed for change in changes)
    assert all(change.percent == 0 for change in changes)


@pytest.mark.parametrize(("factor", "crossed"), [(1.10, False), (1.11, True), (0.5, False)])
def test_larger_latency_crosses_its_threshold(factor, crossed):
    change = by_name(compare(REPORT, slower(factor), [Threshold(WHOLE, 10 + 1e-9)]))[WHOLE]
    assert change.crossed is crossed


def test_smaller_throughput_crosses_its_threshold():
    assert by_name(compare(REPORT, changed(rtfx=8.9), [Threshold("rtfx", 10)]))["rtfx"].crossed
    assert not by_name(compare(REPORT, changed(rtfx=20.0), [Threshold("rtfx", 10)]))["rtfx"].crossed


def test_list_entries_are_matched_by_name_not_by_place():
    change = by_name(compare(REPORT, changed(systems=REPORT["systems"][::-1])))[
        "systems[a].peak_memory_bytes"
    ]
    assert (change.before, change.after) == (100.0, 100.0)


def test_later_threshold_wins_and_brackets_stand_for_themselves():
    thresholds = [Threshold("systems*", 1), Threshold("systems[a].*", 50)]
    changes = by_name(compare(REPORT, REPORT, thresholds))
    assert changes["systems[a].peak_memory_bytes"].limit == 50
    assert changes["systems[b].peak_memory_bytes"].limit == 1


def test_lost_metric_crosses_every_threshold():
    lost = {key: value for key, value in REPORT.items() if key != "rtfx"}
    change = by_name(compare(REPORT, lost, [Threshold("rtfx", 1_000)]))["rtfx"]
    assert change.crossed
    assert change.percent is None


def test_growth_from_zero_is_infinite():
    assert Change("wer", 0.0, 0.1).percent == math.inf
    assert Change("wer", 0.0, 0.1, limit=5).crossed
    assert Change("wer", 0.0, 0.0).percent == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rtfx", True),
        ("throughput[4].utterances_per_s", True),
        ("ratios[ctranslate2-int8,earsight-int8,whole].value", True),
        ("kendall_tau.mean", True),
        ("outside_onnxruntime.earsight-int8.share", False),
        ("stages.whole.mean_s", False),
        ("best_wer", False),
        ("systems[a].peak_memory_bytes", False),
    ],
)
def test_direction_of_improvement(name, expected):
    assert larger_is_better(name) is expected


def test_other_schema_is_refused():
    with pytest.raises(ComparisonError, match=r"earsight\.tune/1"):
        compare(REPORT, changed(schema="earsight.tune/1"))


TUNED = {
    "schema": "earsight.tune/1",
    "normalizer": {"name": "words"},
    "options": {"seed": 0},
    "cross_validation": {
        "folds": [
            {"held_out": "anna", "alpha": 0.1, "wer": 0.5},
            {"held_out": "bert", "alpha": 0.1, "wer": 0.3},
        ]
    },
    "scale": {
        "grid": [{"asr_temperature": t, "clip_scale": 100.0, "alpha": 0.2, "wer": t / 10} for t in (1.0, 2.0)]
    },
    "confidence": {
        "units": 2,
        "band": [{"alpha": 0.123, "wer": 0.3}],
        "best_alpha": {"median": 0.1, "shares": [{"alpha": 0.1, "share": 1.0}]},
    },
    "groups": {"count": {"wer": 0.5, "oracle_wer": 0.2}, "kendall.overlap": {"wer": 0.5}},
    "speakers": {"dr. ratios": {"wer": 0.4, "distinct_texts": 4.0}, "notebook": {"wer": 0.4}},
    "improved": [{"id": "u1", "errors_before": 2}],
}


def test_folds_scales_and_lengths_have_names_of_their_own():
    found = metrics(TUNED)
    assert found["cross_validation.folds[anna].wer"] == 0.5
    assert found["cross_validation.folds[bert].wer"] == 0.3
    assert found["cross_validation.folds[bert].alpha"] == 0.1
    assert found["scale.grid[1.0,100.0].wer"] == 0.1
    assert found["scale.grid[2.0,100.0].wer"] == 0.2
    accuracy = {"by_length": [{"seconds": "0 to 2 s", "count": 3, "first_changed": 0.1, "wer": [0.1, 0.2]}]}
    assert metrics(accuracy) == {"by_length[0 to 2 s].first_changed": 0.1}


def test_labels_of_the_data_are_no_metrics():
    worse = json.loads(json.dumps(TUNED))
    for kind in ("groups", "speakers"):
        for rates in worse[kind].values():
            rates["wer"] += 0.1
    worse["speakers"]["dr. ratios"]["distinct_texts"] = 3.0
    changes = by_name(compare(TUNED, worse, [Threshold("groups.*.wer", 5), Threshold("speakers.*", 5)]))
    names = [
        "groups.count.wer",
        "groups.kendall.overlap.wer",
        "speakers.dr. ratios.wer",
        "speakers.dr. ratios.distinct_texts",
        "speakers.notebook.wer",
    ]
    assert [name for name, change in changes.items() if change.crossed] == names
    other = TUNED | {"normalizer": {"name": "english"}}
    with pytest.raises(ComparisonError, match="'words' and 'english'"):
        compare(TUNED, other, [Threshold("speakers.notebook.wer", 5)])


def test_places_that_the_data_choose_are_no_lost_metrics():
    moved = json.loads(json.dumps(TUNED))
    moved["confidence"]["band"][0]["alpha"] = 0.456
    moved["confidence"]["best_alpha"]["shares"] = [{"alpha": 0.2, "share": 1.0}]
    moved["improved"] = [{"id": "u2", "errors_before": 2}]
    assert not any(change.crossed for change in compare(TUNED, moved, [Threshold("*", 1_000)]))
    assert set(metrics(TUNED)) >= {"confidence.units", "confidence.best_alpha.median"}


def test_two_metrics_of_one_name_are_refused():
    twice = changed(systems=[{"name": "a", "peak_memory_bytes": n} for n in (100, 200)])
    with pytest.raises(ComparisonError, match=r"two numbers called systems\[a\]\.peak_memory_bytes"):
        compare(REPORT, twice)


def test_options_of_a_tuning_run_are_circumstances(tmp_path, capsys):
    assert run_on(tmp_path, TUNED, TUNED | {"options": {"seed": 1}}) == 0
    assert "options.seed: 0 -> 1" in capsys.readouterr().out


def test_threshold_without_metric_is_refused():
    with pytest.raises(ComparisonError, match="matches no metric"):
        compare(REPORT, REPORT, [Threshold("no.such.*", 5)])


@pytest.mark.parametrize("text", ["wer", "=5", "wer=", "wer=-1", "wer=nan", "wer=five"])
def test_unreadable_threshold_is_refused(text):
    with pytest.raises(SettingsError, match="metric=percent"):
        Threshold.parse(text)


def run_on(tmp_path, before, after, *options):
    files = []
    for name, report in (("a.json", before), ("b.json", after)):
        path = tmp_path / name
        path.write_text(report if isinstance(report, str) else json.dumps(report))
        files.append(str(path))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([*files, *options]))


def test_exit_status_and_output(tmp_path, capsys):
    assert run_on(tmp_path, REPORT, slower(1.5)) == 0
    assert run_on(tmp_path, REPORT, slower(1.5), "--threshold", f"{WHOLE}=20") == 1
    output = capsys.readouterr().out
    assert "CROSSED" in output
    assert "+50.0 %" in output
    assert run_on(tmp_path, REPORT, changed(system={"cpu": {"cores": 4}})) == 0
    assert "system.cpu.cores: 2 -> 4" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_unreadable_report_is_refused(tmp_path, content):
    with pytest.raises(ComparisonError):
        run_on(tmp_path, REPORT, content)


def test_table_shows_what_changed():
    text = table(compare(REPORT, changed(rtfx=5.0)), show_all=False)
    assert "rtfx" in text
    assert WHOLE not in text
    assert table(compare(REPORT, REPORT), show_all=False) == "no metric changed"


@pytest.mark.parametrize("old", ["notebook", {"name": "notebook"}])
def test_error_rates_of_other_normalizers_are_not_compared(tmp_path, capsys, old):
    before = {"normalizer": old, "best_wer": 0.5, "best_alpha": 0.1, "notebook": {"best_wer": 0.5}}
    after = before | {"normalizer": {"name": "words"}, "best_wer": 0.4}
    with pytest.raises(ComparisonError, match="'notebook' and 'words'"):
        compare(before, after, [Threshold("best_wer", 10)])
    compare(before, after, [Threshold("best_alpha", 10), Threshold("notebook.best_wer", 10)])
    assert run_on(tmp_path, before, after) == 0
    assert "error rates cannot be compared: 'notebook' and 'words'" in capsys.readouterr().out
    assert compare(before, before, [Threshold("*wer", 10)])


def test_pareto_front_against_its_definition():
    points = [
        Point("int8", 1, 0.30, 10),
        Point("int8", 5, 0.20, 20),
        Point("fp32", 5, 0.20, 40),  # as accurate, slower
        Point("fp32", 1, 0.35, 15),  # worse in both
        Point("fp32", 8, 0.10, 90),
        Point("int8", 1, 0.30, 10, "twin"),  # equal points do not dominate each other
    ]
    assert pareto_front(points) == [True, True, False, False, True, True]
    report = pareto_report(points)
    assert [row["milliseconds"] for row in report] == sorted(row["milliseconds"] for row in report)
    assert pareto_table(report).count("*") == 4
