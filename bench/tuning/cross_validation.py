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


@dataclass(frozen=True, slots=True)
class HeldOut:
    """N utterances, each with an alpha that was chosen without its fold.

    Attributes:
        folds: The division.
        alphas: The alpha that was chosen without each fold.
        errors: int64, shape (N,): word errors of every utterance at the alpha of its fold.
    """

    folds: Folds
    alphas: tuple[float, ...]
    errors: IntArray

    def to_dict(self, table: NBestTable, baseline: IntArray) -> dict[str, Any]:
        """Return pooled WER of the held-out folds, that at alpha = 0, and both with the alpha of every fold.

        Args:
            table: The n-best lists.
            baseline: int64, shape (N,): word errors at alpha = 0.
        """
        rows = []
        for number, (name, alpha) in enumerate(zip(self.folds.names, self.alphas, strict=True)):
            held_out = self.folds.index == number
            words = int(table.reference_words[held_out].sum())
            rows.append(
                {
                    "held_out": name,
                    "utterances": int(held_out.sum()),
                    "alpha": alpha,
                    "wer": error_rate(int(self.errors[held_out].sum()), words),
                    "baseline_wer": error_rate(int(baseline[held_out].sum()), words),
                }
            )
        return {
            "scheme": self.folds.scheme,
            "wer": error_rate(int(self.errors.sum()), table.total_words),
            "baseline_wer": error_rate(int(baseline.sum()), table.total_words),
            "folds": rows,
        }


def hold_out(table: NBestTable, lines: FusionLines, steps: Steps, options: TuneOptions) -> HeldOut | None:
    """Choose alpha without each fold in turn, by the rule of `options.select`; None without folds."""
    folds = make_folds(table, options)
    if folds is None:
        return None
    on_grid = grid_errors(table, lines, GRID)
    errors = np.zeros(table.size, dtype=np.int64)
    alphas = []
    for number in range(len(folds.names)):
        held_out = folds.index == number
        weights = (~held_out).astype(np.int64)
        if options.select == "exact":
            alpha = exact_alpha(error_surface(steps, table.errors, table.reference_words, weights))
        else:
            alpha = GRID[int((weights @ on_grid).argmin())]
        errors[held_out] = table.errors[lines.choices(alpha)][held_out]
        alphas.append(alpha)
    return HeldOut(folds, tuple(alphas), errors)
