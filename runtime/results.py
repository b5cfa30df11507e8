"""What recognition returns: hypotheses before and after rescoring, and a transcription."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from runtime.speech_presence import NoSpeech

Mode = Literal["asr_only", "multimodal"]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One entry of an n-best list.

    Attributes:
        text: Decoded text without special tokens, stripped and lower-cased.
        score: Mean log-probability per generated token (natural log; see
            `BeamSearchSettings.length_penalty`).
        tokens: Generated token ids, prompt excluded, end-of-text included where it was generated.
    """

    text: str
    score: float
    tokens: tuple[int, ...] = ()

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
    """

    text: str
    asr_score: float
    clip_score: float
    fused_score: float

    def to_dict(self) -> dict[str, Any]:
        """Return the notebook's keys."""
        return {
            "text": self.text,
            "asr_score": self.asr_score,
            "clip_score": self.clip_score,
            "fused_score": self.fused_score,
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
    """

    start_s: float
    end_s: float
    transcription: str
    hypotheses: Sequence[Hypothesis] | Sequence[RescoredHypothesis] = ()
    no_speech_prob: float | None = None
    no_speech: NoSpeech | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes; `no_speech` only where it applies."""
        result: dict[str, Any] = {
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "transcription": self.transcription,
            "hypotheses": [hypothesis.to_dict() for hypothesis in self.hypotheses],
            "no_speech_prob": self.no_speech_prob,
        }
        if self.no_speech is not None:
            result["no_speech"] = self.no_speech.to_dict()
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
        warning: What did not take part: a picture that was named, the end of a truncated recording; else
            None.
        segments: The stretches of the recording; a single one if it fits the model's window.
    """

    transcription: str
    hypotheses: Sequence[Hypothesis] | Sequence[RescoredHypothesis] = field(default_factory=list)
    mode: Mode = "asr_only"
    alpha: float | None = None
    warning: str | None = None
    segments: Sequence[SegmentTranscription] = ()

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

        `alpha`, `warning`, `no_speech` (why nothing was recognised) and `segments` (of a recording longer
        than the window) are there only where they apply.
        """
        result: dict[str, Any] = {
            "transcription": self.transcription,
            "hypotheses": [hypothesis.to_dict() for hypothesis in self.hypotheses],
            "mode": self.mode,
        }
        if self.alpha is not None:
            result["alpha"] = self.alpha
        if self.warning is not None:
            result["warning"] = self.warning
        if self.no_speech is not None:
            result["no_speech"] = self.no_speech.to_dict()
        if len(self.segments) > 1:
            result["segments"] = [segment.to_dict() for segment in self.segments]
        return result
