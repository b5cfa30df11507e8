"""Execution providers: chosen openly, opened with the right options, and proven after the session is there.

onnxruntime takes a list of providers as a wish: what is missing falls to the CPU with a warning at most.
Here a provider that was asked for by name runs, or the call fails and says why.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from runtime.bundle.graph import FIXED_DECODER, Graph
from runtime.errors import BundleError, ProviderError, SettingsError
from runtime.sessions.choice import Device, Provider, select_provider
from runtime.sessions.obstacles import ORT_NAMES, ProviderName
from runtime.sessions.placement import RECORD_PLACEMENT, Placement, check_placement, read_placement
from runtime.sessions.tensorrt.engines import EnginePlan, EngineSettings, plan_engine
from runtime.sessions.tensorrt.profiles import MINIMUM_CACHE

__all__ = ["Provider", "ProviderName", "SessionFactory", "SessionSettings", "select_provider"]
logger = logging.getLogger(__name__)

MOST_THREADS: Final = 1024  # the system kills a process with many more, instead of refusing them
# onnxruntime: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal. Errors are raised as well as logged: once is
# enough.
_FATAL_SEVERITY: Final = 4
_STEPPED: Final = ("decoder_model", FIXED_DECODER)  # graphs that run many times for one utterance


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How sessions are opened. Verified on creation.

    Attributes:
        threads: Threads inside one operator, at most `MOST_THREADS`; None leaves it to onnxruntime (one a
            physical core).
        spinning: Whether idle threads wait actively (quicker, but they take the processor from others).
        memory_arena: Keep freed memory for the next call.
        memory_pattern: Plan the memory of each input shape ahead. Every step of the decoder has a shape of
            its own, so that the plans pile up over the requests, and nothing became quicker by them.
        gpu_memory_bytes: Limit of the CUDA arena; None for all of the GPU's memory.
        tf32: Allow TF32 products on the GPU: quicker float32, with 10 bits of mantissa.
        cuda_graph: Record the kernels of a decoder step once and replay them (CUDA, and the decoder in fixed
            shapes alone: no other graph has fixed shapes and addresses).
        fallen_share_limit: Largest share of nodes that may fall to another provider, in [0, 1]; shape
            arithmetic belongs on the CPU.
        engines: TensorRT's engines.
        trace: Write a trace of every node that runs (JSON, Chrome's format) to files whose names begin so;
            `InferenceSession.end_profiling` closes and names the file. None for no trace.
    """

    threads: int | None = None
    spinning: bool = True
    memory_arena: bool = True
    memory_pattern: bool = False
    gpu_memory_bytes: int | None = None
    tf32: bool = False
    cuda_graph: bool = True
    fallen_share_limit: float = 0.4
    engines: EngineSettings = field(default_factory=EngineSettings)
    trace: Path | None = None

    def __post_init__(self) -> None:
        """Verify ranges.

        Raises:
            SettingsError: A value is out of its range.
        """
        for name, highest in (("threads", MOST_THREADS), ("gpu_memory_bytes", None)):
            value = getattr(self, name)
            if value is None:
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < 1 or (highest is not None and value > highest):
                limits = f"from 1 to {highest}" if highest else "from 1"
                raise SettingsError(f"{name} is {value!r}; expected a whole number {limits}")
        if not 0.0 <= self.fallen_share_limit <= 1.0:
            raise SettingsError(f"fallen_share_limit is {self.fallen_share_limit!r}; expected 0.0 to 1.0")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, for reports."""
        fields = asdict(self)
        fields["engines"]["folder"] = str(self.engines.folder) if self.engines.folder else None
        fields["trace"] = str(self.trace) if self.trace else None
        return fields


class SessionFactory:
    """Opens graphs on one provider, and refuses a session that is not what was asked for."""

    def __init__(self, provider: Provider, settings: SessionSettings | None = None) -> None:
        self.choice = provider
        self.settings = settings or SessionSettings()
        self._placements: dict[str, Placement] = {}

    @property
    def provider(self) -> ProviderName:
        """Name of the execution provider."""
        return self.choice.name

    @property
    def device(self) -> Device:
        """Device name for `OrtValue` and IO binding."""
        return self.choice.device

    @property
    def device_id(self) -> int:
        """Device number for `OrtValue` and IO binding."""
        return self.choice.gpu.index if self.choice.gpu else 0

    @property
    def minimum_cache(self) -> int:
        """How many entries the decoder's cache must hold from the start; the first ones are then hidden."""
        return MINIMUM_CACHE if self.provider == "tensorrt" else 0

    def open(self, graph: Graph) -> ort.InferenceSession:
        """Open a graph.

        Args:
            graph: Which one.

        Returns:
            A session whose providers and node placement are what was asked for.

        Raises:
            ProviderError: The provider is not in force, left too much of the graph to the CPU, or has no
                TensorRT engine for it.
            BundleError: onnxruntime cannot load the file.
        """
        file = graph.path.name
        plan = self._engine_plan(graph)
        started = time.perf_counter()
        session = self._create(graph, plan.options() if plan else {})
        if plan and not plan.is_built:
            plan.finish(started)
        in_force = session.get_providers()
        if not in_force or in_force[0] != self.choice.ort_name:
            raise ProviderError(
                f"{file}: {self.choice.ort_name} was asked for and onnxruntime uses "
                f"{', '.join(in_force)}; `python -m runtime doctor` says what is missing"
            )
        placement = read_placement(session, self.choice.ort_name)
        check_placement(placement, file, self.settings.fallen_share_limit)
        self._placements[file] = placement
        logger.info("%s: %s", file, placement.to_dict())
        return session

    def _engine_plan(self, graph: Graph) -> EnginePlan | None:
        if self.provider != "tensorrt":
            return None
        gpu, version = self.choice.gpu, self.choice.tensorrt
        assert gpu is not None  # select_provider has seen the GPU and loaded TensorRT
        assert version is not None
        plan = plan_engine(graph, self.settings.engines, gpu, version)
        plan.require_built()
        plan.store.prepare(plan.key)
        return plan

    @property
    def placements(self) -> Mapping[str, Placement]:
        """Node placement of every graph opened so far, by file name."""
        return self._placements

    def describe(self) -> dict[str, Any]:
        """Return provider, settings and the node placement of every graph opened so far, for reports."""
        return {
            **self.choice.to_dict(),
            "settings": self.settings.to_dict(),
            "placement": {name: placement.to_dict() for name, placement in self._placements.items()},
        }

    def _create(self, graph: Graph, tensorrt_options: Mapping[str, str]) -> ort.InferenceSession:
        settings = self.settings
        if graph.name != FIXED_DECODER:
            settings = replace(settings, cuda_graph=False)
        providers = provider_list(self.choice, settings, tensorrt_options)
        try:
            session = ort.InferenceSession(
                graph.path,
                session_options(self.settings, many_runs=graph.name in _STEPPED),
                providers=providers,
                enable_fallback=0,
            )
        except Exception as error:
            # onnxruntime raises classes of its own for each status code; what they share is Exception alone.
            message = " ".join(str(error).split())
            if "providers" in message.lower() or self.provider != "cpu":
                raise ProviderError(f"{graph.path.name} on {self.choice.ort_name}: {message}") from error
            raise BundleError(
                f"{graph.path}: onnxruntime cannot load it: {message}; export the bundle again (make export)"
            ) from error
        session.disable_fallback()
        return session


def session_options(settings: SessionSettings, *, many_runs: bool = False) -> ort.SessionOptions:
    """Turn settings into onnxruntime's session options, with the recording of the node placement on.

    Args:
        settings: What they say.
        many_runs: Whether one run follows on another, as the steps of a decoder do.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = settings.threads or 0  # 0: onnxruntime's own choice
    options.enable_cpu_mem_arena = settings.memory_arena
    options.enable_mem_pattern = settings.memory_pattern
    options.log_severity_level = _FATAL_SEVERITY  # warnings on placement are read from the session instead
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    # Every session has threads of its own, which go on spinning for milliseconds after a run. Those of the
    # encoder would take a core from the first steps of the decoder. Between two steps spinning is worth it.
    options.add_session_config_entry("session.force_spinning_stop", "0" if many_runs else "1")
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    if settings.trace is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(settings.trace)
    return options


def provider_list(
    choice: Provider, settings: SessionSettings, tensorrt_options: Mapping[str, str]
) -> list[tuple[str, dict[str, str]]]:
    """Return onnxruntime's list of providers with their options; the later take what the first leaves."""
    cpu: tuple[str, dict[str, str]] = (ORT_NAMES["cpu"], {})
    if choice.gpu is None:
        return [cpu]
    cuda = (ORT_NAMES["cuda"], cuda_options(settings, choice.gpu.index))
    if choice.name == "cuda":
        return [cuda, cpu]
    return [(ORT_NAMES["tensorrt"], dict(tensorrt_options)), cuda, cpu]


def cuda_options(settings: SessionSettings, device_id: int) -> dict[str, str]:
    """Return the options of the CUDA provider (onnxruntime: docs/execution-providers/CUDA)."""
    options = {
        "device_id": str(device_id),
        "arena_extend_strategy": "kSameAsRequested",  # the cache grows in small steps
        "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search runs anew for every new batch size
        "use_tf32": "1" if settings.tf32 else "0",
        "enable_cuda_graph": "1" if settings.cuda_graph else "0",
    }
    if settings.gpu_memory_bytes is not None:
        options["gpu_mem_limit"] = str(settings.gpu_memory_bytes)
    return options
