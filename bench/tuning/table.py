"""The outcome of a tuning run as lines for a terminal."""

from collections.abc import Iterator
from typing import Any

from bench.tuning.alpha import TuneResult


def summary_lines(result: TuneResult) -> Iterator[str]:
    """Yield the report for people at a terminal."""
    report = result.to_dict()
    notebook = report["notebook"]
    yield f"WER: texts are {result.normalizer.description}."
    yield f"notebook: texts are {notebook['normalizer']['description']}."
    yield ""
    yield "    α      WER  notebook"
    for row, beside in zip(report["grid_results"], notebook["grid_results"], strict=True):
        mark = "  <- best of the grid" if row["alpha"] == report["best_alpha"] else ""
        yield f" {row['alpha']:4.2f}  {row['wer']:7.2%}  {beside['wer']:8.2%}{mark}"
    exact = report["exact"]
    yield ""
    yield f"exact: WER {exact['best_wer']:.2%} at α = {exact['alpha']:.4g}; ranges with the lowest WER:"
    for interval in exact["best_intervals"][:5]:
        yield f"  {interval['low']:.6g} … {interval['high']:.6g}"
    yield f"smallest α within one standard error: {exact['smallest_within_one_standard_error']:.4g}"
    yield f"chosen α ({result.options.select}): {result.chosen_alpha:.4g}"
    validation = report["cross_validation"]
    if validation is not None:
        yield f"cross-validated ({validation['scheme']}): WER {validation['wer']:.2%}"
    if report["scale"] is not None:
        scale = report["scale"]
        yield (
            f"with scales: WER {scale['wer']:.2%} at ASR temperature {scale['asr_temperature']:g}, "
            f"CLIP scale {scale['clip_scale']:g}, α = {scale['alpha']:.4g}{_scales_verdict(report)}"
        )
    yield from _assessment_lines("tuning data", report)
    if report["test"] is not None:
        yield from _assessment_lines("test data (α frozen)", report["test"])
    yield from _confidence_lines(report["correctness"])
    yield ""
    yield result.interpretation
    yield from result.development.statements
    if result.test is not None:
        yield from (f"Test: {statement}" for statement in result.test.statements)


def _scales_verdict(report: dict[str, Any]) -> str:
    """Say whether the tuned scales were taken, which their held-out folds decide."""
    held_out = report["scale"]["cross_validated_wer"]
    if held_out is None:
        return "; not taken, since nothing can be held out: all figures are at the notebook's scales"
    if not report["tuned_scales"]:
        return f"; cross-validated {held_out:.2%}, not taken: all figures are at the notebook's scales"
    return f"; cross-validated {held_out:.2%}, taken: the figures below are at them"


def _confidence_lines(correctness: dict[str, Any]) -> Iterator[str]:
    if correctness["reason"]:
        yield ""
        yield f"no confidence was fitted: {correctness['reason']}"
        return
    yield ""
    for name in ("development", "test"):
        part = correctness[name]
        if part is not None:
            yield (
                f"confidence that the text is right, {name}: Brier score {part['brier']:.3f} (a constant: "
                f"{part['brier_constant']:.3f}), calibration error {part['calibration_error']:.1%}"
            )


def _assessment_lines(title: str, part: dict[str, Any]) -> Iterator[str]:
    confidence = part["confidence"]
    yield ""
    yield f"{title}: {part['num_samples']} utterances, {part['num_with_image']} with a picture"
    if part["tuned_scales"]:
        chosen, default = part["chosen"], part["default_scales"]
        yield (
            f"  at ASR temperature {chosen['asr_temperature']:g}, CLIP scale {chosen['clip_scale']:g}, as in "
            f"fusion.json; the notebook's scales reach WER {default['wer']:.2%} at α = {default['alpha']:.4g}"
        )
    for name, interval in (
        ("WER, speech only", confidence["baseline_wer"]),
        (f"WER, α = {part['chosen']['alpha']:.4g}", confidence["wer"]),
        ("difference", confidence["delta_wer"]),
    ):
        ends = "" if interval["low"] is None else f"  [{interval['low']:.2%}, {interval['high']:.2%}]"
        yield f"  {name:<20}{interval['estimate']:8.2%}{ends}"
    notebook = part["notebook"]
    yield f"  {'notebook':<20}{notebook['baseline_wer']:8.2%} -> {notebook['chosen']['wer']:.2%}  (WER)"
    yield f"  {'CER, speech only':<20}{part['baseline']['cer']:8.2%}"
    yield f"  {'CER, chosen α':<20}{part['chosen']['cer']:8.2%}"
    for key in ("oracle_wer", "envelope_oracle_wer", "anti_oracle_wer"):
        yield f"  {key.removesuffix('_wer').replace('_', ' ') + ' WER':<20}{part[key]:8.2%}"
    yield f"  {'distinct texts':<20}{part['distinct_texts']:8.2f}  of a list, as scored"
    probability = confidence["probability_of_improvement"]
    if probability is not None:
        yield f"  {'P(improvement)':<20}{probability:8.2%}  over {confidence['units']} {confidence['unit']}s"
    shuffle = part["controls"]["image_shuffle"]
    if shuffle is not None:
        yield f"  {'pictures shuffled':<20}{shuffle['wer']:8.2%}"
    yield f"  {len(part['improved'])} utterances improved, {len(part['worsened'])} worsened"
    for label in ("groups", "speakers"):
        for name, row in part[label].items():
            yield (
                f"  {label[:-1]} {name}: {row['utterances']} utterances, "
                f"WER {row['baseline_wer']:.2%} -> {row['wer']:.2%} (oracle {row['oracle_wer']:.2%}), "
                f"CER {row['baseline_cer']:.2%} -> {row['cer']:.2%}"
            )
