"""Splitting of recordings that are longer than the window, at the quietest points near its end.

No sample is lost or heard twice: the segments cover the recording end to end.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from runtime.errors import AudioError, SettingsError

FRAME_S: Final = 0.01  # seconds from one candidate for a cut to the next
SMOOTHING_S: Final = (
    0.1  # loudness is averaged over so many seconds: shorter gaps lie within words (plosives)
)
SHORTEST_REST_S: Final = 0.5  # no cut leaves a shorter last segment: too little to recognise anything from
EQUALLY_QUIET_DB: Final = 3.0  # among points so close to the quietest, the latest wins: fewer segments


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a recording.

    Attributes:
        start: First sample.
        end: One past the last sample.
    """

    start: int
    end: int


def split_at_quietest(
    waveform: npt.NDArray[np.float32], sampling_rate: int, window_s: float, search_s: float | None = None
) -> list[Segment]:
    """Split a recording into segments of at most `window_s`.

    1. While more than a window is left, look at the last `search_s` of the next window.
    2. There, measure the loudness (mean power over 0.1 s) every 10 ms.
    3. Of all stretches within 3 dB of the quietest point, cut in the middle of the latest.

    Args:
        waveform: Mono, shape (samples,).
        sampling_rate: Hz.
        window_s: Longest segment in seconds.
        search_s: How far before the end of the window to look, in seconds; half of the window by default, so
            that any pause in running speech is found.

    Returns:
        Consecutive segments that cover the waveform; a single one if it fits, none if it is empty.

    Raises:
        AudioError: The waveform is not one-dimensional.
        SettingsError: A duration is not positive, or the search is longer than the window.
    """
    if waveform.ndim != 1:
        raise AudioError(f"waveform of shape {waveform.shape}; expected mono, (samples,)")
    search = window_s / 2 if search_s is None else search_s
    if not (math.isfinite(window_s) and 0 < search <= window_s):
        raise SettingsError(f"window of {window_s} s searched over {search} s; expected 0 < search <= window")
    window = int(window_s * sampling_rate)
    searched = min(int(search * sampling_rate), window - 1)
    if window < 2 or searched < 1:
        raise SettingsError(f"window of {window_s} s at {sampling_rate} Hz holds too few samples to split")
    segments: list[Segment] = []
    start = 0
    while waveform.size - start > window:
        last = start + window
        first = last - searched
        # Leave something to recognise for the last segment, where the search range allows it.
        last = max(first + 1, min(last, waveform.size - int(SHORTEST_REST_S * sampling_rate)))
        cut = first + _quietest_point(waveform[first:last], sampling_rate)
        segments.append(Segment(start, cut))
        start = cut
    if start < waveform.size:
        segments.append(Segment(start, waveform.size))
    return segments


def _quietest_point(stretch: npt.NDArray[np.float32], sampling_rate: int) -> int:
    """Sample within the stretch (at least 1 of them) where a cut hurts least."""
    hop = max(1, int(FRAME_S * sampling_rate))
    if stretch.size < 2 * hop:
        return stretch.size // 2
    frames = stretch.size // hop
    power = np.square(stretch[: frames * hop].reshape(frames, hop), dtype=np.float64).mean(axis=1)
    width = min(frames, max(1, round(SMOOTHING_S / FRAME_S)))
    smooth = np.convolve(power, np.full(width, 1.0 / width), mode="valid")
    # Entry i is the loudness of frames i … i + width − 1, so its centre is half a width further on.
    quiet = smooth <= smooth.min() * 10.0 ** (EQUALLY_QUIET_DB / 10.0)
    ends = np.flatnonzero(quiet[:-1] & ~quiet[1:]) + 1 if quiet.size > 1 else np.zeros(0, np.intp)
    end = quiet.size if quiet[-1] else int(ends[-1])
    begin = end
    while begin > 0 and quiet[begin - 1]:
        begin -= 1
    centre = (begin + end - 1) / 2 + width / 2
    return min(stretch.size - 1, max(0, round(centre * hop)))
