"""Three degrees of impairment for the described corpus.

What is imitated are the marks of dysarthria that listeners name (Darley, Aronson and Brown 1969): slow rate,
imprecise consonants, monopitch, inappropriate silences, repeated sounds; and a room with noise. The ranges
are ours, chosen on the dev split so that whisper tiny.en makes about 15, 30 and 45 % errors.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.pocket.degradation import Severity, degrade
from bench.pocket.speech import hesitate
from bench.pocket.voices import Speaker, speak

Range = tuple[float, float]


@dataclass(frozen=True)
class Impairment:
    """How badly one group is off; pairs are ranges that a value is drawn from."""

    slowness: Range  # factor of the length of all sounds
    melody: Range  # factor of the movement of the pitch
    pause: float  # probability of a pause after a word
    sound: Severity  # what is done to the sound, and hesitations


IMPAIRMENTS: Final = {
    "clean": Impairment(
        (1.0, 1.0), (1.0, 1.0), 0.0, Severity(0, 0, (0, 0), (1, 1), (0, 0), (0, 0), (7600, 7900), (0, 0), (45, 60))
    ),
    "mild": Impairment(
        (1.05, 1.25), (0.7, 1.0), 0.02,
        Severity(0.0, 0.04, (0, 0), (1, 1), (0.0, 0.2), (6, 12), (6000, 7900), (0, 0), (24, 35)),
    ),
    "moderate": Impairment(
        (1.15, 1.45), (0.4, 0.8), 0.05,
        Severity(0.05, 0.08, (0, 1), (1.1, 1.3), (0.2, 0.7), (8, 18), (4500, 7000), (0, 0.12), (16, 26)),
    ),
    "severe": Impairment(
        (1.3, 1.7), (0.1, 0.5), 0.08,
        Severity(0.10, 0.15, (0, 1), (1.2, 1.5), (0.4, 1.2), (10, 24), (3500, 5500), (0.05, 0.2), (10, 20)),
    ),
}  # fmt: skip


def _with_pauses(text: str, chance: float, rng: np.random.Generator) -> str:
    """`text` with a comma, which is spoken as a pause, after some of its words."""
    return " ".join(word if rng.random() >= chance else f"{word.rstrip(',')}," for word in text.split())


def utter(sentence: str, speaker: Speaker, group: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Speak a sentence as somebody with this degree of impairment.

    Args:
        sentence: lower case, no punctuation.
        speaker: who speaks.
        group: a key of `IMPAIRMENTS`.
        rng: source of all chance.

    Returns:
        The waveform at 16 kHz, shape (samples,), peak 0.5.
    """
    degree = IMPAIRMENTS[group]
    text = _with_pauses(hesitate(sentence, rng, degree.sound.filler, degree.sound.repeat), degree.pause, rng)
    wave = speak(text, speaker, rng.uniform(*degree.slowness), rng.uniform(*degree.melody))
    return degrade(wave, degree.sound, rng)
