"""Is there speech in it? What keeps a recogniser from writing sentences about silence, noise and music.

Two witnesses, because each errs alone. The model: its probability of no speech, and how sure it is of its own
text. The sound: the pitch of a voice never stands still, that of notes, hums and drums does. A monotone voice
that the model understands is kept, and so is a moving voice that it hardly understands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from runtime.audio.load import Waveform, level_dbfs
from runtime.audio.pitch import PitchMovement, pitch_movement
from runtime.errors import SettingsError
from runtime.results import NoSpeech, SegmentTranscription
from runtime.speech_gate.repetition import repeats_itself

LEVEL_FRAME_S: Final = 0.1  # the level of a recording is that of its loudest 0.1 s
STILL: Final = 0.625  # times the movement of a voice: a pitch that moves less than this stands still
SURE: Final = 0.5  # times the probability of no speech that counts: below it the model is sure of speech
WORD_S: Final = 1.5  # a segment shorter than this may be a single word
TOLD: Final = 3  # dropped texts that a warning quotes


@dataclass(frozen=True, slots=True)
class SpeechGate:
    """When recognised text is not believed.

    | pitch | text is dropped where |
    |---|---|
    | moves | the model hears no speech *and* the text is improbable (Whisper's own rule) |
    | lies in between | the text is less probable than between "improbable" and "doubts", in proportion |
    | stands still | the model hears no speech *or* it doubts the text |
    | too little is voiced | the model hears no speech *or* the text is improbable |

    Where the sound is short and little of it voiced, as in a single word, a still pitch says little: a model
    that is sure of speech (half the probability of no speech that counts) loses improbable texts only.
    Where too little is voiced and the pitch stood still before, it is taken to stand still: music goes on. A
    text that repeats itself (`repetition.py`) counts as improbable, since its probability says nothing.
    A confident model is believed even where the pitch stands still: some people speak with an electrolarynx.

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

    def silent(self, waveform: Waveform, sampling_rate: int) -> NoSpeech | None:
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
    ) -> NoSpeech | None:
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
        loops = repeats_itself(text)
        trust = -math.inf if loops else log_prob
        if text and trust >= max(self.doubt, self.log_prob) and not hears_none:
            return None
        movement = self._movement(waveform, sampling_rate, before)
        sure = no_speech_prob is not None and no_speech_prob < SURE * self.no_speech_prob
        if text and not self._drops(hears_none, sure, trust, movement):
            return None
        reasons = ["text repeats itself"] if loops else []
        reasons.append(f"mean log-probability {log_prob:.2f}")
        if no_speech_prob is not None:
            reasons.append(f"probability of no speech {no_speech_prob:.2f}")
        if movement is not None:
            reasons.append(f"pitch moves in {movement.share:.0%} of the voiced sound")
        reason = f"no speech: {', '.join(reasons)}" if text else f"no words: {', '.join(reasons)}"
        level = loudest_dbfs(waveform, sampling_rate)
        share = None if movement is None else movement.share
        return NoSpeech(reason, level, no_speech_prob, log_prob, share, text)

    def _movement(
        self, waveform: Waveform, sampling_rate: int, before: Waveform | None
    ) -> PitchMovement | None:
        """Return the movement of the pitch; with that of the segment before if alone it tells nothing."""
        movement = pitch_movement(waveform, sampling_rate)
        if movement is not None or before is None:
            return movement
        together = pitch_movement(np.concatenate([before, waveform]), sampling_rate)
        # A voice that was heard before does not speak for what comes after it.
        if together is None or together.share >= STILL * self.pitch_movement:
            return None
        return together._replace(is_brief=waveform.size < WORD_S * sampling_rate)

    def _drops(self, hears_none: bool, sure: bool, log_prob: float, movement: PitchMovement | None) -> bool:
        """Return whether a text is dropped; the table above."""
        if movement is None:
            return hears_none or log_prob < self.log_prob
        if movement.share >= self.pitch_movement:
            return hears_none and log_prob < self.log_prob
        doubt = self.log_prob if movement.is_brief and sure else self.doubt
        still = STILL * self.pitch_movement
        if movement.share < still:
            return hears_none or log_prob < doubt
        share = (self.pitch_movement - movement.share) / (self.pitch_movement - still)
        return log_prob < self.log_prob + share * (doubt - self.log_prob)


DEFAULT_GATE: Final = SpeechGate()


def dropped_warning(segments: Sequence[SegmentTranscription]) -> str | None:
    """Return a warning of texts that were not believed beside others that were; None where there is none."""
    dropped = [(s, s.no_speech.dropped_text) for s in segments if s.no_speech and s.no_speech.dropped_text]
    if not dropped or len(dropped) == len(segments):
        return None
    told = ", ".join(f"{s.start_s:.1f} to {s.end_s:.1f} s {text!r}" for s, text in dropped[:TOLD])
    more = ", …" if len(dropped) > TOLD else ""
    return (
        f"The text of {len(dropped)} of {len(segments)} segments was not believed, as of a sound that is no "
        f"speech: {told}{more}"
    )


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


def _db(level: float) -> str:
    return f"{level:.0f} dBFS" if math.isfinite(level) else "digital zero"
