"""Fused scores as straight lines in alpha, for many utterances at once.

fused(alpha) = (1 - alpha) * asr + alpha * clip is linear in alpha for every hypothesis (formula and
float64 arithmetic of `runtime.fusion.fuse`, element by element the same). The best hypothesis as a
function of alpha is therefore the upper envelope of the utterance's lines (Och 2003, "Minimum Error
Rate Training in Statistical Machine Translation", section 4; the step-by-step walk along it is that
of Moses, `mert/Optimizer.cpp`).
"""

from dataclasses import dataclass

import numpy as np

from bench.nbest.table import BoolArray, FloatArray, NBestTable
from bench.text.scoring import IntArray
from runtime.fusion import CLIP_LOGIT_SCALE
from runtime.fusion_settings import FusionSettings

# Breakpoints closer than this are one: float64 cannot tell on which side of them a fused score lies.
SAME_BREAKPOINT = 1e-12


@dataclass(frozen=True, slots=True)
class LineBlock:
    """The lines of all utterances that have the same number n of hypotheses, m utterances.

    Attributes:
        rows: int64, shape (m,): the utterances.
        pairs: int64, shape (m, n): flat indices of their hypotheses.
        asr: float64, shape (m, n): softmax of the ASR scores, the lines' values at alpha = 0.
        clip: float64, shape (m, n): softmax of the scaled cosines, the lines' values at alpha = 1.
    """

    rows: IntArray
    pairs: IntArray
    asr: FloatArray
    clip: FloatArray

    def choice(self, alpha: float) -> IntArray:
        """Flat index of each utterance's best hypothesis at `alpha`, the first of equals, shape (m,)."""
        fused = (1.0 - alpha) * self.asr + alpha * self.clip
        return _pick(self.pairs, fused.argmax(axis=1))


@dataclass(frozen=True, slots=True)
class FusionLines:
    """The lines of a whole table.

    Attributes:
        blocks: Utterances with a picture, by number of hypotheses.
        fixed: int64, shape (N,): flat index of the best ASR hypothesis; what an utterance without a
            picture returns at every alpha.
    """

    blocks: tuple[LineBlock, ...]
    fixed: IntArray

    def choices(self, alpha: float) -> IntArray:
        """Flat index of every utterance's best hypothesis at `alpha`, int64, shape (N,)."""
        chosen = self.fixed.copy()
        for block in self.blocks:
            chosen[block.rows] = block.choice(alpha)
        return chosen


@dataclass(frozen=True, slots=True)
class Steps:
    """Where utterances change their choice, V changes, sorted by alpha; N utterances.

    Attributes:
        utterance: int64, shape (V,).
        alpha: float64, shape (V,), in (0, 1).
        before: int64, shape (V,): flat index chosen just below alpha.
        at: int64, shape (V,): flat index chosen at alpha itself.
        after: int64, shape (V,): flat index chosen just above alpha.
        at_zero: int64, shape (N,): flat index chosen at alpha = 0.
        start: int64, shape (N,): flat index chosen just above alpha = 0.
        at_one: int64, shape (N,): flat index chosen at alpha = 1.
    """

    utterance: IntArray
    alpha: FloatArray
    before: IntArray
    at: IntArray
    after: IntArray
    at_zero: IntArray
    start: IntArray
    at_one: IntArray


def fusion_lines(
    table: NBestTable,
    *,
    asr_temperature: float = 1.0,
    clip_scale: float = CLIP_LOGIT_SCALE,
    cosines: FloatArray | None = None,
) -> FusionLines:
    """Compute the lines.

    Args:
        table: The n-best lists.
        asr_temperature: Divides the ASR scores before the softmax, above 0.
        clip_scale: Multiplies the cosines before the softmax, above 0.
        cosines: float64, shape (H,): taken in place of the table's (for controls); NaN without picture.
    """
    used = table.cosines if cosines is None else cosines
    pictured = ~np.isnan(used[table.first[:-1]])
    sizes = table.sizes
    blocks = []
    fixed = np.empty(table.size, dtype=np.int64)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        pairs = table.first[rows, np.newaxis] + np.arange(size)
        asr = _softmax_rows(table.scores[pairs] / asr_temperature)
        fixed[rows] = _pick(pairs, asr.argmax(axis=1))
        seen: BoolArray = pictured[rows]
        if seen.any():
            clip = _softmax_rows(used[pairs[seen]] * clip_scale)
            blocks.append(LineBlock(rows[seen], pairs[seen], np.ascontiguousarray(asr[seen]), clip))
    return FusionLines(tuple(blocks), fixed)


def lines_of(table: NBestTable, fusion: FusionSettings, cosines: FloatArray | None = None) -> FusionLines:
    """Compute the lines at the scales of `fusion`; see `fusion_lines`."""
    return fusion_lines(
        table, asr_temperature=fusion.asr_temperature, clip_scale=fusion.clip_scale, cosines=cosines
    )


def _softmax_rows(values: FloatArray) -> FloatArray:
    """`runtime.fusion.softmax` of every row; shape (m, n)."""
    weights = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)


def _pick(pairs: IntArray, column: IntArray) -> IntArray:
    return np.asarray(pairs[np.arange(len(pairs)), column], dtype=np.int64)


def trace_steps(lines: FusionLines) -> Steps:
    """Walk every utterance's upper envelope from alpha = 0 to 1.

    Equal fused scores go to the hypothesis that comes first in the list, as in the runtime. A choice at
    a breakpoint itself is taken from the fused scores there, not from the intervals beside it, so that a
    line that only touches the envelope in one point is seen.
    """
    at_zero, start, at_one = lines.fixed.copy(), lines.fixed.copy(), lines.fixed.copy()
    pieces: list[tuple[IntArray, ...]] = []
    alphas: list[FloatArray] = []
    blocks: list[IntArray] = []
    for number, block in enumerate(lines.blocks):
        row, alpha, before, after, first = _walk(block)
        at_zero[block.rows] = block.choice(0.0)
        at_one[block.rows] = block.choice(1.0)
        start[block.rows] = _pick(block.pairs, first)
        pieces.append((row, before, after))
        alphas.append(alpha)
        blocks.append(np.full(len(row), number, dtype=np.int64))
    if not pieces:
        nothing = np.empty(0, dtype=np.int64)
        return Steps(nothing, np.empty(0), nothing, nothing, nothing, at_zero, start, at_one)
    row, before, after = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return _merge(
        lines, np.concatenate(blocks), row, np.concatenate(alphas), before, after, at_zero, start, at_one
    )


def _walk(block: LineBlock) -> tuple[IntArray, FloatArray, IntArray, IntArray, IntArray]:
    """Return (row in block, alpha, column before, column after) of all crossings, and the first columns.

    Crossings of one row stand in ascending order of alpha.
    """
    asr, clip = block.asr, block.clip
    # Just above alpha = 0: the highest at 0, of those the steepest, of identical lines the first.
    highest = asr == asr.max(axis=1, keepdims=True)
    first = np.where(highest, clip, -np.inf).argmax(axis=1)
    current = first.copy()
    active = np.arange(len(asr))
    low = np.zeros(len(asr))
    found: list[tuple[IntArray, FloatArray, IntArray, IntArray]] = []
    while active.size:
        here = current[active]
        index = np.arange(active.size)
        fall = asr[active, here][:, np.newaxis] - asr[active]  # >= 0 for every line that is overtaken later
        rise = clip[active] - clip[active, here][:, np.newaxis]
        crossing = np.full(fall.shape, np.inf)
        later = (rise > 0.0) & (fall >= 0.0)
        np.divide(fall, fall + rise, out=crossing, where=later)
        nearest = crossing.min(axis=1)
        going = nearest < 1.0
        tied = crossing == nearest[:, np.newaxis]
        successor = np.where(tied, clip[active], -np.inf).argmax(axis=1)
        rows = active[going]
        # Rounding may put a crossing a unit in the last place before the one that led here.
        alpha = np.maximum(nearest[going], low[rows])
        found.append((rows, alpha, here[going], successor[index[going]]))
        low[rows] = alpha
        current[rows] = successor[index[going]]
        active = rows
    row, alpha, before, after = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return row, alpha, before, after, first


def _merge(
    lines: FusionLines,
    block_of: IntArray,
    row: IntArray,
    alpha: FloatArray,
    before: IntArray,
    after: IntArray,
    at_zero: IntArray,
    start: IntArray,
    at_one: IntArray,
) -> Steps:
    """Unite breakpoints that float64 cannot tell apart, and read the choice at each breakpoint."""
    order = np.argsort(alpha, kind="stable")  # stable: crossings of one row keep their order
    block_of, row, before, after = (array[order] for array in (block_of, row, before, after))
    alpha = alpha[order]
    opens = np.ones(len(alpha), dtype=np.bool_)
    opens[1:] = np.diff(alpha) > SAME_BREAKPOINT
    cluster = np.cumsum(opens) - 1
    alpha = alpha[opens][cluster]
    at = np.empty_like(before)
    for number, block in enumerate(lines.blocks):
        mine = np.flatnonzero(block_of == number)
        rows = row[mine]
        weight = alpha[mine, np.newaxis]
        fused = (1.0 - weight) * block.asr[rows] + weight * block.clip[rows]
        at[mine] = block.pairs[rows, fused.argmax(axis=1)]
        before[mine] = block.pairs[rows, before[mine]]
        after[mine] = block.pairs[rows, after[mine]]
        row[mine] = block.rows[rows]
    # Several crossings of one utterance in one cluster become one step: first `before`, last `after`.
    by_row = np.lexsort((np.arange(len(row)), row, cluster))
    same = np.zeros(len(row), dtype=np.bool_)
    same[1:] = (np.diff(row[by_row]) == 0) & (np.diff(cluster[by_row]) == 0)
    heads = np.flatnonzero(~same)
    tails = np.append(heads[1:], len(row)) - 1
    head, tail = by_row[heads], by_row[tails[: len(heads)]]
    utterance, alpha, before, at, after = row[head], alpha[head], before[head], at[head], after[tail]
    # Steps that round to 0 or 1 belong to the ends.
    early = alpha <= SAME_BREAKPOINT
    start[utterance[early]] = after[early]
    inner = ~early & (alpha < 1.0 - SAME_BREAKPOINT)
    return Steps(
        utterance[inner], alpha[inner], before[inner], at[inner], after[inner], at_zero, start, at_one
    )
