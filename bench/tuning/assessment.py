"""Everything that is reported about one set of utterances, fused in one way."""

from dataclasses import dataclass
from typing import Any

from bench.nbest.table import NBestTable, rescored
from bench.text.normalizers import NOTEBOOK, normalizer
from bench.tuning.confidence import assess_confidence
from bench.tuning.controls import run_controls
from bench.tuning.evaluation import (
    changed_utterances,
    corpus_wer,
    list_limits,
    oracle_by_depth,
    rates,
    rates_by_label,
    score_choice,
)
from bench.tuning.fusion_lines import fusion_lines, lines_of, trace_steps
from bench.tuning.interpretation import describe_data, describe_gain, describe_references
from bench.tuning.notebook_figures import notebook_rates
from bench.tuning.options import NOTEBOOK_SCALES, TuneOptions
from runtime.fusion_settings import FusionSettings


@dataclass(frozen=True, slots=True)
class Assessment:
    """One set of utterances, fused in one way.

    Attributes:
        alpha: The weight of the picture.
        summary: Rates, limits, confidence, groups, controls, lists; as in `tune.json`.
        statements: What the data do not allow, and what the gain is worth, in words.
    """

    alpha: float
    summary: dict[str, Any]
    statements: list[str]


def assess(
    table: NBestTable, fusion: FusionSettings, chosen_alpha: float, options: TuneOptions
) -> Assessment:
    """Assess a set at settings that must not have been chosen on it if the figures are to be unbiased.

    Args:
        table: The n-best lists.
        fusion: The alpha and the scales.
        chosen_alpha: The alpha at the notebook's scales, whose WER stands beside where `fusion` is another.
        options: The settings of the run.
    """
    alpha = fusion.alpha
    lines = lines_of(table, fusion)
    steps = trace_steps(lines)
    notebook = rescored(table, normalizer(NOTEBOOK))
    baseline, chosen = score_choice(table, steps.at_zero), score_choice(table, lines.choices(alpha))
    confidence = assess_confidence(table, lines, steps, alpha, options)
    controls = run_controls(table, fusion, options)
    summary: dict[str, Any] = {
        "normalizer": table.normalizer.to_dict(),
        "num_samples": table.size,
        "num_with_image": int(table.has_image.sum()),
        "chosen": {
            "alpha": alpha,
            "asr_temperature": fusion.asr_temperature,
            "clip_scale": fusion.clip_scale,
            **rates(table, chosen),
        },
        "tuned_scales": scales_are_tuned(fusion, chosen_alpha),
        "default_scales": {
            "alpha": chosen_alpha,
            "wer": corpus_wer(table, fusion_lines(table).choices(chosen_alpha)),
        },
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


def scales_are_tuned(fusion: FusionSettings, chosen_alpha: float) -> bool:
    """Tell whether `fusion` is another than the alpha chosen at the notebook's scales."""
    return (fusion.alpha, fusion.asr_temperature, fusion.clip_scale) != (chosen_alpha, *NOTEBOOK_SCALES)
