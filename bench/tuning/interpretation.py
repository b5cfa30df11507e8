"""What the numbers mean, in words."""

from collections.abc import Mapping
from typing import Any

from bench.nbest.table import NBestTable
from bench.tuning.options import NOTEBOOK_SCALES
from runtime.fusion_settings import FusionSettings

USUAL_LOW, USUAL_HIGH, DOMINANT = 0.1, 0.4, 0.5


def describe_alpha(alpha: float) -> str:
    """Interpret the best alpha as the tuning notebook does, and say what lies between its cases."""
    if alpha == 0.0:
        return (
            "The best α is 0: the picture does not help here. Look at how well pictures and texts fit, at "
            "the transcript normalisation, and consider fine-tuning CLIP on this domain."
        )
    if alpha < USUAL_LOW:
        return (
            f"The best α, {alpha:.3g}, is small but not 0: the picture helps. ASR scores are means per "
            "token, so their softmax is nearly flat, and a small weight of the sharper CLIP softmax decides."
        )
    if alpha <= USUAL_HIGH:
        return (
            f"The best α, {alpha:.3g}, is in the usual range of 0.1 to 0.4: the picture helps without "
            "overriding what was clearly heard."
        )
    if alpha <= DOMINANT:
        return (
            f"The best α, {alpha:.3g}, is above the usual range of 0.1 to 0.4: picture and recognition weigh "
            "about the same."
        )
    return (
        f"The best α, {alpha:.3g}, is above 0.5: recognition struggles badly, and the picture does most of "
        "the disambiguation."
    )


def describe_scales(
    fusion: FusionSettings, chosen_alpha: float, held_out_wer: float, default_held_out_wer: float
) -> str:
    """Say that the figures are at tuned scales, and what the best alpha at the notebook's means.

    Args:
        fusion: The tuned scales with their alpha.
        chosen_alpha: The alpha at the notebook's scales.
        held_out_wer: WER on folds that did not choose, with scales and alpha tuned.
        default_held_out_wer: The same with the notebook's scales.
    """
    temperature, scale = NOTEBOOK_SCALES
    return (
        f"ASR temperature {fusion.asr_temperature:g} and CLIP scale {fusion.clip_scale:g} did better on "
        f"held-out folds (WER {held_out_wer:.2%}) than the notebook's {temperature:g} and {scale:g} "
        f"({default_held_out_wer:.2%}). They stand in fusion.json with α = {fusion.alpha:.4g}, and all "
        "figures are at them but the grid, the exact surface and the cross-validation of the notebook's "
        f"formula. At its scales: {describe_alpha(chosen_alpha)}"
    )


def describe_data(table: NBestTable) -> list[str]:
    """Say what the data do not allow to be tuned."""
    statements = []
    pictured = int(table.has_image.sum())
    if pictured == 0:
        statements.append(
            "No utterance has clip scores (no picture): α has no effect, every α gives the same WER."
        )
    elif pictured < table.size:
        statements.append(
            f"{table.size - pictured} of {table.size} utterances have no clip scores; they keep their best "
            "ASR hypothesis at every α."
        )
    if int(table.sizes.max()) == 1:
        statements.append("Every list has one hypothesis: there is nothing to rescore. Use more beams.")
    empty_lists = sum(not utterance.hypotheses for utterance in table.utterances)
    if empty_lists:
        statements.append(f"{empty_lists} utterances have no hypothesis; they count as empty texts.")
    return statements


def describe_references(table: NBestTable, normalizer_name: str) -> list[str]:
    """Count references that hold no word, and those that only the normaliser emptied."""
    empty = [row for row, reference in enumerate(table.references) if not reference]
    emptied = [row for row in empty if table.utterances[row].reference.strip()]
    statements = []
    if empty:
        statements.append(
            f"{len(empty)} references hold no word; every word recognised there is an insertion."
        )
    if emptied:
        statements.append(
            f"{len(emptied)} of them hold text that the normalizer {normalizer_name!r} removed altogether."
        )
    return statements


def describe_gain(confidence: Mapping[str, Any], controls: Mapping[str, Any]) -> list[str]:
    """Say whether the gain can be told from chance, and whether it hangs on the right picture."""
    delta = confidence["delta_wer"]
    statements = []
    if delta["low"] is not None and delta["estimate"] < 0.0:
        if delta["high"] < 0.0:
            statements.append("The gain over α = 0 is larger than chance explains (the interval excludes 0).")
        else:
            statements.append("The gain over α = 0 can be chance (the interval includes 0).")
    shuffle = controls["image_shuffle"]
    if shuffle is not None and delta["estimate"] < 0.0:
        if shuffle["wer"] >= shuffle["baseline_wer"]:
            statements.append("With the pictures shuffled among utterances the gain is gone.")
        else:
            statements.append(
                "With the pictures shuffled among utterances a part of the gain stays: it does not come from "
                "the right picture alone, but also from what CLIP's text encoder prefers."
            )
    return statements
