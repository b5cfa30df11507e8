"""Writing the graphs of one checkpoint in every wanted precision, through Optimum's exporter."""

import copy
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import onnx
import torch
from optimum.exporters.onnx import export as optimum_export
from torch.jit._trace import TracerWarning

from export.graphs.configs import (
    ClipTextConfig,
    ClipVisionConfig,
    GraphConfig,
    WhisperDecoderConfig,
    WhisperEncoderConfig,
)
from export.graphs.quantization import quantize
from export.graphs.quantization.activation_ranges import Ranges
from export.graphs.storage import refer_to_weights
from export.graphs.tensorrt_rules import check_tensorrt_operators
from export.modules.attention import AttentionForm
from export.modules.clip import TextGraph, VisionGraph
from export.modules.whisper import DecoderGraph, EncoderGraph
from runtime.bundle.graph import graph_path

logger = logging.getLogger(__name__)

OPSET: Final = GraphConfig.DEFAULT_ONNX_OPSET


@dataclass(frozen=True, slots=True)
class GraphKind:
    """How a graph is made of a checkpoint.

    Attributes:
        make: Gives the module that is traced, for a model and an attention form.
        config: Its Optimum configuration.
    """

    make: Callable[[Any, AttentionForm], torch.nn.Module]
    config: type[GraphConfig]


WHISPER_GRAPHS: Final = MappingProxyType(
    {
        "encoder_model": GraphKind(EncoderGraph, WhisperEncoderConfig),
        "decoder_model": GraphKind(DecoderGraph, WhisperDecoderConfig),
    }
)
CLIP_GRAPHS: Final = MappingProxyType(
    {
        "text_model": GraphKind(TextGraph, ClipTextConfig),
        "vision_model": GraphKind(VisionGraph, ClipVisionConfig),
    }
)


def write_graphs(
    model: torch.nn.Module,
    kinds: Mapping[str, GraphKind],
    precision: str,
    folder: Path,
    ranges: Ranges | None = None,
) -> None:
    """Write the graphs of one checkpoint in one precision.

    Args:
        model: The checkpoint in float32; not changed.
        kinds: Its graphs by name.
        precision: "fp32"; "int8", made of the fp32 graphs, which must be there; "fp16", of standard
            operators only.
        folder: The bundle that is being built.
        ranges: Of the inputs of products, for int8; None where they were not measured.
    """
    if precision == "fp16":
        model = copy.deepcopy(model).half()
    for name, kind in kinds.items():
        target = folder / graph_path(name, precision)
        target.parent.mkdir(parents=True, exist_ok=True)
        if precision == "int8":
            few_rows = name == "decoder_model"
            quantize(folder / graph_path(name, "fp32"), target, few_rows=few_rows, ranges=ranges)
            continue
        form = AttentionForm.STANDARD if precision == "fp16" else AttentionForm.FUSED
        _trace(kind.make(model, form).eval(), kind.config, target)
        if precision == "fp16":
            check_tensorrt_operators(target)


def _trace(graph: torch.nn.Module, config: type[GraphConfig], target: Path) -> None:
    with warnings.catch_warnings():
        # The tracing exporter is deprecated in favour of one that optimum-onnx does not use yet, and it warns
        # of every Python number that becomes a constant, which the graphs intend.
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=TracerWarning)
        # Axes are named by our configurations, so that the extra run that guesses static ones is not needed.
        optimum_export(graph, config(graph), target, opset=OPSET, disable_dynamic_axes_fix=True)


def share_weights(folder: Path, graph: str, owner: str, precision: str) -> None:
    """Let one graph of a bundle refer to the weights of another, where both hold the same."""
    target, source = (folder / graph_path(name, precision) for name in (graph, owner))
    model = onnx.load(target)
    target.with_name(target.name + "_data").unlink(missing_ok=True)
    refer_to_weights(model.graph, source)
    onnx.save(model, target)


def remove_graphs(kinds: Mapping[str, GraphKind], precision: str, folder: Path) -> None:
    """Delete graphs that only served to make others."""
    for name in kinds:
        path = folder / graph_path(name, precision)
        path.unlink(missing_ok=True)
        path.with_name(path.name + "_data").unlink(missing_ok=True)


def describe() -> dict[str, Any]:
    """Return names and opset of the graphs, for `bundle.json`."""
    return {"graphs": [*WHISPER_GRAPHS, *CLIP_GRAPHS], "opset": OPSET}
