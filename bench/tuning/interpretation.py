"""What the numbers mean, in words."""

import json
from collections.abc import Mapping
from typing import Any

from bench.nbest.records import NBestFile, NBestHeader
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


def count_shared_ids(development: NBestFile, test: NBestFile) -> int:
    """Return how many utterances of the test data have the id of one of the tuning data."""
    tuned = {utterance.id for utterance in development.utterances}
    return sum(utterance.id in tuned for utterance in test.utterances)


def describe_test(development: NBestFile, test: NBestFile) -> list[str]:
    """Say in what the test lists came about otherwise than the tuning lists, and what both hold."""
    statements = []
    tuned_on, tested_on = development.header, test.header
    # The same bundle may lie in folders of other names.
    if tuned_on.bundle.get("sha256") != tested_on.bundle.get("sha256"):
        statements.append(
            f"The lists are of another bundle: {_bundle(tested_on)}; α was tuned on lists of "
            f"{_bundle(tuned_on)}."
        )
    before, after = _flat(tuned_on.settings), _flat(tested_on.settings)
    # Each split may well have an image cache of its own.
    compared = [name for name in {**before, **after} if name != "image_cache"]
    names = [name for name in compared if before.get(name) != after.get(name)]
    if names:
        differing = "; ".join(f"{name} {_stated(after, name)}, not {_stated(before, name)}" for name in names)
        statements.append(f"The lists were made with other settings than the tuning lists: {differing}.")
    if shared := count_shared_ids(development, test):
        statements.append(
            f"{shared} of the {len(test.utterances)} utterances have ids that the tuning data have, too: if "
            "they are the same, α was tuned on them, and the gain is flattered."
        )
    return statements


def _bundle(header: NBestHeader) -> str:
    if not header.bundle:
        return "none that is stated"
    return f"{header.bundle.get('name')!r} ({str(header.bundle.get('sha256'))[:12]})"


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those of a group, such as the speech gate's, under names with a dot."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": setting for inner, setting in value.items()}
        else:
            flat[name] = value
    return flat


def _stated(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False) if name in settings else "(not stated)"


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
