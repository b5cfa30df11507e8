"""Which alpha to take: the rules, and the check of a chosen alpha through the runtime's own fusion."""

from collections.abc import Sequence

import numpy as np

from bench.nbest.table import FloatArray, NBestTable
from bench.text.scoring import IntArray
from bench.tuning.fusion_lines import FusionLines, Steps
from bench.tuning.resampling import Units
from bench.tuning.surface import ErrorSurface
from runtime.fusion import fuse, rank


def exact_alpha(surface: ErrorSurface) -> float:
    """Return 0 where no alpha beats it, else the midpoint of the widest best range."""
    if surface.point_errors[0] == surface.best_errors:
        return 0.0
    return surface.widest_best_range().midpoint


def grid_errors(table: NBestTable, lines: FusionLines, alphas: Sequence[float]) -> IntArray:
    """Errors of every utterance at every alpha, int64, shape (N, A)."""
    return np.stack([table.errors[lines.choices(alpha)] for alpha in alphas], axis=1)


def runtime_choices(
    table: NBestTable,
    alpha: float,
    *,
    asr_temperature: float = 1.0,
    clip_scale: float = 100.0,
) -> IntArray:
    """Choose through `runtime.fusion`, utterance by utterance; int64, shape (N,).

    This is what the runtime will answer. It must equal `FusionLines.choices`, ties included.
    """
    chosen = table.first[:-1].copy()
    for row, (begin, end) in enumerate(zip(table.first[:-1], table.first[1:], strict=True)):
        weight, similarity = alpha, table.cosines[begin:end]
        if np.isnan(similarity[0]):  # no picture: recognition alone decides
            weight, similarity = 0.0, np.zeros(end - begin)
        fused = fuse(
            table.scores[begin:end],
            similarity,
            weight,
            asr_temperature=asr_temperature,
            clip_scale=clip_scale,
        ).fused
        chosen[row] = begin + int(rank(fused)[0])
    return chosen


def smallest_alpha_within_one_error(
    table: NBestTable, steps: Steps, surface: ErrorSurface, units: Units, best: IntArray
) -> float:
    """Return the smallest alpha whose WER lies within one standard error of the best.

    The standard error is that of the difference to the best alpha, over the resampling units (paired, so
    much smaller than that of WER itself). The one-standard-error rule: Breiman et al. 1984,
    "Classification and Regression Trees", section 3.4.3.

    Args:
        table: The n-best lists.
        steps: Where choices change.
        surface: Errors over alpha.
        units: Utterances or speakers.
        best: int64, shape (N,): the choice at the best alpha.

    Returns:
        A breakpoint's own alpha at 0, else the middle of the first interval that qualifies.
    """
    words = units.sums(table.reference_words)
    total = words.sum()
    if units.count < 2 or total == 0:
        return exact_alpha(surface)
    reference = table.errors[best]
    at_zero = units.sums(table.errors[steps.at_zero] - reference)
    start = units.sums(table.errors[steps.start] - reference)
    change = (table.errors[steps.after] - table.errors[steps.before]).astype(np.float64)
    owner = units.index[steps.utterance]
    running = start[owner] + _sums_before(owner, change)
    squares = np.cumsum((running + change) ** 2 - running**2)
    mixed = np.cumsum(change * words[owner])
    sums = np.cumsum(change)
    last: IntArray = np.flatnonzero(np.diff(steps.alpha, append=np.inf) > 0.0)
    alphas = np.concatenate(([0.0, 0.0], steps.alpha[last], [1.0]))
    initial = np.array([[d.sum(), d @ d, d @ words] for d in (at_zero, start)])
    later = initial[1] + np.stack([sums[last], squares[last], mixed[last]], axis=1)
    first, second, cross = np.concatenate([initial, later]).T
    ratio = first / total
    residual = np.maximum(second - 2.0 * ratio * cross + ratio**2 * (words @ words), 0.0)
    error = np.sqrt(residual * units.count / (units.count - 1)) / total
    # Differences of counts are integers, so an exact tie has ratio 0 and needs no tolerance.
    element = int(np.flatnonzero(ratio <= error)[0]) if (ratio <= error).any() else -1
    if element < 0:
        return exact_alpha(surface)
    return 0.0 if element == 0 else float(0.5 * (alphas[element] + alphas[element + 1]))


def _sums_before(owner: IntArray, change: FloatArray) -> FloatArray:
    """Sum, for every step, of the earlier steps of the same unit; shape (V,)."""
    order = np.argsort(owner, kind="stable")
    sorted_change = change[order]
    total = np.cumsum(sorted_change) - sorted_change
    opens = np.ones(len(order), dtype=np.bool_)
    opens[1:] = np.diff(owner[order]) != 0
    starts = total[opens][np.cumsum(opens) - 1] if len(order) else total
    result = np.empty_like(change)
    result[order] = total - starts
    return result
