"""Everything that is reported about one set of utterances at one alpha."""

from dataclasses import dataclass
from typing import Any

from bench.nbest.table import NBestTable
from bench.tuning.confidence import assess_confidence
from bench.tuning.controls import run_controls
from bench.tuning.evaluation import (
    changed_utterances,
    list_limits,
    oracle_by_depth,
    rates,
    rates_by_label,
    score_choice,
)
from bench.tuning.fusion_lines import FusionLines, Steps
from bench.tuning.interpretation import describe_data, describe_gain, describe_references
from bench.tuning.notebook_figures import notebook_rates
from bench.tuning.options import TuneOptions


@dataclass(frozen=True, slots=True)
class Assessment:
    """One set of utterances at one alpha.

    Attributes:
        alpha: The alpha.
        summary: Rates, limits, confidence, groups, controls, lists; as in `tune.json`.
        statements: What the data do not allow, and what the gain is worth, in words.
    """

    alpha: float
    summary: dict[str, Any]
    statements: list[str]


def assess(
    table: NBestTable,
    notebook: NBestTable,
    lines: FusionLines,
    steps: Steps,
    alpha: float,
    options: TuneOptions,
) -> Assessment:
    """Assess a set at one alpha, which must not have been chosen on it if the figures are to be unbiased.

    Args:
        table: The n-best lists.
        notebook: The same, scored as by the notebook.
        lines: Fused scores over alpha.
        steps: Where choices change.
        alpha: The alpha.
        options: The settings.
    """
    baseline, chosen = score_choice(table, steps.at_zero), score_choice(table, lines.choices(alpha))
    confidence = assess_confidence(table, lines, steps, alpha, options)
    controls = run_controls(table, alpha, options)
    summary: dict[str, Any] = {
        "normalizer": table.normalizer.to_dict(),
        "num_samples": table.size,
        "num_with_image": int(table.has_image.sum()),
        "chosen": {"alpha": alpha, **rates(table, chosen)},
        "baseline": {"alpha": 0.0, **rates(table, baseline)},
        "notebook": notebook_rates(notebook, baseline.pairs, chosen.pairs, alpha),
        **list_limits(table, steps),
        "oracle_by_depth": oracle_by_depth(table),
        "confidence": confidence.summary,
        "groups": rates_by_label(table, lambda utterance: utterance.group, baseline, chosen),
        "speakers": rates_by_label(table, lambda utterance: utterance.speaker, baseline, chosen),
        "controls": controls,
        "empty_references": sum(not reference for reference in table.references),
        **changed_utterances(table, baseline, chosen),
    }
    statements = [
        *describe_data(table),
        *describe_references(table, options.normalizer),
        *confidence.statements,
        *describe_gain(confidence.summary, controls),
    ]
    return Assessment(alpha, summary, statements)
