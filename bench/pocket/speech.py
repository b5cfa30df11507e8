"""Spoken captions: espeak-ng in many voices, with the hesitations of a halting speaker."""

import io
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from bench.pocket.captions import Split
from runtime.errors import AudioError

SAMPLE_RATE: Final = 16_000
ACCENTS: Final = (
    "en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029",
    "en-us-nyc",
)  # fmt: skip
# espeak-ng's voice variants, shared out among the splits; "" is the accent's own voice.
VARIANTS: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "", "m1", "m2", "m4", "m5", "m7", "m8", "f1", "f3", "f4", "klatt", "klatt3", "klatt5", "Alex",
        "Alicia", "Denis", "Diogo", "Gene", "Hugo", "Jacky", "Mario", "Mike", "Storm", "adam", "anika",
        "antonio", "aunty", "boris", "croak", "david", "ed", "edward", "grandma", "gustave", "iven",
        "iven3", "john", "kaukovalta", "marcelo", "miguel", "norbert", "pablo", "pedro", "quincy",
        "robert", "sandro", "shelby", "steph", "travis", "victor", "zac", "whisper",
    ),
    "dev": ("Lee", "belinda", "max", "Andrea", "benjamin", "steph3", "Gene2", "paul"),
    "test": (
        "m3", "m6", "f2", "f5", "Andy", "Annie", "Marco", "Michael", "linda", "grandpa", "rob", "michel",
    ),
}  # fmt: skip
FILLERS: Final = ("um", "uh", "er", "hmm")


@dataclass(frozen=True)
class Voice:
    """One speaker: an accent, a variant, words per minute (80–450) and a pitch (0–99)."""

    accent: str
    variant: str
    rate: int
    pitch: int

    @property
    def name(self) -> str:
        """The speaker's name in the manifest, "en-us+f2"."""
        return f"{self.accent}+{self.variant}" if self.variant else self.accent


def speakers(split: Split) -> list[Voice]:
    """The fixed speakers of dev and test: one for each of the split's variants."""
    return [
        Voice(ACCENTS[(3 * i + len(split)) % len(ACCENTS)], variant, 140 + 7 * (i % 6), 35 + 5 * (i % 7))
        for i, variant in enumerate(VARIANTS[split])
    ]


def draw_voice(rng: np.random.Generator) -> Voice:
    """A training voice of any accent, rate and pitch."""
    variants = VARIANTS["train"]
    return Voice(
        ACCENTS[rng.integers(len(ACCENTS))],
        variants[rng.integers(len(variants))],
        int(rng.integers(125, 200)),
        int(rng.integers(20, 80)),
    )


def hesitate(sentence: str, rng: np.random.Generator, filler: float, repeat: float) -> str:
    """Say `sentence` haltingly: a filler before a word, a word said twice.

    Args:
        sentence: the caption.
        rng: source of chance.
        filler: probability that one filler is put in.
        repeat: probability that one word is repeated.

    Returns:
        The text to be spoken. The reference stays `sentence`: a transcript leaves hesitations out.
    """
    words = sentence.split()
    if rng.random() < repeat:
        place = int(rng.integers(len(words)))
        words.insert(place, f"{words[place]},")
    if rng.random() < filler:
        words.insert(int(rng.integers(len(words))), f"{rng.choice(FILLERS)},")
    return " ".join(words)


def speak(text: str, voice: Voice) -> NDArray[np.float32]:
    """Synthesise `text`.

    Args:
        text: words and commas.
        voice: who speaks.

    Returns:
        The waveform at `SAMPLE_RATE`, shape (samples,), peak 0.5.

    Raises:
        AudioError: espeak-ng is not installed, or said nothing.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise AudioError("espeak-ng is not there; install the package espeak-ng to make speech")
    command = [program, "-v", voice.name, "-s", str(voice.rate), "-p", str(voice.pitch), "--stdout", text]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    wave, rate = sf.read(io.BytesIO(spoken), dtype="float32")
    wave = np.asarray(soxr.resample(wave, rate, SAMPLE_RATE), np.float32)
    peak = float(np.abs(wave).max(initial=0.0))
    if peak == 0.0:
        raise AudioError(f"espeak-ng made no sound of {text!r} with the voice {voice.name!r}")
    return wave * np.float32(0.5 / peak)
