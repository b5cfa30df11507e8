"""The speakers of the described corpus: flite's voices, each with several pitches, tempi and vocal tracts."""

import io
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from bench.pocket.speech import SAMPLE_RATE
from runtime.errors import AudioError

Half = Literal["dev", "test"]
# The natural pitch of flite's voices, Hz. That of rms cannot be set: it only follows the vocal tract.
PITCH: Final = {"slt": 175.0, "rms": 101.0, "awb": 127.0, "kal16": 88.0}
# kal16 is joined from diphones and speaks too fast to be followed.
LENGTH: Final = {"slt": 1.0, "rms": 1.0, "awb": 1.0, "kal16": 1.15}
# Vocal-tract length: all formants times this factor, within the 0.88 to 1.12 by which Lee and Rose (1998)
# normalise speakers.
_VARIATIONS: Final = (
    (1.00, 1.00, 1.00),
    (0.92, 0.90, 1.05),
    (1.06, 1.08, 1.08),
    (0.96, 1.12, 1.12),
)  # formants, pitch, length of sounds


@dataclass(frozen=True)
class Speaker:
    """A base voice of flite and its variation.

    Attributes:
        base: Name of flite's voice.
        formants: Factor of all formants, above 1 for a shorter vocal tract.
        pitch: Factor of the pitch.
        length: Factor of the length of all sounds.
    """

    base: str
    formants: float
    pitch: float
    length: float

    @property
    def name(self) -> str:
        """The speaker's name in the manifest, "slt-f93"."""
        return f"{self.base}-f{round(100 * self.formants)}"


BASES: Final[dict[Half, tuple[str, str]]] = {"dev": ("rms", "kal16"), "test": ("slt", "awb")}


def speakers(half: Half) -> list[Speaker]:
    """The eight speakers of a split; dev and test share no base voice."""
    return [Speaker(base, *variation) for variation in _VARIATIONS for base in BASES[half]]


def speak(text: str, speaker: Speaker, slowness: float = 1.0, melody: float = 1.0) -> NDArray[np.float32]:
    """Synthesise `text`.

    The sound is made lower, or higher, and slower, or faster, than wanted and then resampled, which moves
    formants, pitch and tempo together; so the formants are moved and the rest is as asked for.

    Args:
        text: words and commas; a comma is a pause.
        speaker: who speaks.
        slowness: factor of the length of all sounds, on top of the speaker's own.
        melody: factor of the movement of the pitch; 0 is monotone.

    Returns:
        The waveform at `SAMPLE_RATE`, shape (samples,), peak 0.5.

    Raises:
        AudioError: flite is not installed, or said nothing.
    """
    program = shutil.which("flite")
    if program is None:
        raise AudioError("flite is not there; install the package flite to make speech")
    pitch = PITCH[speaker.base] * speaker.pitch / speaker.formants
    settings = {
        "duration_stretch": LENGTH[speaker.base] * speaker.length * slowness * speaker.formants,
        "int_f0_target_mean": pitch,
        "int_f0_target_stddev": 0.12 * pitch * melody,
    }
    options = [part for name, value in settings.items() for part in ("--setf", f"{name}={value:.3f}")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run([program, "-voice", speaker.base, *options, "-t", text, "-o", str(path)], check=True)
        wave, rate = sf.read(io.BytesIO(path.read_bytes()), dtype="float32")
    wave = np.asarray(soxr.resample(wave, rate * speaker.formants, SAMPLE_RATE), np.float32)
    peak = float(np.abs(wave).max(initial=0.0))
    if peak == 0.0:
        raise AudioError(f"flite made no sound of {text!r} with the voice {speaker.base!r}")
    return wave * np.float32(0.5 / peak)
