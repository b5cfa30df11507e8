"""Every exported graph against PyTorch, on the bundle's own files and through the runtime's own code.

The reference is the checkpoint as transformers runs it, not the modules that were exported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPModel, WhisperForConditionalGeneration

from export.made_up_speech import examples
from runtime.bundle.graph import Graph
from runtime.clip.tokens import ClipTokens, TextBatch
from runtime.errors import ParityError
from runtime.sessions.factory import SessionFactory
from runtime.whisper.cross_attention import CrossAttention
from runtime.whisper.log_mel import LogMelExtractor
from runtime.whisper.model import WhisperModel
from runtime.whisper.tokens import WhisperTokens

# Largest relative error ||ours - theirs|| / ||theirs||. float32 differs by the order of sums only (measured
# 1e-7 to 1e-5), float16 has 11 bits through a dozen layers or more. int8: real tiny.en and base,
# intact and broken on purpose (the scales of two products exchanged, the weights of one product zero):
#
#                      intact           broken, at least
# cross-attention      0.04 to 0.09     0.55
# log-probabilities    0.05             0.19
# embeddings           0.007            0.015 to 1.8, three quarters above 0.1
#
# bf16 has 8 bits (base: cross-attention 0.02 to 0.026); its decoder is the int8 one where there is one.
# The embeddings are those of the small CLIP trained here; a published one may err more, and gets room for it.
# What int8 does to words is measured by `python -m bench accuracy`.
CROSS, LOG_PROBS, EMBEDDINGS = "cross-attention", "log-probabilities", "embeddings"
TOLERANCE: Final = MappingProxyType(
    {
        "fp32": {CROSS: 1e-3, LOG_PROBS: 1e-3, EMBEDDINGS: 1e-3},
        "fp16": {CROSS: 3e-2, LOG_PROBS: 3e-2, EMBEDDINGS: 3e-2},
        "bf16": {CROSS: 0.08, LOG_PROBS: 0.1, EMBEDDINGS: 0.05},
        "int8": {CROSS: 0.25, LOG_PROBS: 0.1, EMBEDDINGS: 0.1},
    }
)

BEAMS, STEPS, BATCH, SEED = 3, 6, 2, 3
TEXTS: Final = ("a", "two words", "an image showing a longer text " * 20)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output is from PyTorch.

    Attributes:
        output: What was compared.
        largest: Largest absolute difference.
        relative: ||ours - theirs|| / ||theirs||.
        tolerance: The limit of `relative`.
    """

    output: str
    largest: float
    relative: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Step:
    """A decoder step, or the prompt, and what PyTorch makes of it.

    Attributes:
        tokens: New tokens, (BATCH, BEAMS); of the prompt (BATCH, length).
        parents: Which beam each extends, (BATCH, BEAMS).
        log_probs: Of the next token, (BATCH, BEAMS or 1, vocabulary).
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    log_probs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WhisperReference:
    """What PyTorch makes of the gate's input, worked out once for all precisions.

    Attributes:
        model: The checkpoint in float32.
        features: Log-mel, (BATCH, mels, frames).
        encoded: Final states of the encoder, (BATCH, positions, width).
        steps: The prompt, then steps of beams that change places.
    """

    model: WhisperForConditionalGeneration
    features: NDArray[np.float32]
    encoded: torch.Tensor
    steps: tuple[Step, ...]

    def cross_attention(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield keys and values of every decoder layer by output, (BATCH, heads, positions, head_dim)."""
        for i, layer in enumerate(self.model.model.decoder.layers):
            attention = layer.encoder_attn
            for kind, project in (("key", attention.k_proj), ("value", attention.v_proj)):
                with torch.inference_mode():
                    parts = project(self.encoded).unflatten(-1, (attention.num_heads, -1))
                yield f"cross_{kind}_{i}", parts.transpose(1, 2).numpy()


def whisper_reference(model: WhisperForConditionalGeneration, folder: Path) -> WhisperReference:
    """Run a checkpoint in PyTorch.

    Args:
        model: The checkpoint in float32.
        folder: The bundle that is being built, whose settings are there.
    """
    extractor = LogMelExtractor.from_folder(folder / "whisper")
    features = np.concatenate([each.numpy() for each, _ in examples(extractor, BATCH, SEED)])
    with torch.inference_mode():
        encoded = model.model.encoder(torch.from_numpy(features)).last_hidden_state
    tokens = WhisperTokens.from_folder(folder / "whisper")
    return WhisperReference(model, features, encoded, tuple(_reference_steps(model, encoded, tokens)))


def check_whisper(
    folder: Path, precision: str, reference: WhisperReference, sessions: SessionFactory
) -> list[Difference]:
    """Compare encoder and decoder with PyTorch.

    Args:
        folder: The bundle, which may still lack its CLIP.
        precision: Of the graphs to check.
        reference: What PyTorch makes of the checkpoint.
        sessions: How to open the graphs.

    Raises:
        ParityError: An output is out of tolerance.
    """
    encoder, decoder = (
        Graph.in_folder(folder, name, precision) for name in ("encoder_model", "decoder_model")
    )
    model = WhisperModel(folder / "whisper", encoder, decoder, sessions)
    cross = model.encode(reference.features)
    keys: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    values: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for name, theirs in reference.cross_attention():
        ours = cross.values[name].numpy().astype(np.float32)
        if "key" in name:
            keys.append((ours.swapaxes(2, 3), theirs))
        else:
            values.append((ours, theirs))
    limits = TOLERANCE[precision]
    pairs = list(_decoder_pairs(model, cross, reference.steps))
    differences = [
        _difference("encoder_model cross-attention keys", keys, limits[CROSS]),
        _difference("encoder_model cross-attention values", values, limits[CROSS]),
        _difference("decoder_model log-probabilities", [_centred(pairs)], limits[LOG_PROBS]),
    ]
    _require(differences, precision)
    return differences


def _reference_steps(
    model: WhisperForConditionalGeneration, encoded: torch.Tensor, tokens: WhisperTokens
) -> Iterator[Step]:
    """Decode the prompt and steps of beams that change places.

    The beams go on with what PyTorch holds most probable, as a search does: a checkpoint is not made for
    random tokens, and says little about them.
    """
    random = np.random.default_rng(1)
    prompt = tokens.prompt(None if not tokens.is_multilingual else next(iter(tokens.languages)))
    texts = np.tile(np.array(prompt), (BATCH, 1, 1))
    parents = np.zeros((BATCH, BEAMS), np.int64)
    log_probs = _reference_log_probs(model, encoded, texts)
    yield Step(np.ascontiguousarray(texts[:, 0]), parents, log_probs)
    rows = np.arange(BATCH)[:, None]
    for _ in range(STEPS):
        best = np.argsort(-log_probs, axis=2)[:, :, :BEAMS]
        new = best[rows, parents, np.arange(BEAMS)]
        texts = np.concatenate([texts[rows, parents], new[:, :, None]], axis=2)
        log_probs = _reference_log_probs(model, encoded, texts)
        yield Step(new, parents, log_probs)
        parents = random.integers(BEAMS, size=(BATCH, BEAMS))


def _decoder_pairs(
    model: WhisperModel, cross: CrossAttention, steps: Sequence[Step]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Take the reference's steps; yield our and PyTorch's log-probabilities."""
    vocabulary = steps[0].log_probs.shape[2]
    mask = np.zeros((1, vocabulary), np.float32)
    decoder = model.step_decoder(cross)
    yield _by_token(*decoder.prefill(steps[0].tokens, mask, vocabulary)), steps[0].log_probs
    for step in steps[1:]:
        yield _by_token(*decoder.step(step.tokens, step.parents, mask, vocabulary)), step.log_probs


def _centred(
    pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Join all steps, each distribution less its mean: a mean of -20 says nothing, and hides what differs."""
    ours, theirs = (
        np.concatenate([(each - each.mean(axis=2, keepdims=True)).ravel() for each in side])
        for side in zip(*pairs, strict=True)
    )
    return ours, theirs


def _by_token(log_probs: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Undo the sorting by probability: (batch, beams, vocabulary) in the order of token ids."""
    ordered = np.empty_like(log_probs)
    np.put_along_axis(ordered, tokens, log_probs, axis=2)
    return ordered


def _reference_log_probs(
    reference: WhisperForConditionalGeneration, encoded: torch.Tensor, texts: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return log-probabilities of the next token of (batch, beams, length) texts, each run whole."""
    batch, beams, length = texts.shape
    with torch.inference_mode():
        logits = reference(
            encoder_outputs=(encoded.repeat_interleave(beams, dim=0),),
            decoder_input_ids=torch.from_numpy(texts.reshape(batch * beams, length)),
        ).logits[:, -1]
        result: NDArray[np.float32] = logits.log_softmax(dim=-1).reshape(batch, beams, -1).numpy()
    return result


@dataclass(frozen=True, slots=True)
class ClipReference:
    """What PyTorch makes of some pictures and texts, worked out once for all precisions.

    Attributes:
        pixels: (BATCH, 3, size, size).
        images: Their embeddings, (BATCH, D).
        texts: Batches of texts, each with its embeddings (texts, D).
    """

    pixels: NDArray[np.float32]
    images: NDArray[np.float32]
    texts: tuple[tuple[TextBatch, NDArray[np.float32]], ...]


def clip_reference(model: CLIPModel, folder: Path) -> ClipReference:
    """Run both CLIP towers in PyTorch; arguments as of `whisper_reference`."""
    size = model.config.vision_config.image_size
    pixels = np.random.default_rng(2).normal(size=(BATCH, 3, size, size)).astype(np.float32)
    batches = ClipTokens.from_folder(folder / "clip").batches(TEXTS, 2)
    with torch.inference_mode():
        images = model.get_image_features(pixel_values=torch.from_numpy(pixels))
        texts = [
            (
                batch,
                model.get_text_features(
                    input_ids=torch.from_numpy(batch.input_ids),
                    attention_mask=torch.from_numpy(batch.attention_mask),
                ),
            )
            for batch in batches
        ]
    normalize = torch.nn.functional.normalize
    return ClipReference(
        pixels,
        normalize(images).numpy(),
        tuple((batch, normalize(features).numpy()) for batch, features in texts),
    )


def check_clip(
    folder: Path, precision: str, reference: ClipReference, sessions: SessionFactory
) -> list[Difference]:
    """Compare both CLIP towers with PyTorch; arguments as of `check_whisper`.

    Raises:
        ParityError: An output is out of tolerance.
    """
    text = sessions.open(Graph.in_folder(folder, "text_model", precision))
    vision = sessions.open(Graph.in_folder(folder, "vision_model", precision))
    half = vision.get_inputs()[0].type == "tensor(float16)"
    (image_embeds,) = vision.run(
        ["image_embeds"], {"pixel_values": reference.pixels.astype(np.float16 if half else np.float32)}
    )
    pairs = [
        (text.run(["text_embeds"], {"input_ids": batch.input_ids})[0], theirs)
        for batch, theirs in reference.texts
    ]
    limit = TOLERANCE[precision][EMBEDDINGS]
    differences = [
        _difference("text_model embeddings", pairs, limit),
        _difference("vision_model embeddings", [(image_embeds, reference.images)], limit),
    ]
    _require(differences, precision)
    return differences


def _difference(
    output: str, pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]], limit: float
) -> Difference:
    """Compare the parts of an output, each with its like; the worst part counts."""
    largest = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    relative = max(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs)
    return Difference(output, largest, relative, limit)


def _require(differences: list[Difference], precision: str) -> None:
    for difference in differences:
        # "not <=" refuses NaN as well
        if not difference.relative <= difference.tolerance:
            raise ParityError(
                f"{precision}: {difference.output} differ from PyTorch by {difference.relative:.2e} "
                f"(relative), more than {difference.tolerance:g}; leave this precision out (--precision) "
                "or report the checkpoint"
            )
