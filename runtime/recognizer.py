"""Speech to n-best lists: an utterance, a batch of them, or a recording of any length, segment by segment."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.audio.load import SAMPLING_RATE, AudioSource, Waveform, stream_audio
from runtime.audio.segmentation import DEFAULT_PAUSE_S, Segment, Splitter
from runtime.errors import SettingsError
from runtime.results import Hypothesis, NoSpeech, join_hypotheses
from runtime.speech_gate.gate import DEFAULT_GATE, SpeechGate
from runtime.whisper.beam_search import FinishedHypothesis, GivenUp
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.cross_attention import CrossAttention
from runtime.whisper.first_position import FirstPosition
from runtime.whisper.language_names import language_code
from runtime.whisper.model import WhisperModel
from runtime.whisper.words import lower

# So much of the pause that ended a segment is decoded with it. Noise that goes on for seconds after the sound
# makes the pocket model add words (12-minute recordings: 18.6 % instead of 17.7 % WER with all of it).
TAIL_S: Final = 0.25
# Where nobody says how long a text may be: so many tokens, and so many more for each second of sound. Speech
# takes a fraction of it (docs/research/most-tokens.md); other scripts take up to 23 times as many as English.
LEAST_TOKENS: Final = 40
TOKENS_PER_SECOND: Final = {"en": 20.0, "other": 80.0}


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is recognised at a time: a segment of a recording, and what has to be known of it.

    Attributes:
        segment: No longer than the model's window.
        language: Language code or name; None takes the checkpoint's own or, where it states none, detects it.
        before: The segment before it, (samples,), where there is one.
    """

    segment: Segment
    language: str | None = None
    before: Waveform | None = None


@dataclass(frozen=True, slots=True)
class RecognisedSegment:
    """A stretch of a recording with its n-best list.

    Attributes:
        start_s: Its start in seconds from that of the recording.
        end_s: Where it ends, or where the pause begins that ended it.
        hypotheses: Distinct hypotheses, best first; none where there is no speech.
        no_speech_prob: The model's probability of no speech; None if silent, or not known to the checkpoint.
        no_speech: Why there is no speech, else None.
        language: Code of the language that it was decoded in; None where nobody knows.
    """

    start_s: float
    end_s: float
    hypotheses: list[Hypothesis]
    no_speech_prob: float | None = None
    no_speech: NoSpeech | None = None
    language: str | None = None


# Told of an utterance that is recognised: its place among those that were given, and what it is.
Deliver = Callable[[int, RecognisedSegment], object]


class _Spoken(NamedTuple):
    """The language of an utterance: as the prompt names it, its code, and the task; None for the default."""

    asked: str | None
    code: str | None
    task: str | None = None


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
        """Refuse what the model cannot do now, not at the first request.

        Raises:
            SettingsError: The checkpoint has no such language, the search does not fit it, or the pause or
                the rate of tokens is impossible.
        """
        rate = self.tokens_per_second
        if rate is not None and (isinstance(rate, bool) or not rate > 0):
            raise SettingsError(
                f"tokens_per_second is {rate!r}; expected a number above 0, inf for no such limit"
            )
        if self.language is not None:
            self.whisper.tokens.prompt(self.language)
        tokens = self.whisper.tokens
        # Prompts of one checkpoint are of one length, whatever the language.
        prompt = tokens.prompt(next(iter(tokens.languages), None))
        self.search.new_token_limit(len(prompt), tokens.max_length, tokens.vocab_size)
        self._splitter()

    @property
    def sampling_rate(self) -> int:
        """Hz of the waveforms that the model takes."""
        return self.whisper.features.sampling_rate

    def nbest(self, waveforms: Sequence[Waveform]) -> list[list[Hypothesis]]:
        """Recognise utterances that fit the window together; the lists are the same as one by one."""
        lists: dict[int, list[Hypothesis]] = {}
        for places, cross in self.whisper.encode_speech(waveforms, len(waveforms)):
            codes = self._codes([self.language] * len(places))
            if self._must_detect(codes):
                codes = self._detected(codes, self.whisper.first_position(cross))
            samples = [waveforms[place].size for place in places]
            lists |= zip(places, self._lists(cross, codes, samples), strict=True)
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
        for utterance in self.utterances(stream_audio(audio, sr, self.sampling_rate), self.language):
            yield self.recognise([utterance])[0]

    def utterances(self, blocks: Iterator[Waveform], language: str | None) -> Iterator[Utterance]:
        """Split a recording into what is recognised at a time.

        Args:
            blocks: Consecutive parts of it, mono, at `sampling_rate`.
            language: As in `Utterance`.
        """
        before: Waveform | None = None
        for segment in self._splitter().split(blocks):
            yield Utterance(segment, language, before)
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
        utterance = Utterance(Segment(0, np.concatenate(kept)), self.language)
        return self.recognise([utterance])[0], samples / self.sampling_rate

    def recognise(
        self,
        utterances: Iterable[Utterance],
        given_up: GivenUp = tuple,
        most: int | None = None,
        deliver: Deliver | None = None,
    ) -> list[RecognisedSegment]:
        """Recognise several utterances together, each with its n-best list or why it has none.

        Args:
            utterances: Of one recording or of several; the results are the same as one by one. With `most`,
                on a CPU, the next one is asked for when those before it are encoded: some may still come.
            given_up: Asked between the steps of the work for utterances that nobody waits for any more; what
                is returned for them is of no use.
            most: How many there may be; None for as many as there are now.
            deliver: Told of every utterance as soon as it is recognised, while others are not yet: its place
                among them, and what is returned for it.
        """
        if most is None:
            utterances = list(utterances)
            most = len(utterances)
        rate = self.sampling_rate
        sounding: dict[int, tuple[Utterance, Waveform]] = {}
        segments: dict[int, RecognisedSegment] = {}

        def tell(place: int, segment: RecognisedSegment) -> None:
            segments[place] = segment
            if deliver is not None:
                deliver(place, segment)

        def sound() -> Iterator[Waveform]:
            for place, utterance in enumerate(utterances):
                waveform = _with_short_tail(utterance.segment, rate)
                silence = self.gate.silent(waveform, rate) if self.gate else None
                if silence is None:
                    sounding[place] = (utterance, waveform)
                    yield waveform
                else:
                    tell(place, RecognisedSegment(*_times(utterance.segment, rate), [], None, silence))

        for group, cross in self.whisper.encode_speech(sound(), most, _renumbered(given_up, sounding)):
            known = list(sounding)
            places = [known[number] for number in group]
            self._hear(cross, {place: sounding[place] for place in places}, given_up, tell)
        return [segments[place] for place in range(len(segments))]

    def _hear(
        self,
        cross: CrossAttention,
        speech: Mapping[int, tuple[Utterance, Waveform]],
        given_up: GivenUp,
        deliver: Deliver,
    ) -> None:
        """Decode utterances that were encoded together, by their places."""
        places = list(speech)
        codes = self._codes([utterance.language for utterance, _ in speech.values()])
        no_speech_probs = np.full(len(places), np.nan, np.float32)
        if must_detect := self._must_detect(codes):
            first = self.whisper.first_position(cross)
            codes, no_speech_probs = self._detected(codes, first), first.no_speech_prob
        samples = [waveform.size for _, waveform in speech.values()]

        def finished(row: int, hypotheses: list[Hypothesis]) -> None:
            probability = float(no_speech_probs[row])
            no_speech_prob = None if np.isnan(probability) else probability
            judged = self._judged(*speech[places[row]], hypotheses, no_speech_prob, codes[row].code)
            deliver(places[row], judged)

        into = None if must_detect else no_speech_probs
        self._lists(cross, codes, samples, _renumbered(given_up, places), finished, into)

    def _judged(
        self,
        utterance: Utterance,
        waveform: Waveform,
        hypotheses: list[Hypothesis],
        no_speech_prob: float | None,
        language: str | None,
    ) -> RecognisedSegment:
        reason = None
        rate = self.sampling_rate
        if self.gate is not None and hypotheses:
            best = hypotheses[0]
            reason = self.gate.judge(waveform, rate, best.text, best.score, no_speech_prob, utterance.before)
        times = _times(utterance.segment, rate)
        return RecognisedSegment(*times, [] if reason else hypotheses, no_speech_prob, reason, language)

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

    def _codes(self, languages: Sequence[str | None]) -> list[_Spoken]:
        """Return the languages that were asked for, or are the checkpoint's own."""
        defaults = self.whisper.tokens.defaults
        names = [language or defaults.language for language in languages]
        return [
            _Spoken(asked, None if name is None else language_code(name))
            for asked, name in zip(languages, names, strict=True)
        ]

    def _must_detect(self, spoken: Sequence[_Spoken]) -> bool:
        return self.whisper.tokens.is_multilingual and any(each.code is None for each in spoken)

    def _detected(self, spoken: Sequence[_Spoken], first: FirstPosition) -> list[_Spoken]:
        """Put the languages that the model hears where none is known."""
        if first.languages is None:
            return list(spoken)
        # A language that was detected takes the task of the checkpoint's own prompts.
        task = self.whisper.tokens.defaults.task
        return [
            each if each.code is not None else _Spoken(heard, heard, task)
            for each, heard in zip(spoken, first.languages, strict=True)
        ]

    def _lists(
        self,
        cross: CrossAttention,
        spoken: Sequence[_Spoken],
        samples: Sequence[int],
        given_up: GivenUp = tuple,
        finished: Callable[[int, list[Hypothesis]], object] | None = None,
        no_speech_into: NDArray[np.float32] | None = None,
    ) -> list[list[Hypothesis]]:
        prompts = [self.whisper.tokens.prompt(each.asked, each.task) for each in spoken]
        codes = [each.code for each in spoken]
        lists: dict[int, list[Hypothesis]] = {}

        def read(row: int, found: Sequence[FinishedHypothesis]) -> None:
            lists[row] = self._readable(found, codes[row])
            if finished is not None:
                finished(row, lists[row])

        self.whisper.nbest(
            cross,
            prompts,
            self.search,
            languages=codes,
            most_tokens=self.most_tokens(samples, codes),
            given_up=given_up,
            finished=read,
            no_speech_into=no_speech_into,
            last_use=True,
        )
        return [lists[row] for row in range(len(codes))]

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


def _times(segment: Segment, rate: int) -> tuple[float, float]:
    """Return start and end in seconds, the pause at the end left out."""
    return segment.start / rate, (segment.end - segment.pause) / rate


def _with_short_tail(segment: Segment, rate: int) -> Waveform:
    return segment.waveform[: segment.waveform.size - max(0, segment.pause - int(TAIL_S * rate))]


def _renumbered(given_up: GivenUp, places: Iterable[int]) -> GivenUp:
    """Return the same question about some of the utterances, counted by their places among these, now."""

    def asked() -> list[int]:
        gone = given_up()
        return [number for number, place in enumerate(places) if place in gone] if gone else []

    return asked
