"""Speech to n-best lists: an utterance, a batch of them, or a recording of any length, segment by segment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from runtime.audio.load import SAMPLING_RATE, AudioSource, Waveform, stream_audio
from runtime.audio.segmentation import DEFAULT_PAUSE_S, Segment, Splitter
from runtime.results import Hypothesis, NoSpeech, join_hypotheses
from runtime.speech_gate import DEFAULT_GATE, SpeechGate
from runtime.whisper.beam_search import FinishedHypothesis
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.cross_attention import CrossAttention
from runtime.whisper.language_names import language_code
from runtime.whisper.model import FirstPosition, WhisperModel
from runtime.whisper.words import lower

# So much of the pause that ended a segment is decoded with it. Noise that goes on for seconds after the sound
# makes the pocket model add words (12-minute recordings: 18.6 % instead of 17.7 % WER with all of it).
TAIL_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class RecognisedSegment:
    """A stretch of a recording with its n-best list.

    Attributes:
        start_s: Its start in seconds from that of the recording.
        end_s: Where it ends, or where the pause begins that ended it.
        hypotheses: Distinct hypotheses, best first; none where there is no speech.
        no_speech_prob: The model's probability of no speech; None if silent, or not known to the checkpoint.
        no_speech: Why there is no speech, else None.
    """

    start_s: float
    end_s: float
    hypotheses: list[Hypothesis]
    no_speech_prob: float | None = None
    no_speech: NoSpeech | None = None


@dataclass(frozen=True, slots=True)
class Recognizer:
    """Whisper with all that decides about its text but the picture.

    Attributes:
        whisper: The model.
        search: How to search.
        language: Language code or name; None takes the checkpoint's own or, where it states none, detects
            it, segment by segment.
        gate: When text is not believed; None believes everything.
        pause_s: Shortest pause that ends a segment of a recording longer than the window, in seconds.
    """

    whisper: WhisperModel
    search: BeamSearchSettings
    language: str | None = None
    gate: SpeechGate | None = DEFAULT_GATE
    pause_s: float = DEFAULT_PAUSE_S

    def __post_init__(self) -> None:
        """Refuse an unknown language and an impossible pause now, not at the first request."""
        if self.language is not None:
            self.whisper.tokens.prompt(self.language)
        self._splitter()

    @property
    def sampling_rate(self) -> int:
        """Hz of the waveforms that the model takes."""
        return self.whisper.features.sampling_rate

    def nbest(self, waveforms: Sequence[Waveform]) -> list[list[Hypothesis]]:
        """Recognise utterances that fit the window together; the lists are the same as one by one."""
        lists: dict[int, list[Hypothesis]] = {}
        for places, cross in self.whisper.encode_speech(waveforms):
            first = self.whisper.first_position(cross) if self._detects_language() else None
            lists |= zip(places, self._lists(cross, first), strict=True)
        return [lists[place] for place in range(len(waveforms))]

    def long_nbest(self, waveform: Waveform) -> list[Hypothesis]:
        """Recognise a recording segment by segment and join the lists, whether or not there is speech."""
        lists = [self.nbest([segment.waveform])[0] for segment in self._splitter().split(iter([waveform]))]
        return join_hypotheses(lists, self.search.count)

    def segments(self, audio: AudioSource, sr: int = SAMPLING_RATE) -> Iterator[RecognisedSegment]:
        """Recognise a recording of any length, one segment at a time.

        Args:
            audio: Waveform, path, bytes, or open file; read block by block.
            sr: Sampling rate of a waveform.

        Raises:
            AudioError: The audio cannot be used.
        """
        before: Waveform | None = None
        for segment in self._splitter().split(stream_audio(audio, sr, self.sampling_rate)):
            yield self._recognise(segment, before)
            before = segment.waveform

    def beginning(self, audio: AudioSource, sr: int = SAMPLING_RATE) -> tuple[RecognisedSegment, float]:
        """Recognise what fits the window and nothing else; return it and the seconds of the whole."""
        window = self.whisper.features.n_samples
        kept: list[Waveform] = []
        samples = 0
        for block in stream_audio(audio, sr, self.sampling_rate):
            if samples < window:
                kept.append(block[: window - samples])
            samples += block.size
        return self._recognise(Segment(0, np.concatenate(kept))), samples / self.sampling_rate

    def _recognise(self, segment: Segment, before: Waveform | None = None) -> RecognisedSegment:
        rate = self.sampling_rate
        times = segment.start / rate, (segment.end - segment.pause) / rate
        waveform = segment.waveform[: segment.waveform.size - max(0, segment.pause - int(TAIL_S * rate))]
        silent = self.gate.silent(waveform, self.sampling_rate) if self.gate else None
        if silent is not None:
            return RecognisedSegment(*times, [], None, silent)
        ((_, cross),) = self.whisper.encode_speech([waveform])
        first = self.whisper.first_position(cross)
        (hypotheses,) = self._lists(cross, first)
        probability = float(first.no_speech_prob[0])
        no_speech_prob = None if np.isnan(probability) else probability
        reason = None
        if self.gate is not None and hypotheses:
            best = hypotheses[0]
            reason = self.gate.judge(waveform, rate, best.text, best.score, no_speech_prob, before)
        return RecognisedSegment(*times, [] if reason else hypotheses, no_speech_prob, reason)

    def _lists(self, cross: CrossAttention, first: FirstPosition | None) -> list[list[Hypothesis]]:
        languages = first.languages if first is not None and self._detects_language() else None
        spoken = languages if languages is not None else [self.language] * cross.batch
        # A language that was detected takes the task of the checkpoint's own prompts.
        task = self.whisper.tokens.defaults.task if languages is not None else None
        prompts = [self.whisper.tokens.prompt(language, task) for language in spoken]
        default = self.whisper.tokens.defaults.language
        names = [language or default for language in spoken]
        codes = [None if name is None else language_code(name) for name in names]
        lists = self.whisper.nbest(cross, prompts, self.search, languages=codes)
        return [self._readable(found, code) for found, code in zip(lists, codes, strict=True)]

    def _detects_language(self) -> bool:
        return self.language is None and self.whisper.tokens.detects_language

    def _readable(self, finished: Sequence[FinishedHypothesis], language: str | None) -> list[Hypothesis]:
        """Decode, strip, lower-case, drop later duplicates of a text, sort by score (stable)."""
        distinct: dict[str, Hypothesis] = {}
        for hypothesis in finished:
            display = self.whisper.tokens.decode(hypothesis.tokens).strip()
            text = lower(display, language)
            distinct.setdefault(text, Hypothesis(text, hypothesis.score, hypothesis.tokens, display))
        return sorted(distinct.values(), key=lambda hypothesis: -hypothesis.score)

    def _splitter(self) -> Splitter:
        return Splitter(self.sampling_rate, self.whisper.features.window_s, pause_s=self.pause_s)
