"""The figures as the notebook scores texts, stripped and lower-cased; they stand beside every other."""

from typing import Any

from bench.nbest.table import NBestTable
from bench.text.scoring import IntArray, error_rate
from bench.tuning.evaluation import corpus_wer
from bench.tuning.fusion_lines import FusionLines
from bench.tuning.options import GRID
from bench.tuning.selection import grid_errors


def notebook_rates(
    notebook: NBestTable, baseline: IntArray, chosen: IntArray, alpha: float
) -> dict[str, Any]:
    """Return WER before and after as the notebook counts it, for choices that are made already.

    Args:
        notebook: The n-best lists, scored as by the notebook.
        baseline: int64, shape (N,): flat index of the hypothesis chosen at alpha = 0.
        chosen: The same at `alpha`.
        alpha: The chosen alpha.
    """
    return {
        "normalizer": notebook.normalizer.to_dict(),
        "reference_words": notebook.total_words,
        "baseline_wer": corpus_wer(notebook, baseline),
        "chosen": {"alpha": alpha, "wer": corpus_wer(notebook, chosen)},
    }


def notebook_grid(notebook: NBestTable, lines: FusionLines) -> dict[str, Any]:
    """Return what the notebook's `tune_alpha` would: its grid, the first minimum, and the gain."""
    wer = [
        error_rate(int(errors), notebook.total_words)
        for errors in grid_errors(notebook, lines, GRID).sum(axis=0)
    ]
    best = min(range(len(GRID)), key=wer.__getitem__)
    return {
        "grid_results": [{"alpha": a, "wer": w} for a, w in zip(GRID, wer, strict=True)],
        "best_alpha": GRID[best],
        "best_wer": wer[best],
        "wer_reduction": wer[0] - wer[best],
    }
