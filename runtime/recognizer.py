"""Speech to n-best lists: an utterance, a batch of them, or a recording of any length, segment by segment."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from runtime.audio.load import SAMPLING_RATE, AudioSource, Waveform, stream_audio
from runtime.audio.segmentation import DEFAULT_PAUSE_S, Segment, Splitter
from runtime.errors import SettingsError
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
# Where nobody says how long a text may be: so many tokens, and so many more for each second of sound. Speech
# takes a fraction of it (docs/research/most-tokens.md); other scripts take up to 23 times as many as English.
LEAST_TOKENS: Final = 40
TOKENS_PER_SECOND: Final = {"en": 20.0, "other": 80.0}


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
        tokens_per_second: Most tokens that a second of sound adds to `LEAST_TOKENS`, where `search` states no
            limit; None for `TOKENS_PER_SECOND` of its language, inf for what the checkpoint allows.
    """

    whisper: WhisperModel
    search: BeamSearchSettings
    language: str | None = None
    gate: SpeechGate | None = DEFAULT_GATE
    pause_s: float = DEFAULT_PAUSE_S
    tokens_per_second: float | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown language, an impossible pause and an impossible rate now."""
        rate = self.tokens_per_second
        if rate is not None and (isinstance(rate, bool) or not rate > 0):
            raise SettingsError(
                f"tokens_per_second is {rate!r}; expected a number above 0, inf for no such limit"
            )
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
            samples = [waveforms[place].size for place in places]
            lists |= zip(places, self._lists(cross, first, samples), strict=True)
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
        (hypotheses,) = self._lists(cross, first, [waveform.size])
        probability = float(first.no_speech_prob[0])
        no_speech_prob = None if np.isnan(probability) else probability
        reason = None
        if self.gate is not None and hypotheses:
            best = hypotheses[0]
            reason = self.gate.judge(waveform, rate, best.text, best.score, no_speech_prob, before)
        return RecognisedSegment(*times, [] if reason else hypotheses, no_speech_prob, reason)

    @property
    def token_limit(self) -> dict[str, float] | None:
        """How many tokens a text may have, as an n-best file states it; None for as many as anyone allows."""
        rate = self.tokens_per_second
        if rate == math.inf or self.search.max_new_tokens is not None:
            return None
        rates = TOKENS_PER_SECOND if rate is None else dict.fromkeys(TOKENS_PER_SECOND, rate)
        return {"least": LEAST_TOKENS, **rates}

    def most_tokens(self, samples: Sequence[int], languages: Sequence[str | None]) -> list[int] | None:
        """Return the most tokens of each utterance; None where they do not depend on its length.

        Args:
            samples: Lengths of the utterances.
            languages: Codes of their languages, as far as they are known.
        """
        limit = self.token_limit
        if limit is None:
            return None
        english_only = not self.whisper.tokens.is_multilingual
        rates = [limit["en" if english_only or code == "en" else "other"] for code in languages]
        return [
            LEAST_TOKENS + math.ceil(rate * size / self.sampling_rate)
            for rate, size in zip(rates, samples, strict=True)
        ]

    def _lists(
        self, cross: CrossAttention, first: FirstPosition | None, samples: Sequence[int]
    ) -> list[list[Hypothesis]]:
        languages = first.languages if first is not None and self._detects_language() else None
        spoken = languages if languages is not None else [self.language] * cross.batch
        # A language that was detected takes the task of the checkpoint's own prompts.
        task = self.whisper.tokens.defaults.task if languages is not None else None
        prompts = [self.whisper.tokens.prompt(language, task) for language in spoken]
        default = self.whisper.tokens.defaults.language
        names = [language or default for language in spoken]
        codes = [None if name is None else language_code(name) for name in names]
        most_tokens = self.most_tokens(samples, codes)
        lists = self.whisper.nbest(cross, prompts, self.search, languages=codes, most_tokens=most_tokens)
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
