"""TensorRT's optimisation profiles: the smallest, usual and largest shape of every input of a graph.

The graphs name their dynamic dimensions ("batch", "queries", "cached", …), so a profile is a range for each
name. A name without a range is an error: TensorRT would otherwise build an engine for the first shape it
meets, and another one for the next.

What TensorRT asks of the shapes, and what follows:

- One profile a session. onnxruntime's options take a single range for each input (microsoft/onnxruntime issue
  23965), so that prompt and step share a profile, tuned for the step.
- The shapes of each corner must fit together, or the builder fails on its shape checks: `total` is
  `cached + queries` in the smallest, the usual and the largest shape alike.
- No dimension of 0. TensorRT can run empty tensors, but fused attention over one is where builders fail, and
  onnxruntime-genai starts its ranges at 1 as well (its pull request 1659). `MINIMUM_CACHE` is that 1: the
  decoder starts from one cached entry that the attention mask hides from everything.
- `top_k` feeds the k of TopK, which makes it a shape tensor: its profile holds values, not dimensions
  (microsoft/onnxruntime pull request 18253). TensorRT's TopK takes at most `TOP_K_LIMIT`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import onnxruntime as ort

from runtime.bundle.graph import Graph
from runtime.bundle.json_files import read_json_object
from runtime.errors import BundleError, SettingsError

MINIMUM_CACHE: Final = 1
TOP_K_LIMIT: Final = 3839  # onnx-tensorrt 10.1, docs/operators.md, TopK: "K input must be less than 3840"
_CLIP_POSITIONS: Final = 77  # of every published CLIP, and the default of transformers' CLIPTextConfig
SHAPE_TENSORS: Final = frozenset({"top_k"})  # inputs whose values, not dimensions, are ranged
_LENGTH_BUCKETS: Final = (32, 64, 128, 224, 448)  # generated tokens; Whisper's positions end at 448


@dataclass(frozen=True, slots=True)
class Range:
    """A range of one dimension, or of one value of a shape tensor."""

    smallest: int
    usual: int
    largest: int

    def __post_init__(self) -> None:
        """Verify the order.

        Raises:
            SettingsError: Not 1 <= smallest <= usual <= largest.
        """
        if not 1 <= self.smallest <= self.usual <= self.largest:
            raise SettingsError(f"{self} is no range; expected 1 <= smallest <= usual <= largest")


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The largest requests that engines are built for.

    Attributes:
        batch: Utterances at a time.
        beams: Beams of the search.
        tokens: Generated tokens at most.
        prompt: Tokens of the prompt at most: start, language, task, timestamps, and earlier text.
        continuations: Continuations of one position at most. A search asks for about twice its beams,
            language detection for every language.
        texts: Texts that CLIP encodes at a time.
        text_length: Tokens of a text at most.
        images: Pictures that CLIP encodes at a time.
    """

    batch: int = 8
    beams: int = 5
    tokens: int = 448
    prompt: int = 4
    continuations: int = 128
    texts: int = 64
    text_length: int = 77
    images: int = 16

    def __post_init__(self) -> None:
        """Verify ranges.

        Raises:
            SettingsError: A limit is below 1, or above what TensorRT or Whisper can do.
        """
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingsError(f"engine limit {name} is {value!r}; expected a whole number from 1")
        if self.continuations > TOP_K_LIMIT:
            raise SettingsError(
                f"engine limit continuations is {self.continuations}; TensorRT's TopK takes at most "
                f"{TOP_K_LIMIT}"
            )
        if self.tokens > _LENGTH_BUCKETS[-1]:
            raise SettingsError(
                f"engine limit tokens is {self.tokens}; Whisper has {_LENGTH_BUCKETS[-1]} positions"
            )

    def bucketed(self) -> "EngineLimits":
        """Round up to what engines are really built for, so that similar settings share their engines.

        Batches go up to the next power of two, generated tokens to 32, 64, 128, 224 or 448.
        """
        return EngineLimits(
            batch=_next_power_of_two(self.batch),
            beams=self.beams,
            tokens=next(length for length in _LENGTH_BUCKETS if self.tokens <= length),
            prompt=max(4, _next_power_of_two(self.prompt)),
            continuations=self.continuations,
            texts=_next_power_of_two(self.texts),
            text_length=self.text_length,
            images=_next_power_of_two(self.images),
        )


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An input of a graph: its name, onnxruntime's type and its shape, with names for dynamic dimensions."""

    name: str
    type: str
    shape: tuple[int | str, ...]

    @property
    def is_dynamic(self) -> bool:
        """Whether TensorRT needs a profile for it."""
        return self.name in SHAPE_TENSORS or any(not isinstance(size, int) for size in self.shape)


@dataclass(frozen=True, slots=True)
class Profile:
    """Ranges for every dynamic input of one graph.

    Attributes:
        graph: "encoder_model", "decoder_model", "text_model" or "vision_model".
        inputs: Input name to its dimensions (values, for a shape tensor), each a `Range`.
    """

    graph: str
    inputs: Mapping[str, tuple[Range, ...]]

    def options(self) -> dict[str, str]:
        """Return onnxruntime's three options, each "input:1x80x3000,…"."""
        return {
            "trt_profile_min_shapes": self._corner("smallest"),
            "trt_profile_opt_shapes": self._corner("usual"),
            "trt_profile_max_shapes": self._corner("largest"),
        }

    def digest(self) -> str:
        """Return a hash of the ranges, 12 hexadecimal digits."""
        text = json.dumps([self.graph, self.options()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Return the three corners, for reports."""
        return {"graph": self.graph, **self.options()}

    def _corner(self, corner: str) -> str:
        return ",".join(
            f"{name}:{'x'.join(str(getattr(size, corner)) for size in sizes)}"
            for name, sizes in self.inputs.items()
        )


def limits_of(graph: Graph, limits: EngineLimits) -> EngineLimits:
    """Cut limits down to what the checkpoint of a graph can do.

    CLIP's text graph slices its table of positions: a range beyond the table could not be built.

    Args:
        graph: Which one; `config.json` of its checkpoint lies one folder above its file, as in a bundle.
            Without it, the limits stay as they are.
        limits: The wanted limits.

    Raises:
        BundleError: config.json is damaged.
    """
    config = graph.path.parent.parent / "config.json"
    if graph.name != "text_model" or not config.is_file():
        return limits
    positions = (
        read_json_object(config).get("text_config", {}).get("max_position_embeddings", _CLIP_POSITIONS)
    )
    return replace(limits, text_length=min(limits.text_length, int(positions)))


def read_inputs(path: Path) -> tuple[GraphInput, ...]:
    """Read the inputs of a graph, without optimising it.

    Raises:
        BundleError: onnxruntime cannot load the file.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime's classes share no other base
        raise BundleError(f"{path}: onnxruntime cannot load it: {error}; export the bundle again") from error
    return tuple(GraphInput(node.name, node.type, tuple(node.shape)) for node in session.get_inputs())


def build_profile(graph: str, inputs: Sequence[GraphInput], limits: EngineLimits) -> Profile:
    """Range every dynamic input of a graph.

    Args:
        graph: Name of the graph.
        inputs: Its inputs.
        limits: The largest requests; they are bucketed here.

    Raises:
        SettingsError: A dynamic dimension has no known name.
    """
    vocabulary = next((each.shape[-1] for each in inputs if each.name == "token_mask"), None)
    if isinstance(vocabulary, int):  # TopK cannot give more tokens than there are
        limits = replace(limits, continuations=min(limits.continuations, vocabulary))
    ranges = _RANGES[graph](limits.bucketed())
    return Profile(
        graph,
        MappingProxyType({each.name: _shape(graph, each, ranges) for each in inputs if each.is_dynamic}),
    )


def _shape(graph: str, each: GraphInput, ranges: Mapping[str, Range]) -> tuple[Range, ...]:
    if each.name in SHAPE_TENSORS:
        return (ranges[each.name],)
    return tuple(_size(graph, each, size, ranges) for size in each.shape)


def _size(graph: str, each: GraphInput, size: int | str, ranges: Mapping[str, Range]) -> Range:
    if isinstance(size, int):
        return Range(size, size, size)
    if size not in ranges:
        raise SettingsError(
            f"{graph}: input {each.name} has the dynamic dimension {size!r}, for which there is no range; "
            f"known are {', '.join(ranges)}. The graph is of another version: export the bundle again"
        )
    return ranges[size]


def _encoder_ranges(limits: EngineLimits) -> dict[str, Range]:
    return {"batch": Range(1, 1, limits.batch)}


def _short_encoder_ranges(limits: EngineLimits) -> dict[str, Range]:
    # Every dimension may reach what the others allow: leading positions and anchors are at most 0.6 of 1500.
    # Usual is what 225 leading positions come to.
    anchors = Range(1, 95, 128)
    return {
        "batch": Range(1, 1, limits.batch),
        "frames": Range(4, 2 * 225 + 2, 2 * 900 + 2),
        "anchors": anchors,
        # The last leading position and the last of the window support the others besides the anchors.
        "supports": Range(*(getattr(anchors, corner) + 2 for corner in Range.__slots__)),
        "cached": Range(1, 1179, 1500),
        "groups": Range(1, 447, 1500),
        "memory": Range(1, 768, 1500),
    }


def _decoder_ranges(limits: EngineLimits) -> dict[str, Range]:
    queries = Range(1, limits.beams, max(limits.beams, limits.prompt))
    grown = limits.beams * limits.tokens
    cached = Range(
        MINIMUM_CACHE, MINIMUM_CACHE + limits.prompt + grown // 4, MINIMUM_CACHE + limits.prompt + grown
    )
    total = Range(*(getattr(cached, corner) + getattr(queries, corner) for corner in Range.__slots__))
    outputs = max(limits.beams, 2)  # a prompt's are two: its first place and its last
    return {
        "batch": Range(1, 1, limits.batch),
        "queries": queries,
        "outputs": Range(1, limits.beams, outputs),
        "cached": cached,
        "total": total,
        "memory": Range(1, 1500, 1500),  # of an utterance; pocket models have fewer
        "mask_batch": Range(1, 1, limits.batch),
        "mask_outputs": Range(1, 1, outputs),
        "top_k": Range(1, min(2 * limits.beams, limits.continuations), limits.continuations),
    }


def _text_ranges(limits: EngineLimits) -> dict[str, Range]:
    # Captions are short; CLIP's limit of 77 tokens is the exception.
    return {
        "batch": Range(1, min(8, limits.texts), limits.texts),
        "length": Range(1, min(16, limits.text_length), limits.text_length),
    }


def _vision_ranges(limits: EngineLimits) -> dict[str, Range]:
    return {"batch": Range(1, 1, limits.images)}


_RANGES: Final = MappingProxyType(
    {
        "encoder_model": _encoder_ranges,
        "encoder_short_model": _short_encoder_ranges,
        "decoder_model": _decoder_ranges,
        "text_model": _text_ranges,
        "vision_model": _vision_ranges,
    }
)


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
