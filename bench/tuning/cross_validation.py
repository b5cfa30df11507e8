"""Cross-validated WER: alpha is chosen on some speakers (or utterances) and scored on the others."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.nbest.table import NBestTable
from bench.text.scoring import IntArray, error_rate
from bench.tuning.fusion_lines import FusionLines, Steps
from bench.tuning.options import GRID, TuneOptions
from bench.tuning.resampling import resampling_units
from bench.tuning.selection import exact_alpha, grid_errors
from bench.tuning.surface import error_surface


@dataclass(frozen=True, slots=True)
class Folds:
    """A division of the utterances.

    Attributes:
        scheme: "leave one speaker out", "k folds of speakers" or "k folds of utterances".
        index: int64, shape (N,): the fold of every utterance.
        names: Names of the folds.
    """

    scheme: str
    index: IntArray
    names: tuple[str, ...]


def make_folds(table: NBestTable, options: TuneOptions) -> Folds | None:
    """Divide by speaker where speakers are told apart, else into seeded folds; None with one utterance."""
    units = resampling_units(table.utterances)
    if units.count < 2:
        return None
    if units.kind == "speaker" and units.count <= 2 * options.folds:
        return Folds("leave one speaker out", units.index, units.names)
    count = min(options.folds, units.count)
    fold_of_unit = np.random.default_rng(options.seed).permutation(units.count) % count
    names = tuple(f"fold {number + 1}" for number in range(count))
    return Folds(f"{count} folds of {units.kind}s", fold_of_unit[units.index], names)


def cross_validate(
    table: NBestTable, lines: FusionLines, steps: Steps, options: TuneOptions
) -> dict[str, Any] | None:
    """Choose alpha without each fold in turn, by the rule of `options.select`, and score the fold.

    Returns:
        Pooled WER of the held-out folds, the WER at alpha = 0, and the alpha of every fold; None where
        nothing can be held out.
    """
    folds = make_folds(table, options)
    if folds is None:
        return None
    on_grid = grid_errors(table, lines, GRID)
    baseline = table.errors[steps.at_zero]
    held_out_errors = 0
    rows = []
    for number, name in enumerate(folds.names):
        held_out = folds.index == number
        weights = (~held_out).astype(np.int64)
        if options.select == "exact":
            alpha = exact_alpha(error_surface(steps, table.errors, table.reference_words, weights))
        else:
            alpha = GRID[int((weights @ on_grid).argmin())]
        errors = int(table.errors[lines.choices(alpha)][held_out].sum())
        words = int(table.reference_words[held_out].sum())
        held_out_errors += errors
        rows.append(
            {
                "held_out": name,
                "utterances": int(held_out.sum()),
                "alpha": alpha,
                "wer": error_rate(errors, words),
                "baseline_wer": error_rate(int(baseline[held_out].sum()), words),
            }
        )
    return {
        "scheme": folds.scheme,
        "wer": error_rate(held_out_errors, table.total_words),
        "baseline_wer": error_rate(int(baseline.sum()), table.total_words),
        "folds": rows,
    }
