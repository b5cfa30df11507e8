"""What a recording is answered with: OpenAI's five formats, and the alternatives in a block of our own.

OpenAI's client keeps fields that it does not know, so `answer.earsight["alternatives"]` reaches its user.
"""

import difflib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from runtime.results import (
    Hypothesis,
    NoSpeech,
    RescoredHypothesis,
    SegmentTranscription,
    Transcription,
    joined_text,
)
from runtime.whisper.language_names import NAME_OF_CODE

FORMATS: Final = ("json", "text", "srt", "vtt", "verbose_json")
MEDIA_TYPES: Final = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A recognised recording with what its answer tells besides.

    Attributes:
        result: The recognition.
        seconds: Length of the recording.
        alternatives: Most alternatives to give.
        bundle: Name and hash of what recognised it.
        timing_ms: How long which part took.
    """

    result: Transcription
    seconds: float
    alternatives: int
    bundle: dict[str, str]
    timing_ms: dict[str, float]

    @property
    def text(self) -> str:
        """The chosen text as written, the segments' joined."""
        return joined_text([segment.display for segment in self.result.segments])

    def json(self) -> dict[str, Any]:
        """Return `response_format=json`."""
        result = self.result
        block = _block(result.hypotheses, result.confidence, result.no_speech, self.alternatives)
        return {
            "text": self.text,
            "usage": {"type": "duration", "seconds": round(self.seconds, 3)},
            "earsight": {
                "mode": result.mode,
                "alpha": result.alpha,
                "warning": result.warning,
                **block,
                "bundle": self.bundle,
                "timing_ms": {name: round(value, 1) for name, value in self.timing_ms.items()},
            },
        }

    def verbose_json(self) -> dict[str, Any]:
        """Return `response_format=verbose_json`: what `json` gives, and the segments."""
        languages = {segment.language for segment in self.result.segments if segment.language}
        return {
            "task": "transcribe",
            "language": ", ".join(sorted(NAME_OF_CODE.get(code, code) for code in languages)) or None,
            "duration": round(self.seconds, 3),
            **self.json(),
            "segments": [
                _segment(number, segment, self.alternatives)
                for number, segment in enumerate(self.result.segments)
            ],
        }

    def render(self, response_format: str) -> str | dict[str, Any]:
        """Return the body in one of `FORMATS`."""
        if response_format in ("json", "verbose_json"):
            return self.json() if response_format == "json" else self.verbose_json()
        if response_format == "text":
            return f"{self.text}\n"
        return subtitles(self.result.segments, response_format)


def subtitles(segments: Sequence[SegmentTranscription], response_format: str) -> str:
    """Return the segments that hold text as SubRip ("srt") or WebVTT ("vtt")."""
    webvtt = response_format == "vtt"
    lines = ["WEBVTT", ""] if webvtt else []
    spoken = [segment for segment in segments if segment.display]
    for number, segment in enumerate(spoken, start=1):
        lines += [] if webvtt else [str(number)]
        times = [_clock(second, "." if webvtt else ",") for second in (segment.start_s, segment.end_s)]
        # A blank line ends a cue, and an arrow would begin the times of another.
        text = " ".join(segment.display.split()).replace("-->", "->")
        lines += [" --> ".join(times), text, ""]
    return "\n".join(lines) + ("\n" if lines else "")


def done_event(answer: Answer) -> dict[str, Any]:
    """Return the last event of a stream: the text of all segments."""
    return {"type": "transcript.text.done", **answer.json()}


def segment_event(number: int, segment: SegmentTranscription, alternatives: int) -> dict[str, Any]:
    """Return the event of one segment of a stream; its delta joins to the text of the whole."""
    space = " " if number and segment.display else ""
    return {
        "type": "transcript.text.delta",
        "delta": f"{space}{segment.display}",
        "earsight": {"segment": _segment(number, segment, alternatives)},
    }


def alternatives_of(
    hypotheses: Sequence[Hypothesis | RescoredHypothesis], count: int
) -> list[dict[str, Any]]:
    """Return the first `count` hypotheses, each with its scores and with what differs from the first."""
    return [
        {"id": number, **_scores(hypothesis, number), "diff": _difference(hypotheses[0], hypothesis)}
        for number, hypothesis in enumerate(hypotheses[:count])
    ]


def _block(
    hypotheses: Sequence[Hypothesis | RescoredHypothesis],
    confidence: float | None,
    no_speech: NoSpeech | None,
    count: int,
) -> dict[str, Any]:
    return {
        "confidence": confidence,
        "no_speech": None if no_speech is None else no_speech.to_dict(),
        "alternatives": alternatives_of(hypotheses, count),
    }


def _scores(hypothesis: Hypothesis | RescoredHypothesis, number: int) -> dict[str, Any]:
    common = {
        "text": hypothesis.text,
        "display": hypothesis.display,
        "mean_logprob": hypothesis.score,
        "num_tokens": len(hypothesis.tokens),
    }
    if isinstance(hypothesis, Hypothesis):
        missing = dict.fromkeys(("asr_score", "clip_score", "fused_score", "alpha_from"))
        return {**common, **missing, "rank_without_picture": number}
    return {
        **common,
        "asr_score": hypothesis.asr_score,
        "clip_score": hypothesis.clip_score,
        "fused_score": hypothesis.fused_score,
        "alpha_from": hypothesis.alpha_from,
        "rank_without_picture": hypothesis.rank_without_picture,
    }


def _difference(
    first: Hypothesis | RescoredHypothesis, other: Hypothesis | RescoredHypothesis
) -> list[dict[str, Any]]:
    """Return which words of the first are others: where, what stood there, and what stands there now."""
    old, new = first.display.split(), other.display.split()
    matcher = difflib.SequenceMatcher(
        None, [_bare(word) for word in old], [_bare(word) for word in new], False
    )
    return [
        {"at": begin, "instead_of": " ".join(old[begin:end]), "word": " ".join(new[start:stop])}
        for kind, begin, end, start, stop in matcher.get_opcodes()
        if kind != "equal"
    ]


def _bare(word: str) -> str:
    return word.casefold().strip(".,;:!?…\"'“”‘’()-") or word


def _segment(number: int, segment: SegmentTranscription, count: int) -> dict[str, Any]:
    """Return a segment in OpenAI's fields, and in ours."""
    best = segment.hypotheses[0] if segment.hypotheses else None
    content = segment.display.encode()
    return {
        "id": number,
        "seek": round(segment.start_s * 100),  # frames of 10 ms, as Whisper counts
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.display,
        "tokens": list(best.tokens) if best else [],
        "temperature": 0.0,
        "avg_logprob": best.score if best else None,
        "compression_ratio": len(content) / len(zlib.compress(content)) if content else None,
        "no_speech_prob": segment.no_speech_prob,
        "earsight": _block(segment.hypotheses, segment.confidence, segment.no_speech, count),
    }


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, milliseconds = divmod(milliseconds, 3_600_000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{mark}{milliseconds:03d}"
