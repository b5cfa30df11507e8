"""What recognition returns: hypotheses before and after rescoring, a transcription, or why there is none.

The lists of a recording's segments join to the list of the recording.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Mode = Literal["asr_only", "multimodal"]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One entry of an n-best list.

    Attributes:
        text: Decoded text without special tokens, stripped and lower-cased.
        score: Mean log-probability per generated token (natural log; see
            `BeamSearchSettings.length_penalty`).
        tokens: Generated token ids, prompt excluded, end-of-text included where it was generated.
        display: The text as written, with case and punctuation, stripped.
    """

    text: str
    score: float
    tokens: tuple[int, ...] = ()
    display: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the notebook's keys."""
        return {"text": self.text, "score": self.score}


@dataclass(frozen=True, slots=True)
class RescoredHypothesis:
    """A hypothesis after fusion with the picture.

    Attributes:
        text: The hypothesis itself (not the caption-style text that CLIP saw).
        asr_score: Softmax over the n-best of the ASR scores, in [0, 1].
        clip_score: Cosine similarity of picture and text, in [-1, 1].
        fused_score: (1 - alpha) * asr_score + alpha * softmax(100 * clip_score), in [0, 1].
        display: The text as written, with case and punctuation, stripped.
        score: That of the hypothesis: mean log-probability per generated token.
        tokens: Those of the hypothesis.
        rank_without_picture: Its place in the list before the fusion, from 0.
        alpha_from: Least weight of the picture with which it is the first, in [0, 1]; None where it is with
            none, and for texts joined of several segments.
    """

    text: str
    asr_score: float
    clip_score: float
    fused_score: float
    display: str = ""
    score: float = 0.0
    tokens: tuple[int, ...] = ()
    rank_without_picture: int = 0
    alpha_from: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the notebook's keys."""
        return {
            "text": self.text,
            "asr_score": self.asr_score,
            "clip_score": self.clip_score,
            "fused_score": self.fused_score,
        }


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


@dataclass(frozen=True, slots=True)
class SegmentTranscription:
    """A stretch of the recording, recognised and rescored by itself.

    Attributes:
        start_s: Its start in seconds from that of the recording.
        end_s: Where it ends, or where the pause begins that ended it.
        transcription: The chosen text; empty where nothing was recognised.
        hypotheses: Its candidates, best first; rescored ones in mode "multimodal"; none without speech.
        no_speech_prob: The model's probability of no speech; None if silent, or not known to the checkpoint.
        no_speech: Why the transcription is empty, else None.
        confidence: Probability that the transcription is right, where the fusion was calibrated on data.
        language: Code of the language that it was decoded in; None where nobody knows.
    """

    start_s: float
    end_s: float
    transcription: str
    hypotheses: Sequence[Hypothesis] | Sequence[RescoredHypothesis] = ()
    no_speech_prob: float | None = None
    no_speech: NoSpeech | None = None
    confidence: float | None = None
    language: str | None = None

    @property
    def display(self) -> str:
        """The chosen text as written, with case and punctuation."""
        return self.hypotheses[0].display if self.hypotheses else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes but `language`; `no_speech` only where it applies."""
        result: dict[str, Any] = {
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "transcription": self.transcription,
            "hypotheses": [hypothesis.to_dict() for hypothesis in self.hypotheses],
            "no_speech_prob": self.no_speech_prob,
        }
        if self.no_speech is not None:
            result["no_speech"] = self.no_speech.to_dict()
        if self.confidence is not None:
            result["confidence"] = self.confidence
        return result


@dataclass(frozen=True, slots=True)
class Transcription:
    """The answer to one recording.

    Attributes:
        transcription: The chosen text, that of all segments joined; empty where nothing was recognised.
        hypotheses: All candidates, best first; rescored ones in mode "multimodal". Of several segments: the
            best ways of joining theirs.
        mode: "multimodal" if a picture took part, else "asr_only".
        alpha: The fusion coefficient in force, None in mode "asr_only".
        warning: What did not take part: a picture that was named, the end of a truncated recording, segments
            whose text was not believed; and where the text runs in a loop; else None.
        segments: The stretches of the recording; a single one if it fits the model's window.
    """

    transcription: str
    hypotheses: Sequence[Hypothesis] | Sequence[RescoredHypothesis] = field(default_factory=list)
    mode: Mode = "asr_only"
    alpha: float | None = None
    warning: str | None = None
    segments: Sequence[SegmentTranscription] = ()

    @property
    def display(self) -> str:
        """The chosen text as written, with case and punctuation."""
        return self.hypotheses[0].display if self.hypotheses else ""

    @property
    def confidence(self) -> float | None:
        """Probability that the transcription is right; None without calibration, or of several segments."""
        return self.segments[0].confidence if len(self.segments) == 1 else None

    @property
    def no_speech(self) -> NoSpeech | None:
        """Why nothing was recognised, of the loudest segment; None if anything was."""
        reasons = [segment.no_speech for segment in self.segments]
        found = [reason for reason in reasons if reason is not None]
        if not found or len(found) < len(reasons):
            return None
        return max(found, key=lambda reason: reason.level_dbfs)

    def to_dict(self) -> dict[str, Any]:
        """Return the notebook's keys.

        `alpha`, `confidence`, `warning`, `no_speech` (why nothing was recognised) and `segments` (of a
        recording longer than the window) are there only where they apply.
        """
        result: dict[str, Any] = {
            "transcription": self.transcription,
            "hypotheses": [hypothesis.to_dict() for hypothesis in self.hypotheses],
            "mode": self.mode,
        }
        if self.alpha is not None:
            result["alpha"] = self.alpha
        if self.confidence is not None:
            result["confidence"] = self.confidence
        if self.warning is not None:
            result["warning"] = self.warning
        if self.no_speech is not None:
            result["no_speech"] = self.no_speech.to_dict()
        if len(self.segments) > 1:
            result["segments"] = [segment.to_dict() for segment in self.segments]
        return result


H = TypeVar("H", Hypothesis, RescoredHypothesis)
Combination = tuple[float, tuple[int, ...]]  # minus the score, then the place taken in every list


def join_hypotheses(lists: Sequence[Sequence[Hypothesis]], count: int) -> list[Hypothesis]:
    """Return the `count` best ways to take one hypothesis of every segment.

    Scores are averaged with the segments' weights, the number of tokens of each best hypothesis: the first of
    the result joins the best of all segments, and its score is the mean log-probability per token again.
    A single list is returned as it is.
    """
    lists = [segment for segment in lists if segment]
    if len(lists) <= 1:
        return list(lists[0]) if lists else []
    weights = _shares([max(1, len(segment[0].tokens)) for segment in lists])

    def join(parts: Sequence[Hypothesis]) -> Hypothesis:
        return Hypothesis(
            joined_text([part.text for part in parts]),
            sum(w * part.score for w, part in zip(weights, parts, strict=True)),
            tuple(token for part in parts for token in part.tokens),
            joined_text([part.display for part in parts]),
        )

    return _joined(lists, [[h.score for h in segment] for segment in lists], weights, join, count)


def join_rescored(lists: Sequence[Sequence[RescoredHypothesis]], count: int) -> list[RescoredHypothesis]:
    """As `join_hypotheses`, by fused score, the segments weighted by the words of their best hypothesis."""
    lists = [segment for segment in lists if segment]
    if len(lists) <= 1:
        return list(lists[0]) if lists else []
    weights = _shares([max(1, len(segment[0].text.split())) for segment in lists])

    def join(parts: Sequence[RescoredHypothesis]) -> RescoredHypothesis:
        asr, clip, fused = (
            sum(w * getattr(part, name) for w, part in zip(weights, parts, strict=True))
            for name in ("asr_score", "clip_score", "fused_score")
        )
        lengths = [max(1, len(part.tokens)) for part in parts]
        return RescoredHypothesis(
            joined_text([part.text for part in parts]),
            asr,
            clip,
            fused,
            joined_text([part.display for part in parts]),
            sum(n * part.score for n, part in zip(lengths, parts, strict=True)) / sum(lengths),
            tuple(token for part in parts for token in part.tokens),
        )

    return _joined(lists, [[h.fused_score for h in segment] for segment in lists], weights, join, count)


def joined_text(texts: Sequence[str]) -> str:
    """Join the texts of segments by single spaces; empty ones leave no trace."""
    return " ".join(text for text in texts if text)


def _extended(best: Sequence[Combination], costs: Sequence[float]) -> Iterator[Combination]:
    for total, places in best:
        for place, cost in enumerate(costs):
            yield total + cost, (*places, place)


def _shares(sizes: Sequence[int]) -> list[float]:
    return [size / sum(sizes) for size in sizes]


def _joined(
    lists: Sequence[Sequence[H]],
    scores: Sequence[Sequence[float]],
    weights: Sequence[float],
    join: Callable[[Sequence[H]], H],
    count: int,
) -> list[H]:
    """Find the best combinations segment by segment; keep the first of those that read the same.

    A weighted sum is monotone in each term, so no combination outside the best `count` of a prefix can belong
    to the best `count` of the whole.
    """
    best: list[Combination] = [(0.0, ())]
    for row, weight in zip(scores, weights, strict=True):
        costs = [-weight * score for score in row[:count]]
        best = heapq.nsmallest(count, _extended(best, costs))
    distinct: dict[str, H] = {}
    for _, places in best:
        whole = join([segment[place] for segment, place in zip(lists, places, strict=True)])
        distinct.setdefault(whole.text, whole)
    return list(distinct.values())
