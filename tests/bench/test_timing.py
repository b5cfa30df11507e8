import math
import random
import time

import pytest

from bench.measure.system_info import package_versions, peak_memory, system_info
from bench.measure.timing import (
    PERCENTILES,
    Stopwatch,
    nearest_rank,
    quantile_interval,
    ratio_of_medians,
    required_samples,
    summarize,
)
from runtime.errors import SettingsError


# The table of the MLPerf Inference paper and of LoadGen's documentation.
@pytest.mark.parametrize(("percentile", "samples"), [(90, 23_886), (95, 50_425), (97, 85_811), (99, 262_742)])
def test_required_samples_equal_mlperf(percentile, samples):
    assert required_samples(percentile) == samples


@pytest.mark.parametrize("percentile", [0, 100, -1])
def test_percentile_out_of_range_is_refused(percentile):
    with pytest.raises(SettingsError, match="percentile"):
        required_samples(percentile)


def test_nearest_rank_is_the_smallest_value_that_enough_values_do_not_exceed():
    source = random.Random(1)
    for _ in range(300):
        values = sorted(source.choice([1.0, 2.0, 2.5, 7.0]) for _ in range(source.randint(1, 30)))
        for percentile in (1, 7, 25, 50, 90, 95, 99, 100):
            enough = percentile / 100 * len(values) - 1e-9
            expected = min(v for v in values if sum(w <= v for w in values) >= enough)
            assert nearest_rank(values, percentile) == expected


def test_summary_of_known_values():
    summary = summarize([3.0, 1.0, 2.0, 4.0])
    assert summary.median == 2.0
    assert summary.raw == (3.0, 1.0, 2.0, 4.0)
    assert summary.mean == 2.5
    assert (summary.least, summary.greatest) == (1.0, 4.0)
    assert summary.variation == pytest.approx(math.sqrt(5 / 3) / 2.5, rel=1e-12)
    assert summary.unstable
    assert not any(entry.supported for entry in summary.percentiles)


def test_enough_samples_are_marked_as_such():
    entries = {entry.percentile: entry for entry in summarize([1.0] * 3_000).percentiles}
    assert entries[50].supported  # 2,654 are needed
    assert not entries[90].supported
    assert not summarize([1.0] * 3_000).unstable


def test_report_keeps_raw_values_and_every_percentile():
    report = summarize([0.5, 0.25]).to_dict()
    assert report["raw_s"] == [0.5, 0.25]
    assert set(report["percentiles"]) == {f"p{percentile:g}" for percentile in PERCENTILES}
    assert report["coefficient_of_variation"] is None


@pytest.mark.parametrize("raw", [[], [float("nan")], [-1.0], [float("inf")]])
def test_impossible_latencies_are_refused(raw):
    with pytest.raises(SettingsError):
        summarize(raw)


def test_interval_of_the_median_covers_the_truth():
    source = random.Random(2)
    trials, covered = 400, 0
    for _ in range(trials):
        low, high = quantile_interval(sorted(source.expovariate(1.0) for _ in range(25)), 50)
        assert low is not None
        assert high is not None
        covered += low <= math.log(2) <= high
    # The interval is conservative (95.7 % exactly at 25 values); four standard errors below 95 % is 90.6 %.
    assert covered / trials > 0.906


def test_interval_has_no_end_beyond_the_extreme_values():
    assert (
        quantile_interval([1.0, 2.0, 3.0], 99) == (1.0, None)
        or quantile_interval([1.0, 2.0, 3.0], 99)[1] is None
    )
    assert quantile_interval([1.0], 50) == (None, None)


def test_stopwatch_keeps_raw_values_and_sets_warm_up_apart():
    watch = Stopwatch(discard=1)
    for pause in (0.02, 0.0, 0.0):
        with watch.lap("stage"):
            time.sleep(pause)
    assert len(watch.raw("stage")) == 2
    assert watch.warm_up("stage")[0] >= 0.02
    assert watch.summaries()["stage"].greatest < 0.02
    assert watch.stages == ("stage",)


def test_body_that_raises_leaves_no_value():
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch.lap("stage"):
        1 / 0  # noqa: B018
    assert watch.stages == ()


def test_ratio_of_paired_rounds():
    ratio = ratio_of_medians([4.0, 6.0, 8.0], [2.0, 3.0, 4.0])
    assert ratio.value == 2.0
    assert ratio.per_round == (2.0, 2.0, 2.0)
    assert (ratio.low, ratio.high) == (2.0, 2.0)  # pairs are resampled together, so nothing spreads


def test_ratio_of_unequal_series_has_no_rounds():
    ratio = ratio_of_medians([10.0], [1.0, 2.0, 4.0])
    assert ratio.value == 5.0
    assert ratio.per_round == ()
    assert (ratio.low, ratio.high) == (2.5, 10.0)


def test_ratio_needs_values():
    with pytest.raises(SettingsError, match="at least one"):
        ratio_of_medians([], [1.0])


def test_system_info_names_machine_and_versions():
    info = system_info()
    assert info["cpu"]["usable_cores"] >= 1
    assert info["packages"]["numpy"]
    assert package_versions(("surely-not-installed",)) == {}


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory()
    held = bytearray(b"\1" * (64 << 20))
    assert peak_memory() >= before
    assert peak_memory() > len(held)
