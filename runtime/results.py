"""What recognition returns: hypotheses before and after rescoring, and a transcription."""

from dataclasses import dataclass, field
from typing import Any, Literal

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
class Transcription:
    """The answer to one utterance.

    Attributes:
        transcription: The chosen text; empty where nothing was recognised.
        hypotheses: All candidates, best first; rescored ones in mode "multimodal".
        mode: "multimodal" if a picture took part, else "asr_only".
        alpha: The fusion coefficient in force, None in mode "asr_only".
        warning: Why the picture did not take part although one was named, else None.
    """

    transcription: str
    hypotheses: list[Hypothesis] | list[RescoredHypothesis] = field(default_factory=list)
    mode: Mode = "asr_only"
    alpha: float | None = None
    warning: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the notebook's keys; `alpha` and `warning` only where they apply."""
        result: dict[str, Any] = {
            "transcription": self.transcription,
            "hypotheses": [hypothesis.to_dict() for hypothesis in self.hypotheses],
            "mode": self.mode,
        }
        if self.alpha is not None:
            result["alpha"] = self.alpha
        if self.warning is not None:
            result["warning"] = self.warning
        return result
