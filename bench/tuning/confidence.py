"""Confidence of a tuned alpha: intervals of WER and of its gain, and how far the best alpha wanders."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bench.nbest.table import FloatArray, NBestTable
from bench.tuning.fusion_lines import FusionLines, Steps
from bench.tuning.options import GRID, TuneOptions
from bench.tuning.resampling import Units, best_columns, bootstrap, resampling_units, small_sample_statements
from bench.tuning.selection import grid_errors

BREAKPOINT_QUANTILES: Final = (
    20  # extra alphas where the surface moves most, often below the grid's first step
)


@dataclass(frozen=True, slots=True)
class Confidence:
    """Bootstrap confidence at one alpha, as JSON, and the band over alpha for the plot.

    Attributes:
        summary: What goes into `tune.json`.
        statements: What the sample does not allow, in words.
    """

    summary: dict[str, Any]
    statements: list[str]


def assess_confidence(
    table: NBestTable, lines: FusionLines, steps: Steps, alpha: float, options: TuneOptions
) -> Confidence:
    """Resample and measure.

    Exact: the intervals of WER at `alpha`, at 0, and of their difference. On a list of alphas (the
    notebook's grid, `alpha`, and quantiles of the breakpoints): the band, and the best alpha of every
    replica. The choice of `alpha` is held fixed; that it was chosen on the same data is what
    cross-validation and a test set are for.
    """
    units = resampling_units(table.utterances)
    alphas = candidate_alphas(steps, alpha)
    errors = grid_errors(table, lines, alphas)
    zero, chosen = alphas.index(0.0), alphas.index(alpha)
    columns = np.concatenate([errors, errors[:, [chosen]] - errors[:, [zero]]], axis=1)
    sums = np.stack([units.sums(column) for column in columns.T], axis=1)
    replicas = bootstrap(sums, units.sums(table.reference_words), options.replicates, options.seed)
    delta = replicas.ratios[:, -1]
    best = best_columns(replicas, slice(0, len(alphas)))
    band = [replicas.interval(column, options.level, lowest=0.0) for column in range(len(alphas))]
    summary = {
        "unit": units.kind,
        "units": units.count,
        "replicates": options.replicates,
        "seed": options.seed,
        "level": options.level,
        "alpha": alpha,
        "wer": band[chosen].to_dict(),
        "baseline_wer": band[zero].to_dict(),
        "delta_wer": replicas.interval(len(alphas), options.level).to_dict(),
        "probability_of_improvement": float(np.mean(delta < 0.0)) if units.count > 1 else None,
        "probability_of_worsening": float(np.mean(delta > 0.0)) if units.count > 1 else None,
        "best_alpha": _spread(np.array(alphas), best, options.level, units),
        "band": [
            {"alpha": a, "wer": interval.estimate, "low": interval.low, "high": interval.high}
            for a, interval in zip(alphas, band, strict=True)
        ],
    }
    return Confidence(summary, small_sample_statements(units, table.size, table.total_words))


def candidate_alphas(steps: Steps, alpha: float) -> list[float]:
    """Return the grid, `alpha` itself, and quantiles of the breakpoints, ascending."""
    extra: FloatArray = np.empty(0)
    if len(steps.alpha):
        extra = np.quantile(steps.alpha, np.linspace(0.0, 1.0, BREAKPOINT_QUANTILES + 2)[1:-1])
    return sorted({*GRID, alpha, *extra.tolist()})


def _spread(
    alphas: FloatArray, best: np.ndarray[Any, Any], level: float, units: Units
) -> dict[str, Any] | None:
    """Summarise the best alpha of the replicas; None with a single unit, whose replicas are all alike."""
    if units.count < 2:
        return None
    values = alphas[best]
    low, median, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2], method="inverted_cdf")
    shares = np.bincount(best, minlength=len(alphas)) / len(best)
    return {
        "low": float(low),
        "median": float(median),
        "high": float(high),
        "shares": [
            {"alpha": float(a), "share": float(share)}
            for a, share in zip(alphas, shares, strict=True)
            if share > 0.0
        ],
    }
