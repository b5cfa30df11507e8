"""Raw latencies and the statistics derived from them.

Only `time.perf_counter` runs inside a timed region; everything else is derived afterwards from the
raw values, which every report keeps.
"""

import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from runtime.errors import SettingsError

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
CONFIDENCE = 0.99
# A coefficient of variation above this says that the machine was busy or throttled, or that the runs differ.
UNSTABLE_VARIATION = 0.10
# Fewer values say nothing about their own spread.
FEWEST_FOR_VARIATION = 3
RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Percentile:
    """One percentile of raw latencies.

    Attributes:
        percentile: In (0, 100).
        seconds: Nearest-rank value: the smallest latency that at least `percentile` % do not exceed.
        required_samples: Samples that support it, see `required_samples`.
        supported: Whether there were that many.
        low: Lower bound of the 95 % interval from order statistics; None where too few samples bound it.
        high: Upper bound likewise.
    """

    percentile: float
    seconds: float
    required_samples: int
    supported: bool
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields under the names of the report."""
        return {
            "seconds": self.seconds,
            "required_samples": self.required_samples,
            "supported": self.supported,
            "interval_95": [self.low, self.high],
        }


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """What the raw latencies of one stage say.

    Attributes:
        raw: Seconds, in the order measured.
        percentiles: One entry for each of `PERCENTILES`.
        mean: Seconds.
        least: Smallest value, seconds.
        greatest: Largest value, seconds.
        variation: Coefficient of variation (sample standard deviation over mean); None below three values.
    """

    raw: tuple[float, ...]
    percentiles: tuple[Percentile, ...]
    mean: float
    least: float
    greatest: float
    variation: float | None

    @property
    def median(self) -> float:
        """The nearest-rank 50th percentile, seconds."""
        return self.percentiles[0].seconds

    @property
    def unstable(self) -> bool:
        """Whether the values spread so widely that a repeated run may give another figure."""
        return self.variation is not None and self.variation > UNSTABLE_VARIATION

    def to_dict(self) -> dict[str, Any]:
        """Return statistics and raw values (seconds)."""
        return {
            "count": len(self.raw),
            "mean_s": self.mean,
            "min_s": self.least,
            "max_s": self.greatest,
            "coefficient_of_variation": self.variation,
            "unstable": self.unstable,
            "percentiles": {f"p{entry.percentile:g}": entry.to_dict() for entry in self.percentiles},
            "raw_s": list(self.raw),
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratio of the medians of two series, with its spread.

    Attributes:
        value: median(numerator) / median(denominator).
        low: Lower end of the 95 % bootstrap interval of that ratio.
        high: Upper end likewise.
        per_round: Ratio of each round, where both series were measured in the same rounds, else empty.
    """

    value: float
    low: float
    high: float
    per_round: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields under the names of the report."""
        return {"value": self.value, "interval_95": [self.low, self.high], "per_round": list(self.per_round)}


class Stopwatch:
    """Keeps the raw latencies of named stages.

    Args:
        discard: Number of first values of every stage that are kept apart as warm-up.
    """

    def __init__(self, discard: int = 0) -> None:
        if discard < 0:
            raise SettingsError(f"the number of warm-up values is {discard}; it must be 0 or more")
        self._discard = discard
        self._raw: dict[str, list[float]] = {}

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        """Time the body of the `with` statement. A body that raises leaves no value."""
        start = time.perf_counter()
        yield
        end = time.perf_counter()
        self.add(stage, end - start)

    def add(self, stage: str, seconds: float) -> None:
        """Append one latency measured elsewhere."""
        self._raw.setdefault(stage, []).append(seconds)

    @property
    def stages(self) -> tuple[str, ...]:
        """Stage names in the order in which they first appeared."""
        return tuple(self._raw)

    def raw(self, stage: str) -> list[float]:
        """Return the values of a stage after warm-up, seconds."""
        return self._raw[stage][self._discard :]

    def warm_up(self, stage: str) -> list[float]:
        """Return the values of a stage that count as warm-up, seconds."""
        return self._raw[stage][: self._discard]

    def summaries(self) -> dict[str, LatencySummary]:
        """Summarise every stage that has a value left after warm-up."""
        return {stage: summarize(self.raw(stage)) for stage in self._raw if self.raw(stage)}


def required_samples(percentile: float) -> int:
    """Return the smallest sample count that supports a percentile.

    MLPerf LoadGen's rule (Reddi et al. 2020, "MLPerf Inference Benchmark"): the share p
    of latencies within a bound is a binomial proportion, and its normal interval at `CONFIDENCE` must
    not be wider to either side than a twentieth of the distance to certainty, margin = (1 - p) / 20:
    n = z² · p · (1 - p) / margin², rounded as in the published table: 23,886 for p90, 50,425 for p95 and
    262,742 for p99.

    Args:
        percentile: In (0, 100).

    Raises:
        SettingsError: It is out of its range.
    """
    if not 0 < percentile < 100:
        raise SettingsError(f"percentile is {percentile:g}; it must lie between 0 and 100, both excluded")
    p = percentile / 100
    margin = (1 - p) / 20
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return round(z * z * p * (1 - p) / (margin * margin))


def nearest_rank(ordered: Sequence[float], percentile: float) -> float:
    """Return the smallest value that at least `percentile` % of the values do not exceed.

    Args:
        ordered: Ascending, at least one value.
        percentile: In (0, 100].
    """
    # A product such as 0.07 · 100 lies a few ulp above the integer it means; rounding keeps the rank.
    rank = math.ceil(round(percentile / 100 * len(ordered), 9))
    return ordered[max(rank, 1) - 1]


def quantile_interval(ordered: Sequence[float], percentile: float) -> tuple[float | None, float | None]:
    """Return the distribution-free 95 % interval of a percentile.

    The number of values below the true percentile is binomial, so order statistics bound it whatever the
    distribution (Hahn & Meeker 1991, section 5.2). An end that would lie beyond the extreme values is None.

    Args:
        ordered: Ascending.
        percentile: In (0, 100).
    """
    n, p = len(ordered), percentile / 100
    tail = 0.025
    low: float | None = None
    high: float | None = None
    cumulative = 0.0
    for k in range(n):
        # P(exactly k values lie below), from logarithms: factorials of large n overflow.
        log_mass = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        log_mass += k * math.log(p) + (n - k) * math.log1p(-p)
        cumulative += math.exp(log_mass)
        if cumulative <= tail:
            low = ordered[k]
        if cumulative >= 1 - tail:
            high = ordered[k]
            break
    return low, high


def summarize(raw: Sequence[float]) -> LatencySummary:
    """Derive all statistics of one stage from its raw latencies.

    Args:
        raw: Seconds, at least one.

    Raises:
        SettingsError: There is no value, or one is negative or not finite.
    """
    if not raw:
        raise SettingsError("no latency was measured; at least one run is needed")
    if not all(math.isfinite(value) and value >= 0 for value in raw):
        raise SettingsError(f"latencies must be finite and not negative, got {list(raw)!r}")
    ordered = sorted(raw)
    percentiles = []
    for percentile in PERCENTILES:
        low, high = quantile_interval(ordered, percentile)
        required = required_samples(percentile)
        seconds = nearest_rank(ordered, percentile)
        percentiles.append(Percentile(percentile, seconds, required, len(raw) >= required, low, high))
    mean = statistics.fmean(raw)
    variation = None
    if len(raw) >= FEWEST_FOR_VARIATION and mean > 0:
        variation = statistics.stdev(raw) / mean
    return LatencySummary(tuple(raw), tuple(percentiles), mean, ordered[0], ordered[-1], variation)


def ratio_of_medians(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Compare two series of latencies.

    Series of equal length are taken as measured in the same rounds, and rounds are resampled as pairs;
    others are resampled independently.

    Args:
        numerator: Seconds of the slower or compared system.
        denominator: Seconds of the system that it is compared to.

    Raises:
        SettingsError: A series is empty or the denominator holds a zero.
    """
    if not numerator or not denominator:
        raise SettingsError("a ratio needs at least one latency on either side")
    if min(denominator) <= 0:
        raise SettingsError("a ratio needs latencies above zero in the denominator")
    random_source = random.Random(0)  # noqa: S311  a bootstrap, no secret
    paired = len(numerator) == len(denominator)
    resampled = []
    for _ in range(RESAMPLES):
        upper = random_source.choices(range(len(numerator)), k=len(numerator))
        lower = upper if paired else random_source.choices(range(len(denominator)), k=len(denominator))
        resampled.append(_median(numerator, upper) / _median(denominator, lower))
    resampled.sort()
    rounds = tuple(a / b for a, b in zip(numerator, denominator, strict=True)) if paired else ()
    value = nearest_rank(sorted(numerator), 50) / nearest_rank(sorted(denominator), 50)
    return Ratio(value, nearest_rank(resampled, 2.5), nearest_rank(resampled, 97.5), rounds)


def _median(values: Sequence[float], chosen: Sequence[int]) -> float:
    return nearest_rank(sorted(values[index] for index in chosen), 50)
