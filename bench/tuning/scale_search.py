"""Joint tuning of alpha, ASR temperature and CLIP logit scale.

Mean log-probabilities of the hypotheses of one utterance differ little, so their softmax is nearly
flat, while 100 x cosine is sharp. A temperature on the ASR side and another scale on the CLIP side put
them on one footing. Scales come from a grid, alpha is exact at each of its points; every fold of the
cross-validation searches anew.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np

from bench.nbest.table import NBestTable
from bench.text.scoring import IntArray, error_rate
from bench.tuning.cross_validation import make_folds
from bench.tuning.fusion_lines import fusion_lines, trace_steps
from bench.tuning.options import NOTEBOOK_SCALES, TuneOptions
from bench.tuning.selection import exact_alpha
from bench.tuning.surface import ErrorSurface, error_surface

ASR_TEMPERATURES: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
CLIP_SCALES: Final = (6.25, 12.5, 25.0, 50.0, 100.0, 200.0)


@dataclass(frozen=True, slots=True)
class TunedScale:
    """The scales with the fewest errors, and what they are worth on folds that did not choose them.

    Attributes:
        asr_temperature: Divides the ASR scores.
        clip_scale: Multiplies the cosines.
        alpha: The weight of the picture with them.
        wer: WER with them.
        held_out: int64, shape (N,): word errors of every utterance with the scales and the alpha that were
            chosen without its fold; None where there are no folds.
        held_out_wer: WER of those.
        grid: Every pair of scales with its best alpha and WER.
    """

    asr_temperature: float
    clip_scale: float
    alpha: float
    wer: float
    held_out: IntArray | None
    held_out_wer: float | None
    grid: list[dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return what `tune.json` holds."""
        return {
            "asr_temperature": self.asr_temperature,
            "clip_scale": self.clip_scale,
            "alpha": self.alpha,
            "wer": self.wer,
            "cross_validated_wer": self.held_out_wer,
            "grid": self.grid,
        }


def _quality(surface: ErrorSurface, is_notebook: bool) -> tuple[int, float]:
    """Order of preference: fewest errors, then the notebook's scales, then the widest best range of alpha."""
    widest = surface.widest_best_range()
    return surface.best_errors, -np.inf if is_notebook else widest.low - widest.high


def tune_scale(table: NBestTable, options: TuneOptions) -> TunedScale | None:
    """Search the scales; None without any picture."""
    if not table.has_image.any():
        return None
    folds = make_folds(table, options)
    index: IntArray = np.zeros(table.size, dtype=np.int64) if folds is None else folds.index
    count = 0 if folds is None else len(folds.names)
    best: tuple[tuple[int, float], float, float, float] | None = None
    best_of_fold: list[tuple[int, float]] = [(np.iinfo(np.int64).max, 0.0)] * count
    held_out: IntArray = np.zeros(table.size, dtype=np.int64)
    grid = []
    for temperature, scale in product(ASR_TEMPERATURES, CLIP_SCALES):
        is_notebook = (temperature, scale) == NOTEBOOK_SCALES
        lines = fusion_lines(table, asr_temperature=temperature, clip_scale=scale)
        steps = trace_steps(lines)
        surface = error_surface(steps, table.errors, table.reference_words)
        alpha = exact_alpha(surface)
        rate = error_rate(surface.best_errors, table.total_words)
        grid.append({"asr_temperature": temperature, "clip_scale": scale, "alpha": alpha, "wer": rate})
        if best is None or _quality(surface, is_notebook) < best[0]:
            best = (_quality(surface, is_notebook), temperature, scale, alpha)
        for fold in range(count):
            weights = (index != fold).astype(np.int64)
            inner = error_surface(steps, table.errors, table.reference_words, weights)
            if _quality(inner, is_notebook) < best_of_fold[fold]:
                best_of_fold[fold] = _quality(inner, is_notebook)
                chosen = lines.choices(exact_alpha(inner))
                held_out[index == fold] = table.errors[chosen][index == fold]
    assert best is not None  # the grid is not empty
    return TunedScale(
        asr_temperature=best[1],
        clip_scale=best[2],
        alpha=best[3],
        wer=error_rate(best[0][0], table.total_words),
        held_out=held_out if count else None,
        held_out_wer=error_rate(int(held_out.sum()), table.total_words) if count else None,
        grid=grid,
    )
