"""Every exported graph against PyTorch, on the bundle's own files and through the runtime's own code.

The reference is the checkpoint as transformers runs it, not the modules that were exported.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPModel, WhisperForConditionalGeneration

from export.made_up_speech import examples
from runtime.bundle.graph import Graph
from runtime.clip.tokens import ClipTokens
from runtime.errors import ParityError
from runtime.sessions.factory import SessionFactory
from runtime.whisper.model import WhisperModel

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

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, for `bundle.json`."""
        return asdict(self)


def check_whisper(
    folder: Path, precision: str, reference: WhisperForConditionalGeneration, sessions: SessionFactory
) -> list[Difference]:
    """Compare encoder and decoder with PyTorch.

    Args:
        folder: The bundle, which may still lack its CLIP.
        precision: Of the graphs to check.
        reference: The checkpoint in float32.
        sessions: How to open the graphs.

    Raises:
        ParityError: An output is out of tolerance.
    """
    encoder, decoder = (
        Graph.in_folder(folder, name, precision) for name in ("encoder_model", "decoder_model")
    )
    model = WhisperModel(folder / "whisper", encoder, decoder, sessions)
    features = np.concatenate([each.numpy() for each, _ in examples(model.features, BATCH, SEED)])
    cross = model.encode(features)
    with torch.inference_mode():
        encoded = reference.model.encoder(torch.from_numpy(features)).last_hidden_state
        keys: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        values: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        for i, layer in enumerate(reference.model.decoder.layers):
            attention = layer.encoder_attn
            for kind, project, ours in (("key", attention.k_proj, keys), ("value", attention.v_proj, values)):
                theirs = project(encoded).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2).numpy()
                got = cross.values[f"cross_{kind}_{i}"].numpy().astype(np.float32)
                ours.append((got.swapaxes(2, 3) if kind == "key" else got, theirs))
    limits = TOLERANCE[precision]
    pairs = list(_decoder_pairs(model, cross, reference, encoded))
    differences = [
        _difference("encoder_model cross-attention keys", keys, limits[CROSS]),
        _difference("encoder_model cross-attention values", values, limits[CROSS]),
        _difference("decoder_model log-probabilities", [_centred(pairs)], limits[LOG_PROBS]),
    ]
    _require(differences, precision)
    return differences


def _decoder_pairs(
    model: WhisperModel, cross: Any, reference: WhisperForConditionalGeneration, encoded: torch.Tensor
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Decode the prompt and steps of beams that change places; yield our and PyTorch's log-probabilities.

    The beams go on with what PyTorch holds most probable, as a search does: a checkpoint is not made for
    random tokens, and says little about them.
    """
    vocabulary = reference.config.vocab_size
    random = np.random.default_rng(1)
    prompt = model.tokens.prompt(
        None if not model.tokens.is_multilingual else next(iter(model.tokens.languages))
    )
    texts = np.tile(np.array(prompt), (BATCH, 1, 1))
    mask = np.zeros((1, vocabulary), np.float32)
    decoder = model.step_decoder(cross)
    parents = np.zeros((BATCH, BEAMS), np.int64)
    ours = _by_token(*decoder.prefill(np.ascontiguousarray(texts[:, 0]), mask, vocabulary))
    theirs = _reference_log_probs(reference, encoded, texts)
    yield ours, theirs
    for _ in range(STEPS):
        best = np.argsort(-theirs, axis=2)[:, :, :BEAMS]
        new = best[np.arange(BATCH)[:, None], parents, np.arange(BEAMS)]
        texts = np.concatenate([texts[np.arange(BATCH)[:, None], parents], new[:, :, None]], axis=2)
        ours = _by_token(*decoder.step(new, parents, mask, vocabulary))
        theirs = _reference_log_probs(reference, encoded, texts)
        yield ours, theirs
        parents = random.integers(BEAMS, size=(BATCH, BEAMS))


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


def check_clip(
    folder: Path, precision: str, reference: CLIPModel, sessions: SessionFactory
) -> list[Difference]:
    """Compare both CLIP towers with PyTorch; arguments as of `check_whisper`.

    Raises:
        ParityError: An output is out of tolerance.
    """
    text = sessions.open(Graph.in_folder(folder, "text_model", precision))
    vision = sessions.open(Graph.in_folder(folder, "vision_model", precision))
    random = np.random.default_rng(2)
    size = reference.config.vision_config.image_size
    pixels = random.normal(size=(BATCH, 3, size, size)).astype(np.float32)
    half = vision.get_inputs()[0].type == "tensor(float16)"
    (image_embeds,) = vision.run(
        ["image_embeds"], {"pixel_values": pixels.astype(np.float16 if half else np.float32)}
    )
    tokens = ClipTokens.from_folder(folder / "clip")
    pairs = []
    with torch.inference_mode():
        images = reference.get_image_features(pixel_values=torch.from_numpy(pixels))
        for batch in tokens.batches(["a", "two words", "an image showing a longer text " * 20], 2):
            (ours,) = text.run(["text_embeds"], {"input_ids": batch.input_ids})
            theirs = reference.get_text_features(
                input_ids=torch.from_numpy(batch.input_ids),
                attention_mask=torch.from_numpy(batch.attention_mask),
            )
            pairs.append((ours, torch.nn.functional.normalize(theirs).numpy()))
    limit = TOLERANCE[precision][EMBEDDINGS]
    seen = (image_embeds, torch.nn.functional.normalize(images).numpy())
    differences = [
        _difference("text_model embeddings", pairs, limit),
        _difference("vision_model embeddings", [seen], limit),
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
