"""Bootstrap confidence of WER, of WER differences and of the best alpha.

Replicas draw utterances (Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR
performance evaluation"), or whole speakers where the data tell them apart, because utterances of one
speaker are alike (Liu & Peng 2020, "Statistical testing on ASR performance via blockwise bootstrap").
Intervals are studentised ("bootstrap-t": Efron & Tibshirani 1993, section 12.5), since with few
speakers the percentile interval is too narrow (Cameron, Gelbach & Miller 2008, "Bootstrap-based
improvements for inference with clustered errors").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from bench.nbest.records import NBestUtterance
from bench.nbest.table import FloatArray
from bench.text.scoring import IntArray

MIN_UNITS_FOR_STUDENTISING: Final = 4  # below, too many replicas draw one unit only and have no variance
_BLOCK_CELLS: Final = 2_000_000  # draws held in memory at a time


@dataclass(frozen=True, slots=True)
class Units:
    """What is resampled.

    Attributes:
        kind: "speaker" or "utterance".
        index: int64, shape (N,): the unit of every utterance.
        names: Names of the G units.
    """

    kind: Literal["speaker", "utterance"]
    index: IntArray
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of units, G."""
        return len(self.names)

    def sums(self, values: npt.ArrayLike) -> FloatArray:
        """Sum a value of every utterance by unit; shape (N,) to (G,), exact for integers below 2^53."""
        weights = np.asarray(values, dtype=np.float64)
        return np.asarray(np.bincount(self.index, weights=weights, minlength=self.count), dtype=np.float64)


def resampling_units(utterances: Sequence[NBestUtterance]) -> Units:
    """Return speakers if all are named, there are at least two and one spoke twice; else utterances."""
    speakers = [utterance.speaker for utterance in utterances]
    names = sorted({speaker for speaker in speakers if speaker is not None})
    if None not in speakers and 2 <= len(names) < len(speakers):
        number = {name: position for position, name in enumerate(names)}
        index = np.array([number[speaker] for speaker in speakers if speaker is not None], dtype=np.int64)
        return Units("speaker", index, tuple(names))
    identifiers = tuple(utterance.id for utterance in utterances)
    return Units("utterance", np.arange(len(identifiers), dtype=np.int64), identifiers)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: The value on the data themselves.
        low: Lower end.
        high: Upper end.
        standard_error: Linearised standard error over the units.
        method: "bootstrap-t", "t" or "none" (fewer than two units).
    """

    estimate: float
    low: float | None
    high: float | None
    standard_error: float | None
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return {
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "standard_error": self.standard_error,
            "method": self.method,
        }


@dataclass(frozen=True, slots=True)
class Replicas:
    """Bootstrap replicas of C ratios sum(errors) / sum(words), R replicas.

    Attributes:
        ratios: float64, shape (R, C).
        standard_errors: float64, shape (R, C): linearised, over the drawn units.
        estimates: float64, shape (C,): on the data themselves.
        estimate_errors: float64, shape (C,): their standard errors; NaN with one unit.
        units: Number of units drawn from.
    """

    ratios: FloatArray
    standard_errors: FloatArray
    estimates: FloatArray
    estimate_errors: FloatArray
    units: int

    def interval(self, column: int, level: float, lowest: float = -np.inf) -> Interval:
        """Confidence interval of one column.

        Args:
            column: Which ratio.
            level: Coverage aimed at, for example 0.95.
            lowest: Value that the ratio cannot go below (0 for a WER).
        """
        estimate, error = float(self.estimates[column]), float(self.estimate_errors[column])
        if self.units < 2:
            return Interval(estimate, None, None, None, "none")
        tails = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
        method = "bootstrap-t"
        below, above = _studentised_tails(
            self.ratios[:, column] - estimate, self.standard_errors[:, column], tails
        )
        if self.units < MIN_UNITS_FOR_STUDENTISING or not np.isfinite([below, above]).all():
            method, above = "t", t_quantile(tails[1], self.units - 1)
            below = -above
        return Interval(
            estimate, max(lowest, estimate - above * error), estimate - below * error, error, method
        )


def _studentised_tails(deviations: FloatArray, errors: FloatArray, tails: list[float]) -> tuple[float, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        pivots = deviations / errors
    pivots[np.isnan(pivots)] = 0.0  # neither deviation nor variance
    low, high = np.quantile(pivots, tails, method="inverted_cdf")
    return float(low), float(high)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution above its median, to 1e-6 relative.

    Args:
        probability: Above 0.5 and below 1.
        degrees: Degrees of freedom, at least 1.
    """
    # t = sqrt(degrees) · tan(a) turns the density into cos(a)^(degrees - 1), smooth and bounded.
    angle = np.linspace(0.0, np.pi / 2.0, 200_001)
    density = np.cos(angle) ** (degrees - 1)
    area = np.concatenate(([0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))))
    share = 0.5 + 0.5 * area / area[-1]
    return float(np.sqrt(degrees) * np.tan(np.interp(probability, share, angle)))


def bootstrap(errors: FloatArray, words: FloatArray, replicates: int, seed: int) -> Replicas:
    """Resample units with replacement.

    Args:
        errors: float64, shape (G, C): integer sums of errors, or differences of errors, of every unit.
        words: float64, shape (G,): reference words of every unit, the shared denominator.
        replicates: How many replicas.
        seed: Of the random generator (PCG64).

    Returns:
        Ratios and their standard errors. A replica without any reference word counts its errors as its
        ratio (see `bench.text.scoring.error_rate`).
    """
    units, columns = errors.shape
    moments = np.concatenate(
        [errors, errors**2, errors * words[:, np.newaxis], np.stack([words, words**2], axis=1)], axis=1
    )
    # Counts and sums are integers; float32 holds them exactly below 2^24 and halves the work.
    exact_in_float32 = np.abs(moments).max(initial=0.0) * units < 2**24
    factors: npt.NDArray[Any] = moments.astype(np.float32) if exact_in_float32 else moments
    generator = np.random.default_rng(seed)
    ratios = np.empty((replicates, columns))
    standard_errors = np.empty((replicates, columns))
    block = min(replicates, max(1, _BLOCK_CELLS // units))
    counts: npt.NDArray[Any] = np.empty((block, units), dtype=factors.dtype)
    for begin in range(0, replicates, block):
        size = min(block, replicates - begin)
        draws = generator.integers(0, units, size=(size, units))
        for row, drawn in enumerate(draws):
            counts[row] = np.bincount(drawn, minlength=units)
        sums: FloatArray = (counts[:size] @ factors).astype(np.float64)
        ratios[begin : begin + size], standard_errors[begin : begin + size] = _ratios(sums, columns, units)
    whole = moments.sum(axis=0, keepdims=True)
    estimates, estimate_errors = _ratios(whole, columns, units)
    return Replicas(ratios, standard_errors, estimates[0], estimate_errors[0], units)


def _ratios(sums: FloatArray, columns: int, units: int) -> tuple[FloatArray, FloatArray]:
    """Return ratios and linearised standard errors, each (rows, C), from sums of moments (rows, 3C + 2)."""
    first, second, mixed = (
        sums[:, :columns],
        sums[:, columns : 2 * columns],
        sums[:, 2 * columns : 3 * columns],
    )
    words, squared_words = sums[:, -2:-1], sums[:, -1:]
    denominator = np.where(words > 0.0, words, 1.0)
    ratio = first / denominator
    residual = np.maximum(second - 2.0 * ratio * mixed + ratio**2 * squared_words, 0.0)
    correction = units / (units - 1) if units > 1 else np.nan
    return ratio, np.sqrt(residual * correction) / denominator


def best_columns(replicas: Replicas, columns: slice) -> IntArray:
    """Column, among `columns`, of the lowest ratio of every replica, the first of equals; shape (R,)."""
    return np.asarray(replicas.ratios[:, columns].argmin(axis=1), dtype=np.int64)


def small_sample_statements(units: Units, utterances: int, words: int) -> list[str]:
    """Say in words what the size of the sample does not allow."""
    statements = []
    if utterances < 2:
        statements.append("One utterance only: no confidence can be stated, and the best α is a guess.")
    elif utterances < 100 or words < 1000:
        statements.append(
            f"Small sample: {utterances} utterances with {words} reference words. "
            "Differences between neighbouring α are mostly noise."
        )
    if units.kind == "speaker" and units.count < 10:
        statements.append(
            f"Only {units.count} speakers: the intervals hold for speakers like these, and they are wide."
        )
    if words == 0:
        statements.append("All references are empty: WER is the number of inserted words, not a ratio.")
    return statements
