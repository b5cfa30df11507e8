"""Three degrees of impairment for the described corpus.

What is imitated are the marks of dysarthria that listeners name (Darley, Aronson and Brown 1969): slow rate,
imprecise consonants, monopitch, inappropriate silences, repeated sounds; and some noise. The ranges are ours,
chosen on the dev split with whisper tiny.en; docs/pocket.md says how.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.pocket.degradation import Severity, degrade, weaken
from bench.pocket.descriptions import Description
from bench.pocket.speech import SAMPLE_RATE, hesitate
from bench.pocket.voices import Speaker, speak

Range = tuple[float, float]


@dataclass(frozen=True)
class Impairment:
    """How badly one group is off; pairs are ranges that a value is drawn from."""

    slowness: Range  # factor of the length of all sounds
    melody: Range  # factor of the movement of the pitch
    pause: float  # probability of a pause after a word
    lost: Range  # weakened sounds per second, among the names of things
    lost_db: Range  # by how much, dB
    sound: Severity  # hesitations and noise


def _sound(filler: float, repeat: float, band: Range, echo: Range, snr: Range) -> Severity:
    return Severity(filler, repeat, (0, 0), (1, 1), (0, 0), (0, 0), band, echo, snr)


IMPAIRMENTS: Final = {
    "clean": Impairment((1, 1), (1, 1), 0, (0, 0), (0, 0), _sound(0, 0, (7600, 7900), (0, 0), (45, 60))),
    "mild": Impairment(
        (1.05, 1.2), (0.8, 1), 0, (0.5, 1.2), (8, 16), _sound(0, 0.02, (6000, 7900), (0, 0), (26, 36))
    ),
    "moderate": Impairment(
        (1.1, 1.3), (0.6, 0.9), 0.01, (1.4, 2.4), (12, 22), _sound(0.02, 0.03, (5000, 7000), (0, 0), (22, 32))
    ),
    "severe": Impairment(
        (1.15, 1.35),
        (0.5, 0.8),
        0.02,
        (2.0, 3.2),
        (14, 28),
        _sound(0.03, 0.05, (4500, 6500), (0, 0), (18, 28)),
    ),
}


def _with_pauses(text: str, chance: float, rng: np.random.Generator) -> str:
    """`text` with a comma, which is spoken as a pause, after some of its words."""
    return " ".join(word if rng.random() >= chance else f"{word.rstrip(',')}," for word in text.split())


def _weaken_names(
    wave: NDArray[np.float32], opening: float, degree: Impairment, rng: np.random.Generator
) -> NDArray[np.float32]:
    """`wave` with weakened sounds after its opening: set phrases come easily, names do not."""
    first = int(opening * len(wave))
    for _ in range(round(rng.uniform(*degree.lost) * (len(wave) - first) / SAMPLE_RATE)):
        length = int(rng.uniform(0.06, 0.16) * SAMPLE_RATE)
        wave = weaken(wave, int(rng.integers(first, len(wave))), length, rng.uniform(*degree.lost_db))
    return wave


def utter(
    description: Description, speaker: Speaker, group: str, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Speak a description as somebody with this degree of impairment.

    Args:
        description: what is said.
        speaker: who speaks.
        group: a key of `IMPAIRMENTS`.
        rng: source of all chance.

    Returns:
        The waveform at 16 kHz, shape (samples,), peak 0.5.
    """
    degree = IMPAIRMENTS[group]
    sentence = description.caption()
    text = _with_pauses(hesitate(sentence, rng, degree.sound.filler, degree.sound.repeat), degree.pause, rng)
    wave = speak(text, speaker, rng.uniform(*degree.slowness), rng.uniform(*degree.melody))
    # Where the opening ends is judged by its share of the letters.
    wave = _weaken_names(wave, len(description.opening_words()) / len(sentence), degree, rng)
    return degrade(wave, degree.sound, rng)
