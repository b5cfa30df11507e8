"""Is there speech in it? What keeps a recogniser from writing sentences about silence, noise and music.

Two witnesses, because each errs alone. The model: its probability of no speech, and how sure it is of its own
text. The sound: the pitch of a voice never stands still, that of notes, hums and drums does. A monotone voice
that the model understands is kept, and so is a moving voice that it hardly understands.
"""

import math
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.audio import Waveform, level_dbfs
from runtime.errors import SettingsError

LEVEL_FRAME_S: Final = 0.1  # the level of a recording is that of its loudest 0.1 s
PITCH_FRAME_S: Final = 0.04  # holds nearly three periods of the deepest voice
PITCH_HOP_S: Final = 0.01
LOWEST_PITCH: Final = 70.0  # Hz
HIGHEST_PITCH: Final = 400.0  # Hz
VOICED: Final = 0.6  # normalised autocorrelation from which a frame counts as voiced
AUDIBLE: Final = 1e-3  # share of the strongest frame's power from which a frame counts at all
SPAN: Final = 3  # frames: the pitch is compared with that of 30 ms before
# Octaves in 30 ms. Less is a pitch that stands still (0.4 %, a fifteenth of a semitone); more is a jump.
LEAST_MOVEMENT: Final = 0.006
MOST_MOVEMENT: Final = 0.12
# A text that zlib shrinks more repeats itself without end. Its mean log-probability, which loops please,
# says nothing then (openai/whisper, `compression_ratio_threshold`).
MOST_COMPRESSION: Final = 2.4
FRAMES_AT_ONCE: Final = 128  # of which the autocorrelation is taken together
STILL: Final = 0.625  # times the movement of a voice: a pitch that moves less than this stands still
LEAST_VOICED_FRAMES: Final = 20  # fewer pairs of voiced frames say nothing about the pitch


@dataclass(frozen=True, slots=True)
class SpeechGate:
    """When recognised text is not believed.

    | pitch | text is dropped where |
    |---|---|
    | moves | the model hears no speech *and* the text is improbable (Whisper's own rule) |
    | lies in between | the text is less probable than between "improbable" and "doubts", in proportion |
    | stands still | the model hears no speech *or* it doubts the text |
    | too little is voiced | the model hears no speech *or* the text is improbable |

    Where too little is voiced and the pitch stood still before, it is taken to stand still: music goes on. A
    text that repeats itself without end counts as improbable. A confident model is believed even where the
    pitch stands still: some people speak with an electrolarynx.

    Attributes:
        silence_dbfs: A segment whose loudest 0.1 s is below this level is silent and not decoded; dB relative
            to full scale (RMS).
        no_speech_prob: Probability of no speech above which the model hears no speech; Whisper's own value.
        log_prob: Mean log-probability per token below which a text is improbable; Whisper's own value.
        doubt: Mean log-probability per token below which the model doubts its text.
        pitch_movement: Share of voiced 30 ms in which the pitch moves, from which a voice is heard; below
            five eighths of it the pitch stands still.
    """

    silence_dbfs: float = -70.0
    no_speech_prob: float = 0.6
    log_prob: float = -1.0
    doubt: float = -0.2
    pitch_movement: float = 0.4

    def __post_init__(self) -> None:
        """Verify the thresholds.

        Raises:
            SettingsError: One is not a finite number, or a share or probability is out of [0, 1].
        """
        for name in ("silence_dbfs", "log_prob", "doubt", "no_speech_prob", "pitch_movement"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise SettingsError(f"{name} is {value!r}; expected a finite number")
        for name in ("no_speech_prob", "pitch_movement"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected a share from 0 to 1")

    def silent(self, waveform: Waveform, sampling_rate: int) -> "NoSpeech | None":
        """Judge before decoding; the reason if the segment is silent, else None."""
        level = loudest_dbfs(waveform, sampling_rate)
        if level >= self.silence_dbfs:
            return None
        return NoSpeech(f"silence: its loudest 0.1 s are at {_db(level)}, below {self.silence_dbfs:g}", level)

    def judge(
        self,
        waveform: Waveform,
        sampling_rate: int,
        text: str,
        log_prob: float,
        no_speech_prob: float | None,
        before: Waveform | None = None,
    ) -> "NoSpeech | None":
        """Judge what was recognised.

        Args:
            waveform: The segment, (samples,).
            sampling_rate: Hz.
            text: Its best hypothesis.
            log_prob: Mean log-probability per token of that.
            no_speech_prob: The model's probability of no speech; None where the checkpoint has none.
            before: The segment before it, (samples,), if there is one.

        Returns:
            Why there is no speech, or None.
        """
        hears_none = no_speech_prob is not None and no_speech_prob > self.no_speech_prob
        trust = -math.inf if repeats_itself(text) else log_prob
        if text and trust >= max(self.doubt, self.log_prob) and not hears_none:
            return None
        movement = self._movement(waveform, sampling_rate, before)
        if text and not self._drops(hears_none, trust, movement):
            return None
        reasons = ["text repeats itself"] if repeats_itself(text) else []
        reasons.append(f"mean log-probability {log_prob:.2f}")
        if no_speech_prob is not None:
            reasons.append(f"probability of no speech {no_speech_prob:.2f}")
        if movement is not None:
            reasons.append(f"pitch moves in {movement:.0%} of the voiced sound")
        reason = f"no speech: {', '.join(reasons)}" if text else f"no words: {', '.join(reasons)}"
        level = loudest_dbfs(waveform, sampling_rate)
        return NoSpeech(reason, level, no_speech_prob, log_prob, movement, text)

    def _movement(self, waveform: Waveform, sampling_rate: int, before: Waveform | None) -> float | None:
        """Return the movement of the pitch; with that of the segment before if alone it tells nothing."""
        movement = pitch_movement(waveform, sampling_rate)
        if movement is not None or before is None:
            return movement
        together = pitch_movement(np.concatenate([before, waveform]), sampling_rate)
        # A voice that was heard before does not speak for what comes after it.
        return together if together is not None and together < STILL * self.pitch_movement else None

    def _drops(self, hears_none: bool, log_prob: float, movement: float | None) -> bool:
        """Return whether a text is dropped; the table above."""
        if movement is None:
            return hears_none or log_prob < self.log_prob
        if movement >= self.pitch_movement:
            return hears_none and log_prob < self.log_prob
        still = STILL * self.pitch_movement
        if movement < still:
            return hears_none or log_prob < self.doubt
        share = (self.pitch_movement - movement) / (self.pitch_movement - still)
        return log_prob < self.log_prob + share * (self.doubt - self.log_prob)


DEFAULT_GATE: Final = SpeechGate()


@dataclass(frozen=True, slots=True)
class NoSpeech:
    """Why a segment has no transcription.

    Attributes:
        reason: In words.
        level_dbfs: Level of its loudest 0.1 s, dB relative to full scale (RMS); -inf for digital silence.
        no_speech_prob: The model's probability of no speech; None if not asked, or not known to it.
        log_prob: Mean log-probability per token of the best hypothesis; None if not decoded.
        pitch_movement: See `pitch_movement`; None if not measured or too little is voiced.
        dropped_text: The text that was not believed; empty where there was none.
    """

    reason: str
    level_dbfs: float
    no_speech_prob: float | None = None
    log_prob: float | None = None
    pitch_movement: float | None = None
    dropped_text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes; a level of -inf becomes null, which JSON has no number for."""
        return {
            "reason": self.reason,
            "level_dbfs": self.level_dbfs if math.isfinite(self.level_dbfs) else None,
            "no_speech_prob": self.no_speech_prob,
            "log_prob": self.log_prob,
            "pitch_movement": self.pitch_movement,
            "dropped_text": self.dropped_text,
        }


def repeats_itself(text: str) -> bool:
    """Whether zlib shrinks a text to less than 1 / 2.4, which short texts never reach."""
    content = text.encode()
    return len(content) > MOST_COMPRESSION * len(zlib.compress(content))


def loudest_dbfs(waveform: Waveform, sampling_rate: int) -> float:
    """Level of the loudest 0.1 s.

    Args:
        waveform: Shape (samples,), full scale ±1.
        sampling_rate: Hz.

    Returns:
        RMS level in dB relative to full scale; -inf for digital silence. It finds one word in a minute of
        silence, which the level of the whole would not.
    """
    frame = max(1, int(LEVEL_FRAME_S * sampling_rate))
    starts = range(0, max(1, waveform.size - frame // 2), frame)
    return max(level_dbfs(waveform[start : start + frame]) for start in starts)


def pitch_movement(waveform: Waveform, sampling_rate: int) -> float | None:
    """Share of the voiced sound in which the pitch moves.

    1. Frames of 40 ms every 10 ms; those 30 dB below the strongest do not count.
    2. Autocorrelation, freed of the window's own, between 70 and 400 Hz; its maximum, refined by a parabola,
       is the pitch, and its height the voicing (Boersma 1993).
    3. Over stretches of four voiced frames in a row: how often the last pitch differs from the first by
       0.4 to 8.7 %.

    Args:
        waveform: Shape (samples,).
        sampling_rate: Hz.

    Returns:
        In [0, 1]: about 0.7 for voices (0.4 and more, unless noise drowns them), under 0.25 for notes,
        chords, hums and drums; None where fewer than 20 such stretches are voiced.
    """
    track = _pitch_track(waveform, sampling_rate)
    if track is None:
        return None
    octaves, voiced = track
    whole = np.lib.stride_tricks.sliding_window_view(voiced, SPAN + 1).all(axis=1)
    if np.count_nonzero(whole) < LEAST_VOICED_FRAMES:
        return None
    change = np.abs(octaves[SPAN:] - octaves[:-SPAN])[whole]
    return float(np.mean((change > LEAST_MOVEMENT) & (change < MOST_MOVEMENT)))


def _pitch_track(
    waveform: Waveform, sampling_rate: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
    """Pitch period (octaves) and voicing of every frame, both (frames,); None if there are too few."""
    length, hop = int(PITCH_FRAME_S * sampling_rate), int(PITCH_HOP_S * sampling_rate)
    if waveform.size < length + (SPAN + LEAST_VOICED_FRAMES) * hop:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(waveform, length)[::hop]
    # The spectra of 12 s at once would take 20 MB.
    starts = range(0, len(frames), FRAMES_AT_ONCE)
    parts = [_pitches(frames[start : start + FRAMES_AT_ONCE], sampling_rate) for start in starts]
    octaves, heights, power = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return octaves, (heights > VOICED) & (power > AUDIBLE * power.max())


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


def _db(level: float) -> str:
    return f"{level:.0f} dBFS" if math.isfinite(level) else "digital zero"
