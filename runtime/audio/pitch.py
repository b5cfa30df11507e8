"""How the pitch of a sound moves: that of a voice never stands still, that of notes, hums and drums does."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.audio.load import Waveform

PITCH_FRAME_S: Final = 0.04  # holds nearly three periods of the deepest voice
PITCH_HOP_S: Final = 0.01
LOWEST_PITCH: Final = 70.0  # Hz
HIGHEST_PITCH: Final = 400.0  # Hz
VOICED: Final = 0.6  # normalised autocorrelation from which a frame counts as voiced
AUDIBLE: Final = 0.03  # share of the strongest frame's power from which a frame counts: less may be a hum
SPAN: Final = 3  # frames: the pitch is compared with that of 30 ms before
# Octaves in 30 ms. Less is a pitch that stands still (0.4 %, a fifteenth of a semitone); more is a jump.
LEAST_MOVEMENT: Final = 0.006
MOST_MOVEMENT: Final = 0.12
FRAMES_AT_ONCE: Final = 128  # of which the autocorrelation is taken together
LEAST_VOICED_FRAMES: Final = 20  # fewer pairs of voiced frames say nothing about the pitch
LEAST_VOICED_SHARE: Final = 0.25  # of all pairs that are audible: in a rumble fewer happen to look voiced
FEW_VOICED_FRAMES: Final = 40  # fewer say little, in a sound that is short: a single word's may stand still
SHORT_S: Final = 1.5  # from its first audible frame to its last


class PitchMovement(NamedTuple):
    """How much the pitch moves.

    Attributes:
        share: Of the voiced sound in which it moves, in [0, 1].
        is_brief: Whether there is so little sound, that of a word, that its pitch says little.
    """

    share: float
    is_brief: bool


def pitch_movement(waveform: Waveform, sampling_rate: int) -> PitchMovement | None:
    """Measure how much of the voiced sound has a pitch that moves.

    1. Frames of 40 ms every 10 ms; those 15 dB below the strongest do not count.
    2. Autocorrelation, freed of the window's own, between 70 and 400 Hz; its maximum, refined by a parabola,
       is the pitch, and its height the voicing (Boersma 1993).
    3. Over stretches of four voiced frames in a row: how often the last pitch differs from the first by
       0.4 to 8.7 %.

    Args:
        waveform: Shape (samples,).
        sampling_rate: Hz.

    Returns:
        A share of about 0.7 for voices (0.4 and more, unless noise drowns them), under 0.25 for notes,
        chords, hums and drums; None where fewer than 20 such stretches are voiced, or fewer than a quarter of
        those that are audible (in speech 0.35 to 0.95, in rumbling noise under 0.2).
    """
    track = _pitch_track(waveform, sampling_rate)
    if track is None:
        return None
    octaves, voiced, audible = track
    whole = _in_a_row(voiced)
    stretches = int(np.count_nonzero(whole))
    if stretches < max(LEAST_VOICED_FRAMES, LEAST_VOICED_SHARE * np.count_nonzero(_in_a_row(audible))):
        return None
    change = np.abs(octaves[SPAN:] - octaves[:-SPAN])[whole]
    moves = (change > LEAST_MOVEMENT) & (change < MOST_MOVEMENT)
    heard = np.flatnonzero(audible)
    is_short = (heard[-1] - heard[0]) * PITCH_HOP_S < SHORT_S
    return PitchMovement(float(np.mean(moves)), bool(is_short and stretches < FEW_VOICED_FRAMES))


def _in_a_row(frames: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Tell of every frame but the last ones whether it and the `SPAN` behind it are all true."""
    return np.asarray(np.lib.stride_tricks.sliding_window_view(frames, SPAN + 1).all(axis=1), np.bool_)


def _pitch_track(
    waveform: Waveform, sampling_rate: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None:
    """Pitch period (octaves) of every frame, whether it is voiced, and audible; None if there are too few."""
    length, hop = int(PITCH_FRAME_S * sampling_rate), int(PITCH_HOP_S * sampling_rate)
    if waveform.size < length + (SPAN + LEAST_VOICED_FRAMES) * hop:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(waveform, length)[::hop]
    # The spectra of 12 s at once would take 20 MB.
    starts = range(0, len(frames), FRAMES_AT_ONCE)
    parts = [_pitches(frames[start : start + FRAMES_AT_ONCE], sampling_rate) for start in starts]
    octaves, heights, power = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    audible = power > AUDIBLE * power.max()
    return octaves, audible & (heights > VOICED), audible


def _pitches(frames: Waveform, sampling_rate: int) -> tuple[npt.NDArray[np.float64], ...]:
    """Pitch period (octaves), its autocorrelation and the power of every frame, all (frames,)."""
    length = frames.shape[1]
    centred = frames - frames.mean(axis=1, keepdims=True)
    window = np.hanning(length)
    size = 1 << (2 * length - 1).bit_length()
    own = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(centred * window, size)) ** 2)
    # One lag more on each side, for the parabola.
    first, last = int(sampling_rate / HIGHEST_PITCH) - 1, int(sampling_rate / LOWEST_PITCH) + 1
    lags = slice(first, last + 1)
    height = correlation[:, lags] / (correlation[:, :1] + 1e-12) / (own[lags] / own[0])
    peak = height[:, 1:-1].argmax(axis=1) + 1
    row = np.arange(len(height))
    before, top, after = height[row, peak - 1], height[row, peak], height[row, peak + 1]
    curvature = before - 2.0 * top + after
    shift = np.divide(
        0.5 * (before - after), curvature, out=np.zeros_like(top), where=np.abs(curvature) > 1e-12
    )
    return np.log2(first + peak + np.clip(shift, -0.5, 0.5)), top, np.square(centred).sum(axis=1)
