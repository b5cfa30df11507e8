"""Controls: does the gain come from the picture, or would any second opinion have done?"""

from typing import Any, Final

import numpy as np

from bench.nbest.table import FloatArray, NBestTable
from bench.text.scoring import error_rate
from bench.tuning.evaluation import corpus_wer
from bench.tuning.fusion_lines import lines_of, trace_steps
from bench.tuning.options import TuneOptions
from bench.tuning.selection import exact_alpha
from bench.tuning.surface import error_surface
from runtime.fusion_settings import FusionSettings

PERMUTATIONS: Final = 20


def run_controls(table: NBestTable, fusion: FusionSettings, options: TuneOptions) -> dict[str, Any]:
    """Return the control experiments at the alpha and the scales of `fusion`.

    - `image_shuffle`: every utterance is compared with the picture of another one. Needs
      `clip_score_shuffled` in the n-best file; else null.
    - `cosine_permutation`: the cosines of an utterance change places among its hypotheses, so that their
      values stay and their meaning goes; mean over seeded permutations. Null without any picture.
    """
    return {
        "image_shuffle": _image_shuffle(table, fusion),
        "cosine_permutation": _cosine_permutation(table, fusion, options.seed),
    }


def _wer_at(table: NBestTable, cosines: FloatArray, fusion: FusionSettings) -> float:
    return corpus_wer(table, lines_of(table, fusion, cosines).choices(fusion.alpha))


def _image_shuffle(table: NBestTable, fusion: FusionSettings) -> dict[str, Any] | None:
    if np.isnan(table.shuffled).all():
        return None
    steps = trace_steps(lines_of(table, fusion, table.shuffled))
    surface = error_surface(steps, table.errors, table.reference_words)
    return {
        "alpha": fusion.alpha,
        "wer": _wer_at(table, table.shuffled, fusion),
        "baseline_wer": error_rate(int(surface.point_errors[0]), table.total_words),
        "best_alpha": exact_alpha(surface),
        "best_wer": error_rate(surface.best_errors, table.total_words),
        "utterances": int((~np.isnan(table.shuffled[table.first[:-1]])).sum()),
    }


def _cosine_permutation(table: NBestTable, fusion: FusionSettings, seed: int) -> dict[str, Any] | None:
    if not table.has_image.any():
        return None
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(table.size), table.sizes)
    rates = []
    for _ in range(PERMUTATIONS):
        order = np.lexsort((generator.random(len(owner)), owner))  # random order within every utterance
        rates.append(_wer_at(table, table.cosines[order], fusion))
    return {
        "alpha": fusion.alpha,
        "wer": float(np.mean(rates)),
        "lowest_wer": min(rates),
        "highest_wer": max(rates),
        "permutations": PERMUTATIONS,
        "seed": seed,
    }
