"""Optimum configurations of the four graphs: names, dynamic axes and example inputs.

Optimum registers Whisper and CLIP in other shapes: a decoder with a vocabulary of logits and one copy of the
cross-attention for every beam, one CLIP graph that needs text and pixels at once.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from optimum.exporters.onnx.base import OnnxConfig
from optimum.utils import NormalizedConfig
from torch import Tensor, nn

Axes = dict[str, dict[int, str]]


class GraphConfig(OnnxConfig):  # type: ignore[misc]  # Optimum is not typed
    """What the four configurations share: graphs are plain modules that need no patching."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DEFAULT_ONNX_OPSET = 18

    def __init__(self, graph: Any) -> None:
        super().__init__(graph.config)
        self.graph = graph
        self.float_type: torch.dtype = next(graph.parameters()).dtype

    @property
    def inputs(self) -> Axes:
        """Input names in the order of `forward`, each with its dynamic axes."""
        raise AssertionError("every graph names its inputs")

    def ordered_inputs(self, model: nn.Module) -> Axes:  # noqa: ARG002
        """Keep the order of `inputs`, in which lists of tensors are already flattened."""
        return self.inputs

    @contextlib.contextmanager
    def patch_model_for_export(
        self,
        model: nn.Module,  # noqa: ARG002
        model_kwargs: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> Iterator[None]:
        """Patch nothing: the graphs are written to be traced."""
        yield


class WhisperEncoderConfig(GraphConfig):
    """`export.modules.whisper.EncoderGraph`."""

    @property
    def inputs(self) -> Axes:
        """Input names in the order of `forward`, each with its dynamic axes."""
        return {"input_features": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """Output names in their order, each with its dynamic axes."""
        return cross_axes(self.graph.config.decoder_layers)

    def generate_dummy_inputs(self, framework: str = "pt", **kwargs: Any) -> dict[str, Tensor]:  # noqa: ARG002
        """Return example inputs for the tracer, every dynamic axis at a length of its own."""
        config = self.graph.config
        shape = (2, config.num_mel_bins, 2 * config.max_source_positions)
        return {"input_features": torch.randn(shape, dtype=self.float_type)}


class ShortEncoderConfig(GraphConfig):
    """`export.modules.short_encoder.ShortEncoderGraph`."""

    @property
    def inputs(self) -> Axes:
        """Input names in the order of `forward`, each with its dynamic axes."""
        tensors = padded_tensors(self.graph.config.encoder_layers)
        return {
            "input_features": {0: "batch", 2: "frames"},
            "anchors": {0: "anchors"},
            "supports": {0: "supports"},
            "cached": {0: "cached"},
            "interpolation": {0: "cached", 1: "supports"},
            "memory_mean": {0: "groups"},
            "memory_interpolation": {0: "groups", 1: "supports"},
            "memory_bias": {0: "memory"},
            **{f"mean_{name}": {} for name in tensors},
        }

    @property
    def outputs(self) -> Axes:
        """Output names in their order, each with its dynamic axes."""
        return cross_axes(self.graph.config.decoder_layers, "memory")

    def generate_dummy_inputs(self, framework: str = "pt", **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return example inputs for the tracer, every dynamic axis at a length of its own."""
        config = self.graph.config
        positions, width = config.max_source_positions, config.d_model
        tensors = 2 * config.encoder_layers + 1
        batch, anchors, cached, groups = 2, 3, positions // 2, positions // 4
        leading = positions - anchors - 1 - cached
        return {
            "input_features": torch.randn(batch, config.num_mel_bins, 2 * leading + 2, dtype=self.float_type),
            "anchors": torch.arange(leading, leading + anchors),
            "supports": torch.tensor([*range(leading - 1, leading + anchors), positions - 1]),
            "cached": torch.arange(leading + anchors, positions - 1),
            "interpolation": torch.randn(cached, anchors + 2),
            "memory_mean": torch.randn(groups, width).half(),
            "memory_interpolation": torch.randn(groups, anchors + 2),
            "memory_bias": torch.rand(leading + anchors + 1 + groups),
            "means": [torch.randn(positions, width).half() for _ in range(tensors)],
        }


class WhisperDecoderConfig(GraphConfig):
    """`export.modules.whisper.DecoderGraph`."""

    @property
    def inputs(self) -> Axes:
        """Input names in the order of `forward`, each with its dynamic axes."""
        return {
            "input_ids": {0: "batch", 1: "queries"},
            "positions": {0: "queries"},
            "attention_mask": {0: "batch", 1: "queries", 2: "total"},
            "output_index": {0: "outputs"},
            "token_mask": {0: "mask_batch", 1: "mask_outputs"},
            "top_k": {},
            **cache_axes("past", self.graph.config.decoder_layers, "cached"),
            **cross_axes(self.graph.config.decoder_layers, "memory"),
        }

    @property
    def outputs(self) -> Axes:
        """Output names in their order, each with its dynamic axes."""
        best = {0: "batch", 1: "outputs", 2: "top_k"}
        return {
            "log_probs": best,
            "tokens": best,
            **cache_axes("present", self.graph.config.decoder_layers, "total"),
        }

    def generate_dummy_inputs(self, framework: str = "pt", **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return example inputs for the tracer, every dynamic axis at a length of its own."""
        config = self.graph.config
        batch, queries, cached = 2, 3, 4
        heads = config.decoder_attention_heads
        head_dim = config.d_model // heads
        source = config.max_source_positions

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=self.float_type)

        past = [random(batch, heads, cached, head_dim) for _ in range(2 * config.decoder_layers)]
        cross = [
            random(batch, heads, *shape)
            for _ in range(config.decoder_layers)
            for shape in ((head_dim, source), (source, head_dim))
        ]
        bias = torch.zeros(batch, source, dtype=self.float_type)
        return {
            "input_ids": torch.randint(config.vocab_size, (batch, queries)),
            "positions": torch.arange(cached, cached + queries),
            "attention_mask": torch.zeros(batch, queries, cached + queries, dtype=self.float_type),
            "output_index": torch.arange(queries),
            "token_mask": torch.zeros(1, 1, config.vocab_size),
            "top_k": torch.tensor([5]),
            "past": past,
            "cross": [*cross, bias],
        }


class ClipTextConfig(GraphConfig):
    """`export.modules.clip.TextGraph`."""

    @property
    def inputs(self) -> Axes:
        """Input names in the order of `forward`, each with its dynamic axes."""
        return {"input_ids": {0: "batch", 1: "length"}}

    @property
    def outputs(self) -> Axes:
        """Output names in their order, each with its dynamic axes."""
        return {"text_embeds": {0: "batch"}}

    def generate_dummy_inputs(self, framework: str = "pt", **kwargs: Any) -> dict[str, Tensor]:  # noqa: ARG002
        """Return example inputs for the tracer, every dynamic axis at a length of its own."""
        text = self.graph.config.text_config
        length = min(7, text.max_position_embeddings)
        return {"input_ids": torch.randint(text.vocab_size, (2, length))}


class ClipVisionConfig(GraphConfig):
    """`export.modules.clip.VisionGraph`."""

    @property
    def inputs(self) -> Axes:
        """Input names in the order of `forward`, each with its dynamic axes."""
        return {"pixel_values": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """Output names in their order, each with its dynamic axes."""
        return {"image_embeds": {0: "batch"}}

    def generate_dummy_inputs(self, framework: str = "pt", **kwargs: Any) -> dict[str, Tensor]:  # noqa: ARG002
        """Return example inputs for the tracer, every dynamic axis at a length of its own."""
        size = self.graph.image_size
        return {"pixel_values": torch.randn(2, 3, size, size, dtype=self.float_type)}


def padded_tensors(layers: int) -> list[str]:
    """Name the tensors of the encoder that hold the padding: keys and values of every layer, final states."""
    return [*(f"{kind}_{i}" for i in range(layers) for kind in ("key", "value")), "states"]


def cross_axes(layers: int, length: str | None = None) -> Axes:
    """Name the cross-attention keys and values of every decoder layer, and the bias of their scores.

    Args:
        layers: How many.
        length: Name of the dynamic number of keys; None where it is that of the window's positions.
    """
    keys_and_values = (((f"cross_key_{i}", 3), (f"cross_value_{i}", 2)) for i in range(layers))
    places = {name: place for layer in keys_and_values for name, place in layer} | {"cross_bias": 1}
    return {name: {0: "batch"} | ({place: length} if length else {}) for name, place in places.items()}


def cache_axes(prefix: str, layers: int, length: str) -> Axes:
    """Name the self-attention cache of every decoder layer, `length` being the name of its dynamic length."""
    names = (name for i in range(layers) for name in (f"{prefix}_key_{i}", f"{prefix}_value_{i}"))
    return {name: {0: "batch", 2: length} for name in names}
