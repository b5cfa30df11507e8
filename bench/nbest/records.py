"""What one line of an n-best file holds: the header, an utterance, a hypothesis."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "earsight.nbest/1"


@dataclass(frozen=True, slots=True)
class NBestHypothesis:
    """One hypothesis.

    Attributes:
        text: The hypothesis.
        score: ASR score, mean log-probability per token (natural log).
        clip_score: Cosine of text and picture in [-1, 1], None without a picture.
        asr_sum: Sum of the log-probabilities of the tokens, where the writer knows it.
        num_tokens: Number of tokens that the sum runs over, where the writer knows it.
        clip_score_shuffled: Cosine with the picture of another utterance, for the image-shuffle control.
    """

    text: str
    score: float
    clip_score: float | None = None
    asr_sum: float | None = None
    num_tokens: int | None = None
    clip_score_shuffled: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the line's keys; the optional ones only where they have a value."""
        row: dict[str, Any] = {"text": self.text, "score": self.score, "clip_score": self.clip_score}
        for name in ("asr_sum", "num_tokens", "clip_score_shuffled"):
            value = getattr(self, name)
            if value is not None:
                row[name] = value
        return row


@dataclass(frozen=True, slots=True)
class NBestUtterance:
    """One utterance with its hypotheses, best first by ASR score.

    Attributes:
        id: Unique name.
        reference: What was said.
        speaker: Who spoke, or None.
        group: A class to report separately, or None.
        image_id: Which picture gave the clip scores, or None.
        duration_s: Length of the audio in seconds, or None where unknown.
        hypotheses: May be empty where nothing was recognised.
        source: Digest of the files that it was made of (`bench.nbest.sources`), or None where unknown.
    """

    id: str
    reference: str
    speaker: str | None = None
    group: str | None = None
    image_id: str | None = None
    duration_s: float | None = None
    hypotheses: tuple[NBestHypothesis, ...] = ()
    source: str | None = None

    @property
    def has_image(self) -> bool:
        """Whether a picture was compared with every hypothesis."""
        return bool(self.hypotheses) and self.hypotheses[0].clip_score is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the line's keys; `source` only where it is known."""
        about = ("id", "reference", "speaker", "group", "image_id", "duration_s")
        row = {name: getattr(self, name) for name in about}
        if self.source is not None:
            row["source"] = self.source
        return row | {"hypotheses": [hypothesis.to_dict() for hypothesis in self.hypotheses]}


@dataclass(frozen=True, slots=True)
class NBestHeader:
    """The first line: which bundle and which settings the hypotheses stem from."""

    bundle: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the line's keys."""
        return {"schema": SCHEMA, "bundle": dict(self.bundle), "settings": dict(self.settings)}


@dataclass(frozen=True, slots=True)
class NBestFile:
    """A whole n-best file."""

    header: NBestHeader
    utterances: tuple[NBestUtterance, ...]
    path: Path | None = None
