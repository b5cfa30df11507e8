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

from runtime.bundle.graph import FIXED_DECODER, STEPPED, Graph
from runtime.errors import BundleError, ProviderError, SettingsError
from runtime.sessions.choice import Device, Provider, select_provider
from runtime.sessions.obstacles import ORT_NAMES, ProviderName
from runtime.sessions.openvino import OPENVINO_PRECISIONS, find_device, openvino_options
from runtime.sessions.placement import RECORD_PLACEMENT, Placement, check_placement, read_placement
from runtime.sessions.tensorrt.engines import EnginePlan, EngineSettings, plan_engine
from runtime.sessions.tensorrt.profiles import MINIMUM_CACHE

__all__ = ["Provider", "ProviderName", "SessionFactory", "SessionSettings", "select_provider"]
logger = logging.getLogger(__name__)

MOST_SPIN_US: Final = 1_000_000
MOST_THREADS: Final = 1024  # the system kills a process with many more, instead of refusing them
CPU: Final = Provider("cpu")
# onnxruntime: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal. Errors are raised as well as logged: once is
# enough.
_FATAL_SEVERITY: Final = 4


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How sessions are opened. Verified on creation.

    Attributes:
        threads: Threads inside one operator, at most `MOST_THREADS`; None leaves it to onnxruntime (one a
            physical core).
        spin_us: Microseconds that an idle thread waits actively before it sleeps, at most `MOST_SPIN_US`; 0
            for none. The next operator of a graph comes within some microseconds. Who waits for longer takes
            the processor from the neighbours and, once the system has taken it back, from the next operator.
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
    spin_us: int = 20
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
        whole = isinstance(self.spin_us, int) and not isinstance(self.spin_us, bool)
        if not whole or not 0 <= self.spin_us <= MOST_SPIN_US:
            raise SettingsError(
                f"spin_us is {self.spin_us!r}; expected whole microseconds from 0 to {MOST_SPIN_US}"
            )
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
            SettingsError: The provider does not compute in the graph's precision.
            ProviderError: The provider is not in force, left too much of the graph to the CPU, or has no
                TensorRT engine for it.
            BundleError: onnxruntime cannot load the file.
        """
        file = graph.path.name
        self._require_precision(graph)
        plan = self._engine_plan(graph)
        started = time.perf_counter()
        session = self._create(graph, plan.options() if plan else {})
        if plan and not plan.is_built:
            plan.finish(started)
        in_force = session.get_providers()
        wanted = self._provider_of(graph).ort_name
        if not in_force or in_force[0] != wanted:
            raise ProviderError(
                f"{file}: {wanted} was asked for and onnxruntime uses "
                f"{', '.join(in_force)}; `python -m runtime doctor` says what is missing"
            )
        placement = read_placement(session, wanted, graph.precision)
        check_placement(placement, file, self.settings.fallen_share_limit)
        self._placements[file] = placement
        logger.info("%s: %s", file, placement.to_dict())
        return session

    def _provider_of(self, graph: Graph) -> Provider:
        """Return where a graph runs: all of them on the chosen provider, but beside OpenVINO the decoder.

        A step reads its weights once; in 8 bits, which OpenVINO does not read in blocks, that is quicker.
        """
        return CPU if self.provider == "openvino" and graph.name in STEPPED else self.choice

    def _require_precision(self, graph: Graph) -> None:
        """Refuse what would silently be computed otherwise, or several times as slowly."""
        provider, able = self._provider_of(graph).name, self.choice.bf16
        if graph.precision == "bf16" and not able:
            lacking = (
                "this processor has no units for it" if provider == "openvino" else f"{provider} was chosen"
            )
            raise SettingsError(
                f"bf16 is computed by the provider openvino alone, and {lacking}; name it "
                "(--provider openvino), or another precision (--precision int8)"
            )
        if provider == "openvino" and graph.precision not in OPENVINO_PRECISIONS:
            raise SettingsError(
                f"the provider openvino takes {' and '.join(OPENVINO_PRECISIONS)}, not {graph.precision}, "
                "which other providers run faster; use --provider cpu or another --precision"
            )

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
        options, choice = session_options(settings), self._provider_of(graph)
        try:
            if choice.name == "openvino":
                plugin = openvino_options(graph.precision, settings.threads)
                options.add_provider_for_devices([find_device()], plugin)
                session = ort.InferenceSession(graph.path, options, enable_fallback=0)
            else:
                providers = provider_list(choice, settings, tensorrt_options)
                session = ort.InferenceSession(graph.path, options, providers=providers, enable_fallback=0)
        except Exception as error:
            # onnxruntime raises classes of its own for each status code; what they share is Exception alone.
            message = " ".join(str(error).split())
            if "providers" in message.lower() or choice.name != "cpu":
                raise ProviderError(f"{graph.path.name} on {choice.ort_name}: {message}") from error
            raise BundleError(
                f"{graph.path}: onnxruntime cannot load it: {message}; export the bundle again (make export)"
            ) from error
        session.disable_fallback()
        return session


def session_options(settings: SessionSettings) -> ort.SessionOptions:
    """Turn settings into onnxruntime's session options, with the recording of the node placement on."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = settings.threads or 0  # 0: onnxruntime's own choice
    options.enable_cpu_mem_arena = settings.memory_arena
    options.enable_mem_pattern = settings.memory_pattern
    options.log_severity_level = _FATAL_SEVERITY  # warnings on placement are read from the session instead
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spin_us else "0")
    if settings.spin_us:  # onnxruntime's own default is about a millisecond
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(settings.spin_us))
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
