"""From a row of a manifest to its n-best list with clip scores: the expensive part of tuning, done once."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.manifest import Utterance
from bench.nbest.blocks import Result, Task
from bench.nbest.failures import Failure
from bench.nbest.records import NBestHeader, NBestHypothesis, NBestUtterance
from bench.nbest.sources import picture_key, source_of
from runtime.clip.cache import find_embedding
from runtime.errors import AudioError, EarsightError, ImageCacheError, ManifestError
from runtime.fusion import to_caption_style
from runtime.pipeline import MultimodalASR
from runtime.results import Hypothesis, join_hypotheses

SHUFFLE_SEED: Final = 0
SHELF: Final = 20_000  # embeddings: 40 MB at 512 values

Embedding = NDArray[np.float32]


def header_of(asr: MultimodalASR) -> NBestHeader:
    """Return what the n-best lists depend on."""
    search, gate, pause_s = asr.search, asr.recognizer.gate, asr.recognizer.pause_s
    return NBestHeader(
        bundle=asr.bundle.identity,
        settings={
            "precision": asr.precision,
            "provider": asr.sessions.provider,
            "num_beams": search.num_beams,
            # Only where it is set: files that were begun before there was such a setting go on.
            **({"num_hypotheses": search.num_hypotheses} if search.num_hypotheses is not None else {}),
            "max_new_tokens": search.max_new_tokens,
            "token_limit": asr.recognizer.token_limit,
            "length_penalty": search.length_penalty,
            "early_stopping": search.early_stopping,
            "distinct": search.distinct,
            "language": asr.language,
            "window": "full" if asr.whisper.short_encoder is None else "short",
            "pause_s": pause_s if math.isfinite(pause_s) else None,
            "speech_gate": None if gate is None else asdict(gate),
            "shuffle_seed": SHUFFLE_SEED,
            **({"image_cache": _digest(asr.image_embeddings)} if asr.image_embeddings else {}),
        },
    )


def _digest(embeddings: Mapping[str, Embedding]) -> str:
    """Return what tells one image cache from another."""
    digest = hashlib.sha256()
    for key in sorted(embeddings):
        digest.update(key.encode("utf-8", "surrogateescape") + b"\0" + embeddings[key].tobytes())
    return digest.hexdigest()[:32]


def recognise(asr: MultimodalASR, task: Task, pictures: "PictureShelf") -> NBestUtterance:
    """Return the n-best list of one utterance.

    As in `MultimodalASR.transcribe`, the list is empty where there is no speech, and a recording longer than
    the window is split; the list then holds the best ways of joining its segments.

    Raises:
        ManifestError: Its audio or picture cannot be used.
    """
    utterance = task.utterance
    try:
        segments = list(asr.recognizer.segments(utterance.audio))
    except AudioError as error:
        raise ManifestError(f"line {utterance.line} ({utterance.id}): {error}") from error
    hypotheses = join_hypotheses([segment.hypotheses for segment in segments], asr.search.count)
    right, wrong = (None if row is None else pictures.of(row) for row in (utterance, task.control))
    return NBestUtterance(
        id=utterance.id,
        reference=utterance.reference,
        speaker=utterance.speaker,
        group=utterance.group,
        image_id=picture_key(utterance),
        duration_s=segments[-1].end_s,
        source=source_of(utterance),
        hypotheses=_with_cosines(asr, hypotheses, right, wrong),
    )


def recognise_or_fail(asr: MultimodalASR, task: Task, pictures: "PictureShelf") -> Result:
    """Return the n-best list of one utterance, or why it has none."""
    try:
        return recognise(asr, task, pictures)
    except EarsightError as error:
        return Failure.of(task.utterance, error)


def _with_cosines(
    asr: MultimodalASR, hypotheses: Sequence[Hypothesis], right: Embedding | None, wrong: Embedding | None
) -> tuple[NBestHypothesis, ...]:
    columns: dict[str, Sequence[float | None]] = {}
    texts = asr.encode_texts([to_caption_style(h.text) for h in hypotheses]) if right is not None else None
    for name, picture in (("clip_score", right), ("clip_score_shuffled", wrong)):
        if texts is None or picture is None:
            columns[name] = [None] * len(hypotheses)
        else:
            columns[name] = (texts @ picture).astype(float).tolist()
    return tuple(
        NBestHypothesis(
            text=hypothesis.text,
            score=hypothesis.score,
            asr_sum=hypothesis.score * len(hypothesis.tokens) ** asr.search.length_penalty,
            num_tokens=len(hypothesis.tokens),
            **{name: values[i] for name, values in columns.items()},
        )
        for i, hypothesis in enumerate(hypotheses)
    )


def tasks_of(utterances: Sequence[Utterance]) -> Iterator[Task]:
    """Yield the rows of a manifest as tasks; each is given the picture of another as a control.

    In a seeded order of those with a picture, each takes the next picture that differs; none does where
    all have the same.
    """
    seen = [row for row, utterance in enumerate(utterances) if utterance.image or utterance.image_id]
    order = [seen[place] for place in np.random.default_rng(SHUFFLE_SEED).permutation(len(seen))]
    control: dict[int, int] = {}
    following: int | None = None
    for own, after in zip(reversed(order * 2), reversed((order * 2)[1:] + order[:1]), strict=True):
        if _picture(utterances[after]) != _picture(utterances[own]):
            following = after
        if following is not None:
            control[own] = following
    for place, utterance in enumerate(utterances):
        yield Task(place, utterance, utterances[control[place]] if place in control else None)


def _picture(utterance: Utterance) -> tuple[Path | None, str | None]:
    return utterance.image, utterance.image_id


class PictureShelf:
    """The embeddings of pictures, each encoded once while it is among the last `SHELF` ones."""

    def __init__(self, asr: MultimodalASR) -> None:
        self._asr = asr
        self._encoded: dict[Path, Embedding] = {}

    def of(self, utterance: Utterance) -> Embedding | None:
        """Return the embedding of an utterance's picture, None where it has none.

        Raises:
            ImageCacheError: Its key is not in the image cache, and it has no picture file.
            ManifestError: Its picture cannot be used.
        """
        if utterance.image_id is not None:
            embedding = find_embedding(self._asr.image_embeddings, utterance.image_id)
            if embedding is not None:
                return embedding
            if utterance.image is None:
                raise ImageCacheError(
                    f"line {utterance.line} ({utterance.id}): no key {utterance.image_id!r} in the image "
                    "cache; give it with --image-cache, written by `python -m runtime embed-images`"
                )
        if utterance.image is None:
            return None
        if utterance.image not in self._encoded:
            try:
                encoded: Embedding = self._asr.encode_images([utterance.image])[0]
            except EarsightError as error:
                raise ManifestError(f"line {utterance.line} ({utterance.id}): {error}") from error
            if len(self._encoded) >= SHELF:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[utterance.image] = encoded
        return self._encoded[utterance.image]
