"""How much of a recording is decoded, and in which blocks it comes."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

MIN_RATE: Final = 1_000  # Hz; telephones record at 8,000
MAX_RATE: Final = 768_000  # Hz; the fastest converters on sale
# Two hours are 461 MB at 16 kHz; bounds what a small compressed file unfolds to.
MAX_SECONDS: Final = 2 * 60 * 60


class AudioLimits(NamedTuple):
    """How much of a recording is decoded.

    Attributes:
        seconds: Most of it, in seconds.
        values: Most samples × channels before resampling; None for as many as the seconds hold.
    """

    seconds: float = MAX_SECONDS
    values: int | None = None


NO_LIMITS: Final = AudioLimits()  # but two hours


class Block(NamedTuple):
    """A part of a recording: mono samples, float32, shape (samples,), and their sampling rate in Hz."""

    waveform: npt.NDArray[np.float32]
    rate: int
