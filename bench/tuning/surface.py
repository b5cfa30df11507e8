"""The exact error surface: corpus WER as a step function of alpha on [0, 1].

Every choice of hypothesis changes at finitely many alphas (`bench.tuning.fusion_lines`); the errors of the
corpus therefore follow from one sum and the differences at those breakpoints, all in integers.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.nbest.table import FloatArray
from bench.text.scoring import IntArray, error_rate
from bench.tuning.fusion_lines import Steps


@dataclass(frozen=True, slots=True)
class BestRange:
    """A range of alpha with the lowest WER: an interval with or without its ends, or one point.

    Attributes:
        low: Lower end.
        high: Upper end; equal to `low` for a single point.
        includes_low: Whether the lowest WER also holds at `low` itself.
        includes_high: Whether it also holds at `high` itself.
    """

    low: float
    high: float
    includes_low: bool
    includes_high: bool

    @property
    def midpoint(self) -> float:
        """Middle of the range."""
        return 0.5 * (self.low + self.high)


@dataclass(frozen=True, slots=True)
class ErrorSurface:
    """Errors of the corpus over alpha, with B breakpoints of which the first is 0 and the last 1.

    Attributes:
        breakpoints: float64, shape (B,), ascending.
        interval_errors: int64, shape (B - 1,): errors between two neighbouring breakpoints.
        point_errors: int64, shape (B,): errors at the breakpoints themselves, where ties are broken.
        reference_words: Words of the references, the denominator of WER.
    """

    breakpoints: FloatArray
    interval_errors: IntArray
    point_errors: IntArray
    reference_words: int

    @property
    def best_errors(self) -> int:
        """Fewest errors that any alpha reaches."""
        return int(min(self.interval_errors.min(), self.point_errors.min()))

    def errors_at(self, alpha: float) -> int:
        """Errors at one alpha in [0, 1]."""
        right = int(np.searchsorted(self.breakpoints, alpha, side="left"))
        if self.breakpoints[right] == alpha:
            return int(self.point_errors[right])
        return int(self.interval_errors[right - 1])

    def best_ranges(self) -> list[BestRange]:
        """All ranges with the fewest errors, ascending."""
        values = np.empty(2 * len(self.breakpoints) - 1, dtype=np.int64)
        values[0::2], values[1::2] = self.point_errors, self.interval_errors
        is_best = np.concatenate(([False], values == self.best_errors, [False]))
        edges = np.flatnonzero(np.diff(is_best.astype(np.int8)))
        ranges = []
        for begin, end in zip(edges[0::2], edges[1::2] - 1, strict=True):  # both inclusive, in `values`
            ranges.append(
                BestRange(
                    low=float(self.breakpoints[begin // 2]),
                    high=float(self.breakpoints[(end + 1) // 2]),
                    includes_low=bool(begin % 2 == 0),
                    includes_high=bool(end % 2 == 0),
                )
            )
        return ranges

    def widest_best_range(self) -> BestRange:
        """The widest of `best_ranges`, the lowest of equally wide ones."""
        return max(self.best_ranges(), key=lambda r: r.high - r.low)

    def to_dict(self) -> dict[str, Any]:
        """Return breakpoints and WER of every interval as JSON."""
        return {
            "breakpoints": self.breakpoints.tolist(),
            "wer": [error_rate(e, self.reference_words) for e in self.interval_errors.tolist()],
            "wer_at_breakpoints": [error_rate(e, self.reference_words) for e in self.point_errors.tolist()],
            "best_intervals": [asdict(best) for best in self.best_ranges()],
            "best_wer": error_rate(self.best_errors, self.reference_words),
        }


def error_surface(
    steps: Steps, errors: IntArray, reference_words: IntArray, weights: IntArray | None = None
) -> ErrorSurface:
    """Sum the utterances' step functions.

    Args:
        steps: Where choices change.
        errors: int64, shape (H,): errors of every hypothesis.
        reference_words: int64, shape (N,).
        weights: int64, shape (N,): how often each utterance counts (0 leaves it out); once by default.

    Returns:
        The surface; its inner breakpoints are those at which some weighted utterance's error count changes.
    """
    weight = np.ones(len(reference_words), dtype=np.int64) if weights is None else weights
    before, at, after = errors[steps.before], errors[steps.at], errors[steps.after]
    moving = ((before != after) | (before != at)) & (weight[steps.utterance] > 0)
    alpha = steps.alpha[moving]
    factor = weight[steps.utterance[moving]]
    opens = np.ones(len(alpha), dtype=np.bool_)
    opens[1:] = np.diff(alpha) > 0.0
    starts = np.flatnonzero(opens)
    change = _sums((after - before)[moving] * factor, starts)
    touch = _sums((at - before)[moving] * factor, starts)
    intervals = int(weight @ errors[steps.start]) + np.concatenate(([0], np.cumsum(change)))
    points = np.concatenate(
        ([weight @ errors[steps.at_zero]], intervals[:-1] + touch, [weight @ errors[steps.at_one]])
    )
    return ErrorSurface(
        breakpoints=np.concatenate(([0.0], alpha[starts], [1.0])),
        interval_errors=intervals.astype(np.int64),
        point_errors=points.astype(np.int64),
        reference_words=int(weight @ reference_words),
    )


def _sums(values: IntArray, starts: IntArray) -> IntArray:
    return np.add.reduceat(values, starts) if len(starts) else np.empty(0, dtype=np.int64)
