"""Fusion of recognition and picture: text clean-up for CLIP, and the weighted sum of two softmaxes.

    asr   = softmax(scores / temperature)      over the n-best of one utterance
    clip  = softmax(100 · cosines)             100 is the temperature that CLIP was trained to
    fused = (1 − α) · asr + α · clip

Source of the linear fusion: the tuning notebook that this project grew from; of the factor 100: Radford et
al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 2.5.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from runtime.errors import SettingsError

CLIP_LOGIT_SCALE: Final = 100.0
FILLERS: Final = frozenset(
    {
        "ah",
        "er",
        "hm",
        "hmm",
        "i mean",
        "like",
        "oh",
        "ok",
        "okay",
        "so",
        "uh",
        "uh-huh",
        "um",
        "well",
        "you know",
    }
)
DEFAULT_ALPHA: Final = 0.3  # where nobody has tuned it
SHORT_TEXT_WORDS: Final = 2  # texts of up to so many words are wrapped into a caption
CAPTION_PREFIX: Final = "an image showing"

# A word and its immediate repetitions, one space apart. The backreference compares whole words because of
# the closing boundary; matching is linear, since a group can only end where a space follows.
_REPEATED_WORD = re.compile(r"\b(\w+)(?: \1\b)+")

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FusedScores:
    """Scores of one n-best list, each of shape (n,), in the order given.

    Attributes:
        asr: Softmax of the recognition scores, sums to 1.
        clip: Softmax of the scaled cosines, sums to 1.
        fused: (1 − α) · asr + α · clip, sums to 1.
    """

    asr: Scores
    clip: Scores
    fused: Scores


def normalize_transcript(text: str) -> str:
    """Lower-case, collapse immediate word repetitions, drop fillers of one and of two words.

    Repetitions go first, so "you you know" is the filler "you know". Of overlapping fillers the one of two
    words wins. Words keep their punctuation: "um," is not the filler "um".

    Args:
        text: A transcript in any script.

    Returns:
        Words joined by single spaces; empty if nothing but fillers was said.
    """
    words = _REPEATED_WORD.sub(r"\1", text.strip().lower()).split()
    kept: list[str] = []
    position = 0
    while position < len(words):
        if " ".join(words[position : position + 2]) in FILLERS and position + 1 < len(words):
            position += 2
            continue
        if words[position] not in FILLERS:
            kept.append(words[position])
        position += 1
    return " ".join(kept)


def to_caption_style(text: str) -> str:
    """Normalise a transcript and word it as the captions that CLIP was trained on.

    Args:
        text: A transcript.

    Returns:
        The normalised text; "an image showing …" around texts of one or two words; empty stays empty.
    """
    normalized = normalize_transcript(text)
    if normalized and len(normalized.split()) <= SHORT_TEXT_WORDS:
        return f"{CAPTION_PREFIX} {normalized}"
    return normalized


def softmax(x: npt.ArrayLike) -> Scores:
    """Softmax over a vector, computed in float64.

    Args:
        x: Shape (n,); finite. n may be 0.

    Returns:
        float64, shape (n,), non-negative, sums to 1 unless empty.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.size == 0:
        return values
    weights = np.exp(values - values.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def fuse(
    scores: npt.ArrayLike,
    cosines: npt.ArrayLike,
    alpha: float,
    *,
    asr_temperature: float = 1.0,
    clip_scale: float = CLIP_LOGIT_SCALE,
) -> FusedScores:
    """Fuse the recognition scores of an n-best list with its similarities to the picture.

    Args:
        scores: Mean log-probabilities per token, shape (n,).
        cosines: Cosine similarities of picture and texts, shape (n,).
        alpha: Weight of the picture, 0 (none) to 1 (nothing else).
        asr_temperature: Divides `scores` before the softmax; above 1 flattens. 1 is the notebook's formula.
        clip_scale: Multiplies `cosines` before the softmax.

    Returns:
        The three score vectors; empty ones for an empty list.

    Raises:
        SettingsError: `alpha` is outside [0, 1], a temperature is not positive, the vectors differ in
            length, or a score is not finite.
    """
    if not (math.isfinite(alpha) and 0.0 <= alpha <= 1.0):
        raise SettingsError(f"alpha is {alpha}; expected a number from 0 (speech only) to 1 (picture only)")
    for name, value in (("asr_temperature", asr_temperature), ("clip_scale", clip_scale)):
        if not (math.isfinite(value) and value > 0.0):
            raise SettingsError(f"{name} is {value}; expected a positive number")
    recognition = _checked(scores, "recognition score")
    similarity = _checked(cosines, "cosine")
    if recognition.size != similarity.size:
        raise SettingsError(
            f"{recognition.size} recognition scores and {similarity.size} cosines; "
            "expected one of each for a hypothesis"
        )
    asr = softmax(recognition / asr_temperature)
    clip = softmax(similarity * clip_scale)
    return FusedScores(asr=asr, clip=clip, fused=(1.0 - alpha) * asr + alpha * clip)


def alphas_from(scores: FusedScores) -> list[float | None]:
    """Return from which weight of the picture each hypothesis is the first of its list.

    Args:
        scores: Fused lists, n entries.

    Returns:
        n weights in [0, 1]; None where an entry is first with none. Among equals the earlier one is first.
    """
    return [_first_from(place, scores.asr, scores.clip) for place in range(len(scores.asr))]


def _first_from(place: int, asr: Scores, clip: Scores) -> float | None:
    # Against each other entry the lead is a line over alpha: that by sound at 0, that by picture at 1.
    least, most = 0.0, 1.0
    for other in range(len(asr)):
        by_sound, by_picture = float(asr[place] - asr[other]), float(clip[place] - clip[other])
        wins_ties = place < other
        if other == place or (min(by_sound, by_picture) >= 0 and (by_sound + by_picture or wins_ties)):
            continue
        best_lead = max(by_sound, by_picture)
        if best_lead < 0 or (best_lead == 0 and not wins_ties):
            return None
        crossing = by_sound / (by_sound - by_picture)
        least, most = (max(least, crossing), most) if by_sound < 0 else (least, min(most, crossing))
    return least if least <= most else None


def checked_alpha(alpha: float) -> float:
    """Return `alpha` if it lies in [0, 1].

    Raises:
        SettingsError: It does not, or is no number.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.floating)) or not 0.0 <= alpha <= 1.0:
        raise SettingsError(f"alpha is {alpha!r}; expected a number from 0 (speech only) to 1 (picture only)")
    return float(alpha)


def rank(fused: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Order of an n-best list, best first; ties keep the order they had.

    Args:
        fused: Shape (n,).

    Returns:
        Indices, shape (n,).
    """
    return np.argsort(-np.asarray(fused, dtype=np.float64), kind="stable")


def _checked(values: npt.ArrayLike, name: str) -> Scores:
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{name}s are no numbers: {error}") from error
    if vector.ndim != 1:
        raise SettingsError(f"{name}s of shape {vector.shape}; expected (n,)")
    if not np.isfinite(vector).all():
        first = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise SettingsError(f"{name} {first} is {vector[first]}; expected finite numbers")
    return vector
