"""Splitting of recordings that are longer than the window: in their pauses, else at the quietest points.

A recording comes as a stream of blocks and leaves as a stream of segments, so that memory does not grow with
its length. No sample is lost or heard twice: the segments cover the recording end to end.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from runtime.errors import AudioError, SettingsError

Waveform = npt.NDArray[np.float32]

FRAME_S: Final = 0.01  # seconds from one candidate for a cut to the next
SMOOTHING_S: Final = 0.1  # loudness is averaged over it: shorter gaps lie within words (plosives)
SHORTEST_REST_S: Final = 0.5  # no cut leaves a shorter last segment: too little to recognise anything from
EQUALLY_QUIET_DB: Final = 3.0  # points whose levels differ by no more are equally quiet
# A pause lies in the lowest 20 % (in dB) between the quietest and the loudest 0.1 s in view. Where less than
# 12 dB separate them there is no pause to be told from sound; 60 dB below the loudest, all is pause.
PAUSE_SHARE: Final = 0.2
LEAST_CONTRAST_DB: Final = 12.0
MOST_CONTRAST_DB: Final = 60.0
DEFAULT_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a recording.

    Attributes:
        start: Its first sample, counted from the start of the recording.
        waveform: Its samples, float32, (samples,).
        pause: How many of them, at its end, belong to a pause that ended it; what fades into it does not.
    """

    start: int
    waveform: Waveform
    pause: int = 0

    @property
    def end(self) -> int:
        """One past the last sample."""
        return self.start + self.waveform.size


@dataclass(frozen=True, slots=True)
class Splitter:
    """How recordings are split.

    1. A recording that fits the window stays whole.
    2. In a longer one, a pause of `pause_s` or more ends a segment. The pause belongs to it as far as the
       window reaches; what is left of it is a segment of its own. The next one starts with its sound: a quiet
       lead makes models that were trained on trimmed clips misread the first words (the pocket model after
       0.1 s of it: 24 % of all words instead of 19 %).
    3. Where a window holds no such pause, the cut lies in its last `search_s`: in the middle of the latest of
       all stretches that are within 3 dB of the quietest point there.

    Attributes:
        sampling_rate: Hz.
        window_s: Longest segment in seconds.
        search_s: How far before the end of the window to look for the quietest point, in seconds; None for
            half of the window, so that any pause in running speech is found.
        pause_s: Shortest pause that ends a segment, in seconds; infinity for none.
    """

    sampling_rate: int
    window_s: float
    search_s: float | None = None
    pause_s: float = DEFAULT_PAUSE_S

    def __post_init__(self) -> None:
        """Verify the durations.

        Raises:
            SettingsError: A duration is not positive, the search is longer than the window, or the window
                holds too few samples.
        """
        if not (math.isfinite(self.window_s) and 0 < self._search_s <= self.window_s):
            raise SettingsError(
                f"window of {self.window_s} s searched over {self._search_s} s; expected 0 < search <= window"
            )
        if not self.pause_s >= 2 * SMOOTHING_S:
            raise SettingsError(
                f"pause_s is {self.pause_s}; expected {2 * SMOOTHING_S} s or more (inf: cut only where the "
                "window is full)"
            )
        if self._window < 2 or self._searched < 1:
            raise SettingsError(
                f"window of {self.window_s} s at {self.sampling_rate} Hz holds too few samples to split"
            )

    @property
    def _window(self) -> int:
        return int(self.window_s * self.sampling_rate)

    @property
    def _search_s(self) -> float:
        return self.window_s / 2 if self.search_s is None else self.search_s

    @property
    def _searched(self) -> int:
        return min(int(self._search_s * self.sampling_rate), self._window - 1)

    @property
    def _hop(self) -> int:
        return max(1, int(FRAME_S * self.sampling_rate))

    def split(self, blocks: Iterator[Waveform]) -> Iterator[Segment]:
        """Split a stream.

        Args:
            blocks: Consecutive mono parts of a recording, each (samples,).

        Yields:
            Consecutive segments that cover the recording; none if it is empty.

        Raises:
            AudioError: A block is not one-dimensional.
        """
        # A pause that begins at the end of the window has to be seen whole, and a last sliver foreseen.
        look_ahead = max(SHORTEST_REST_S, self.pause_s if math.isfinite(self.pause_s) else 0.0)
        view = self._window + int(look_ahead * self.sampling_rate) + 1
        held, start, ended, pause = np.zeros(0, np.float32), 0, False, 0
        while True:
            while held.size < view and not ended:
                block = next(blocks, None)
                ended = block is None
                if block is not None:
                    held = _joined(held, block)
            if held.size == 0:
                return
            if ended and start == 0 and held.size <= self._window:
                yield Segment(0, held)
                return
            cut, pause = self._cut(held[:view], in_pause=pause > 0)
            yield Segment(start, held[:cut], self._settled(held[:cut], pause))
            start, held = start + cut, held[cut:]

    def _cut(self, held: Waveform, *, in_pause: bool) -> tuple[int, int]:
        """Return the length of the next segment and of the pause at its end.

        Args:
            held: What lies ahead, or all that is left.
            in_pause: Whether it begins with what is left of a pause.
        """
        hop = self._hop
        shortest = int(SHORTEST_REST_S * self.sampling_rate)
        for begin, end in _quiet_runs(held, hop):
            onset = end if end < held.size - hop else held.size
            if begin == 0:  # before the first sound, or what an earlier pause has left
                if (2 * hop if in_pause else shortest) <= onset < held.size:
                    return min(onset, self._window), 0
            elif end - begin >= self.pause_s * self.sampling_rate and begin <= self._window:
                cut = min(onset, self._window)
                if 0 < held.size - cut < shortest:  # a last sliver: it stays here, or takes some of the pause
                    if held.size <= self._window:
                        break
                    cut = max(begin, held.size - shortest)
                return cut, cut - begin
        return (held.size, 0) if held.size <= self._window else (self._quietest_cut(held), 0)

    def _settled(self, segment: Waveform, pause: int) -> int:
        """Return how many samples of the pause at a segment's end have come down to the level of that pause.

        Against loud sound, its fading end is quiet too, as is the room that it was recorded in.
        """
        if pause == 0:
            return 0
        hop = self._hop
        level = _decibels(_smooth_power(segment, hop))
        first = (segment.size - pause) // hop
        quiet = np.maximum(level[first:], level.max() - MOST_CONTRAST_DB)
        if quiet.size == 0:
            return pause
        settled = int((quiet <= np.median(quiet) + EQUALLY_QUIET_DB).argmax())
        return min(pause, segment.size - (first + settled) * hop)

    def _quietest_cut(self, held: Waveform) -> int:
        last = self._window
        first = last - self._searched
        # Leave something to recognise for the last segment, where the search range allows it.
        last = max(first + 1, min(last, held.size - int(SHORTEST_REST_S * self.sampling_rate)))
        return first + _quietest_point(held[first:last], self._hop)


def _joined(held: Waveform, block: Waveform) -> Waveform:
    if block.ndim != 1:
        raise AudioError(f"waveform of shape {block.shape}; expected mono, (samples,)")
    return np.concatenate([held, block]) if held.size else block


def _smooth_power(stretch: Waveform, hop: int) -> npt.NDArray[np.float64]:
    """Mean power over 0.1 s, every `hop` samples; entry i is that of frames i … i + width − 1."""
    frames = stretch.size // hop
    power = np.square(stretch[: frames * hop].reshape(frames, hop), dtype=np.float64).mean(axis=1)
    width = min(frames, max(1, round(SMOOTHING_S / FRAME_S)))
    smooth: npt.NDArray[np.float64] = np.convolve(power, np.full(width, 1.0 / width), mode="valid")
    return smooth


def _decibels(power: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 10.0 * np.log10(np.maximum(power, 1e-20))


def _quiet_runs(stretch: Waveform, hop: int) -> list[tuple[int, int]]:
    """Return (first sample, one past the last) of every pause, in steps of `hop`; none without contrast."""
    frames = stretch.size // hop
    if frames == 0:
        return []
    level = _decibels(_smooth_power(stretch, hop))
    loudest = level.max()
    quietest = max(level.min(), loudest - MOST_CONTRAST_DB)
    if loudest - quietest < LEAST_CONTRAST_DB:
        return []
    threshold = quietest + PAUSE_SHARE * (loudest - quietest)
    # A frame is quiet if any 0.1 s that contain it are …
    width = frames - level.size + 1
    low = np.convolve(level <= threshold, np.ones(width))[:frames] > 0.5
    # … but for the sound at its end, which is too short yet to raise the mean.
    loud = np.square(stretch[: frames * hop].reshape(frames, hop)).mean(axis=1) > 10.0 ** (threshold / 10.0)
    runs: list[tuple[int, int]] = []
    for begin, end in _runs(low):
        last = end
        while end < frames and last > begin and loud[last - 1]:
            last -= 1
        onset = last * hop if end == frames else _onset(stretch, last * hop, hop, threshold)
        runs.append((begin * hop, onset))
    return runs


def _onset(stretch: Waveform, end: int, hop: int, threshold: float) -> int:
    """Find within a frame, to a tenth of it, where the sound after a pause begins.

    Log-mel frames start anew in every segment: a start 5 ms off gives other features of the same sound.
    """
    fine = max(1, hop // 10)
    first = max(0, end - hop)
    around = stretch[first : first + 2 * hop // fine * fine].reshape(-1, fine)
    loud = np.square(around).mean(axis=1) > 10.0 ** (threshold / 10.0)
    return first + int(loud.argmax()) * fine if loud.any() else end


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (first, one past the last) of every stretch of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _quietest_point(stretch: Waveform, hop: int) -> int:
    """Sample within the stretch (at least 1 of them) where a cut hurts least."""
    if stretch.size < 2 * hop:
        return stretch.size // 2
    smooth = _smooth_power(stretch, hop)
    width = stretch.size // hop - smooth.size + 1
    # The centre of an entry is half a width further on than its place.
    begin, end = _runs(smooth <= smooth.min() * 10.0 ** (EQUALLY_QUIET_DB / 10.0))[-1]
    centre = (begin + end - 1) / 2 + width / 2
    return min(stretch.size - 1, max(0, round(centre * hop)))
