"""From a manifest and a bundle to n-best lists with clip scores: the expensive part of tuning, done once."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bench.manifest import Utterance
from bench.nbest.file import NBestFile, NBestHeader, NBestHypothesis, NBestUtterance, NBestWriter, read_nbest
from runtime.clip.cache import find_embedding
from runtime.errors import AudioError, EarsightError, ImageCacheError, ManifestError
from runtime.fusion import to_caption_style
from runtime.pipeline import MultimodalASR
from runtime.results import Hypothesis, join_hypotheses

SHUFFLE_SEED: Final = 0

Embedding = NDArray[np.float32]


def write_nbest(
    asr: MultimodalASR,
    utterances: Sequence[Utterance],
    output: Path,
    *,
    resume: bool = True,
    progress: bool = True,
) -> NBestFile:
    """Recognise every utterance and compare its hypotheses with its picture, and with a wrong one.

    Args:
        asr: The pipeline.
        utterances: Rows of a manifest.
        output: The n-best file. With `resume`, what an interrupted run of the same bundle and settings has
            written stays.
        resume: Go on with the file instead of starting it afresh.
        progress: Show a progress bar where standard error is a terminal.

    Returns:
        The whole file, read back.

    Raises:
        ManifestError: An audio file, picture or cache key of a row cannot be used; the message names the row.
    """
    pictures = PictureShelf(asr, utterances)
    with NBestWriter(output, header_of(asr), resume=resume) as writer:
        waiting = [utterance for utterance in utterances if utterance.id not in writer.finished]
        bar = tqdm(
            waiting, desc="nbest", unit="utterance", disable=None if progress else True, file=sys.stderr
        )
        for utterance in bar:
            writer.write(recognise(asr, utterance, pictures))
    return read_nbest(output)


def header_of(asr: MultimodalASR) -> NBestHeader:
    """Return what the n-best lists depend on."""
    search, gate, pause_s = asr.search, asr.recognizer.gate, asr.recognizer.pause_s
    return NBestHeader(
        bundle={"name": asr.bundle.name, "sha256": asr.bundle.digest},
        settings={
            "precision": asr.precision,
            "provider": asr.sessions.provider,
            "num_beams": search.num_beams,
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
        },
    )


def recognise(asr: MultimodalASR, utterance: Utterance, pictures: "PictureShelf") -> NBestUtterance:
    """Return the n-best list of one utterance.

    As in `MultimodalASR.transcribe`, the list is empty where there is no speech, and a recording longer than
    the window is split; the list then holds the best ways of joining its segments.

    Raises:
        ManifestError: Its audio or picture cannot be used.
    """
    try:
        segments = list(asr.recognizer.segments(utterance.audio))
    except AudioError as error:
        raise ManifestError(f"line {utterance.line} ({utterance.id}): {error}") from error
    size = asr.search.count
    hypotheses = join_hypotheses([segment.hypotheses for segment in segments], size)
    return NBestUtterance(
        id=utterance.id,
        reference=utterance.reference,
        speaker=utterance.speaker,
        group=utterance.group,
        image_id=pictures.key(utterance),
        duration_s=segments[-1].end_s,
        hypotheses=_with_cosines(asr, hypotheses, pictures.right(utterance), pictures.wrong(utterance)),
    )


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


class PictureShelf:
    """The pictures of a manifest, each encoded once, and for every utterance somebody else's as a control."""

    def __init__(self, asr: MultimodalASR, utterances: Sequence[Utterance]) -> None:
        self._asr = asr
        self._encoded: dict[Path, Embedding] = {}
        self._other = dict(self._shuffled(utterances))

    @staticmethod
    def _shuffled(utterances: Sequence[Utterance]) -> Iterator[tuple[str, Utterance]]:
        """Give every utterance the picture of another: a seeded order, each takes the next that differs."""
        seen = [utterance for utterance in utterances if utterance.image or utterance.image_id]
        order = np.random.default_rng(SHUFFLE_SEED).permutation(len(seen))
        for place, own in enumerate(order):
            for step in range(1, len(seen)):
                other = seen[order[(place + step) % len(seen)]]
                if (other.image, other.image_id) != (seen[own].image, seen[own].image_id):
                    yield seen[own].id, other
                    break

    @staticmethod
    def key(utterance: Utterance) -> str | None:
        """Return the name of an utterance's picture."""
        return utterance.image_id or (utterance.image.name if utterance.image else None)

    def right(self, utterance: Utterance) -> Embedding | None:
        """Return the embedding of the utterance's picture, None where it has none."""
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
                self._encoded[utterance.image] = self._asr.encode_images([utterance.image])[0]
            except EarsightError as error:
                raise ManifestError(f"line {utterance.line} ({utterance.id}): {error}") from error
        return self._encoded[utterance.image]

    def wrong(self, utterance: Utterance) -> Embedding | None:
        """Return the embedding of another utterance's picture, None where there is no other."""
        other = self._other.get(utterance.id)
        return None if other is None else self.right(other)
