"""Opening a graph on TensorRT: profile, engine, options. Engines are built ahead, not by the first request.

Source of the options: onnxruntime's documentation of the TensorRT execution provider.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnxruntime as ort

from runtime.bundle.graph import Graph
from runtime.errors import ProviderError, SettingsError
from runtime.sessions.cuda_driver import Gpu
from runtime.sessions.tensorrt.profiles import (
    EngineLimits,
    Profile,
    build_profile,
    limits_of,
    read_inputs,
)
from runtime.sessions.tensorrt.store import EngineKey, EngineStore

logger = logging.getLogger(__name__)

ENGINE_FOLDER: Final = "engines"  # beside the graph, unless the settings name another
_LEVELS: Final = range(6)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How TensorRT engines are built and where they lie.

    Attributes:
        limits: The largest requests. None for those of the engine that was built last for a graph, GPU and
            versions; where there is none, the defaults of `EngineLimits`.
        folder: Where engines lie; None for a folder `engines` beside each graph.
        allow_build: Build a missing engine when a graph is opened. Otherwise a missing engine is an error,
            because a build takes minutes and holds the request up.
        workspace_bytes: Scratch memory of the builder; None leaves it to TensorRT.
        optimization_level: How long the builder searches, 0 to 5.
        context_model: Also write an EP-context model, which starts without the original graph.
    """

    limits: EngineLimits | None = None
    folder: Path | None = None
    allow_build: bool = False
    workspace_bytes: int | None = None
    optimization_level: int = 3
    context_model: bool = False

    def __post_init__(self) -> None:
        """Verify ranges.

        Raises:
            SettingsError: A value is out of its range.
        """
        if self.optimization_level not in _LEVELS:
            raise SettingsError(f"optimization_level is {self.optimization_level!r}; expected 0 to 5")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise SettingsError(f"workspace_bytes is {self.workspace_bytes!r}; expected 1 or more")


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What it takes to run one graph on TensorRT on this machine.

    Attributes:
        graph: Which one.
        profile: Ranges of its inputs.
        key: What the engine depends on.
        store: Where it lies.
        settings: How it is built.
        limits: The largest requests of this engine.
        device_id: Number of the GPU.
    """

    graph: Graph
    profile: Profile
    key: EngineKey
    store: EngineStore
    settings: EngineSettings
    limits: EngineLimits
    device_id: int = 0

    @property
    def is_built(self) -> bool:
        """Whether the engine is there already."""
        return self.store.is_built(self.key)

    def require_built(self) -> None:
        """Refuse to go on without an engine, unless building is allowed.

        Raises:
            ProviderError: The engine is missing and `allow_build` is off.
        """
        if self.is_built or self.settings.allow_build:
            return
        raise ProviderError(
            f"no TensorRT engine of {self.graph.name} for {self.key.gpu} (compute capability "
            f"{self.key.capability}), TensorRT {self.key.tensorrt}, onnxruntime {self.key.onnxruntime} and "
            f"these limits: {self.store.folder(self.key)} is not there. Build it once with "
            "`python -m runtime engines --bundle DIR` on this machine, or allow building at the first "
            "request (it takes minutes)"
        )

    def options(self) -> dict[str, str]:
        """Return the options of the TensorRT provider, all as text."""
        half = self.key.precision == "fp16"
        folder = self.store.folder(self.key)
        options = {
            "device_id": str(self.device_id),
            "trt_fp16_enable": _flag(half),
            # LayerNorm sums squares, which overflow float16 in the deeper layers of Whisper.
            "trt_layer_norm_fp32_fallback": _flag(half),
            "trt_engine_cache_enable": _flag(True),
            "trt_engine_cache_path": str(folder),
            "trt_engine_cache_prefix": self.key.graph,
            "trt_timing_cache_enable": _flag(True),
            "trt_timing_cache_path": str(self.store.timing_folder(self.key)),
            "trt_builder_optimization_level": str(self.settings.optimization_level),
            **self.profile.options(),
        }
        if self.settings.workspace_bytes is not None:
            options["trt_max_workspace_size"] = str(self.settings.workspace_bytes)
        if self.settings.context_model:
            # Relative to the context model, or the model names an absolute path and is refused when it is
            # loaded (https://github.com/microsoft/onnxruntime/issues/22131).
            options["trt_engine_cache_path"] = "."
            options["trt_dump_ep_context_model"] = _flag(True)
            options["trt_ep_context_file_path"] = str(folder / f"{self.graph.path.stem}_context.onnx")
            options["trt_ep_context_embed_mode"] = "0"  # the engine stays a file of its own
        return options

    def finish(self, started: float) -> None:
        """Record the engine that onnxruntime has just built.

        Args:
            started: `time.perf_counter()` before the session was created, in seconds.
        """
        seconds = time.perf_counter() - started
        notes = {"profile": self.profile.to_dict(), "build_seconds": round(seconds, 1)}
        self.store.mark_built(self.key, self.limits, notes)
        logger.info("built the TensorRT engine of %s in %.0f s", self.graph.path.name, seconds)


def plan_engine(
    graph: Graph, settings: EngineSettings, gpu: Gpu, tensorrt: str, *, onnxruntime: str | None = None
) -> EnginePlan:
    """Work out profile, key and place of a graph's engine. Needs no GPU.

    Args:
        graph: A graph of a bundle.
        settings: How to build.
        gpu: The GPU that it shall run on.
        tensorrt: TensorRT's version.
        onnxruntime: onnxruntime's version; that of this process when left out.

    Raises:
        SettingsError: The file is no graph of a bundle, or has a dimension without a range.
        ProviderError: The graph is quantised.
        BundleError: The file cannot be loaded.
    """
    if graph.precision == "int8":
        raise ProviderError(
            f"{graph.path.name}: TensorRT cannot run onnxruntime's dynamically quantised operators; "
            "use the fp16 graphs (--precision fp16)"
        )
    inputs = read_inputs(graph.path)
    store = EngineStore(settings.folder or graph.path.parent / ENGINE_FOLDER)

    def plan(limits: EngineLimits) -> EnginePlan:
        profile = build_profile(graph.name, inputs, limits_of(graph, limits))
        key = EngineKey(
            gpu=gpu.name,
            capability=gpu.capability,
            tensorrt=tensorrt,
            onnxruntime=onnxruntime or ort.__version__,
            graph=graph.name,
            graph_hash=graph.sha256,
            precision=graph.precision,
            profile=profile.digest(),
            build=build_ingredients(settings),
        )
        return EnginePlan(graph, profile, key, store, settings, limits, gpu.index)

    if settings.limits is not None:
        return plan(settings.limits)
    plans = map(plan, store.limits_built(graph))
    return next((found for found in plans if found.is_built), None) or plan(EngineLimits())


def build_ingredients(settings: EngineSettings) -> tuple[tuple[str, str], ...]:
    """Return the builder's settings that change the engine itself."""
    values: Mapping[str, object] = {
        "optimization_level": settings.optimization_level,
        "workspace_bytes": settings.workspace_bytes,
    }
    return tuple((name, str(value)) for name, value in values.items())


def _flag(value: bool) -> str:
    # "1" and "0" are refused: onnxruntime's Python binding wants these words for TensorRT, unlike for CUDA.
    return str(value)
