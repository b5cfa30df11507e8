"""Execution providers: chosen openly, opened with the right options, and proven after the session is there.

onnxruntime takes a list of providers as a wish: what is missing falls to the CPU with a warning at most.
Here a provider that was asked for by name runs, or the call fails and says why.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import onnxruntime as ort

from runtime.cuda_driver import Gpu
from runtime.errors import BundleError, ProviderError, SettingsError
from runtime.machine import Machine, read_machine
from runtime.placement import RECORD_PLACEMENT, Placement, check_placement, read_placement
from runtime.provider_policy import (
    ORT_NAMES,
    Obstacle,
    ProviderName,
    find_obstacles,
    obstacle_error,
    parse_provider,
)

__all__ = ["Provider", "ProviderName", "SessionFactory", "SessionSettings", "select_provider"]
logger = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]
_ERROR_SEVERITY = 3  # onnxruntime: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal

# y = relu(x @ x) for float32 x of shape (2, 2), opset 17: the smallest proof that a provider computes.
# `tests/test_providers.py` builds the same model with the onnx package.
PROBE_MODEL: Final = bytes.fromhex(
    "080812003a5a0a150a01780a017812016d1a026d3022064d61744d756c0a100a016d1201791a027230220452656c7512"
    "0570726f62655a130a0178120e0a0c080112080a0208020a02080262130a0179120e0a0c080112080a0208020a020802"
    "42040a001011"
)


@dataclass(frozen=True, slots=True)
class Provider:
    """The execution provider that was chosen.

    Attributes:
        name: "cpu", "cuda" or "tensorrt".
        passed_over: Better or earlier wishes that cannot run here, each with its reasons.
        gpu: The GPU that it uses; None for the CPU.
    """

    name: ProviderName
    passed_over: tuple[tuple[ProviderName, tuple[Obstacle, ...]], ...] = ()
    gpu: Gpu | None = None

    @property
    def device(self) -> Device:
        """Where inputs and outputs may stay between two calls."""
        return "cpu" if self.name == "cpu" else "cuda"

    @property
    def ort_name(self) -> str:
        """The name that onnxruntime uses."""
        return ORT_NAMES[self.name]

    def to_dict(self) -> dict[str, Any]:
        """Return the choice and its reasons, for reports."""
        return {
            "provider": self.name,
            "device": self.device,
            "gpu": self.gpu.to_dict() if self.gpu else None,
            "passed_over": {name: [str(item) for item in reasons] for name, reasons in self.passed_over},
        }


def select_provider(
    requested: str | Sequence[str] | None = None, *, machine: Machine | None = None, engines: bool = False
) -> Provider:
    """Choose the execution provider.

    Args:
        requested: A name ("cpu", "cuda", "tensorrt", or onnxruntime's "CUDAExecutionProvider", …): that one
            or an error. Several names: the first that runs here, or an error. None: the best that runs here.
        machine: The facts to decide on; read from this machine when left out.
        engines: TensorRT engines are built for this bundle. TensorRT takes part in the automatic choice only
            then, because building them takes minutes.

    Returns:
        The provider. It is proven by a tiny session, unless `machine` is given.

    Raises:
        SettingsError: A name is unknown, or the list is empty.
        ProviderError: Nothing of what was asked for runs here; the message says why and what mends it.
    """
    wishes = _wishes(requested, engines)
    if wishes == ("cpu",):
        return Provider("cpu")
    prove = machine is None
    facts = machine or read_machine()
    passed: list[tuple[ProviderName, tuple[Obstacle, ...]]] = []
    for name in wishes:
        obstacles = find_obstacles(name, facts) or (_prove(name) if prove else ())
        if obstacles:
            passed.append((name, obstacles))
            continue
        gpu = None if name == "cpu" else facts.driver.gpus[0]
        for other, reasons in passed:
            logger.info("provider %s passed over: %s", other, "; ".join(map(str, reasons)))
        logger.info("provider %s chosen%s", name, f" on {gpu.name}" if gpu else "")
        return Provider(name, tuple(passed), gpu)
    if len(passed) == 1:
        raise obstacle_error(*passed[0])
    raise ProviderError(" ".join(str(obstacle_error(name, reasons)) for name, reasons in passed))


def _wishes(requested: str | Sequence[str] | None, engines: bool) -> tuple[ProviderName, ...]:
    if requested is None:
        return ("tensorrt", "cuda", "cpu") if engines else ("cuda", "cpu")
    names = [requested] if isinstance(requested, str) else list(requested)
    if not names:
        raise SettingsError("an empty list of execution providers; name one, or give None for the best")
    return tuple(dict.fromkeys(parse_provider(name) for name in names))


def _prove(name: ProviderName) -> tuple[Obstacle, ...]:
    """Let the provider compute; TensorRT is proven on CUDA, because its builder takes many seconds."""
    if name == "cpu":
        return ()
    wanted = ORT_NAMES["cuda"]
    remedy = "python -m runtime doctor prints what onnxruntime found"
    try:
        session = ort.InferenceSession(PROBE_MODEL, providers=[wanted], enable_fallback=0)
        if wanted not in session.get_providers():
            return (Obstacle(f"onnxruntime did not load {wanted} and would have used the CPU", remedy),)
        session.run(None, {"x": [[1.0, 0.0], [0.0, 1.0]]})
    except Exception as error:  # noqa: BLE001 - onnxruntime raises classes of its own, RuntimeError among them
        return (Obstacle(f"a first computation failed: {' '.join(str(error).split())}", remedy),)
    return ()


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How sessions are opened. Verified on creation.

    Attributes:
        threads: Threads inside one operator; None leaves it to onnxruntime (one a physical core).
        spinning: Whether idle threads wait actively (quicker, but they take the processor from others).
        memory_arena: Keep freed memory for the next call.
        memory_pattern: Plan the memory of each input shape ahead; it costs memory for every shape seen.
        device_id: Number of the GPU.
        gpu_memory_bytes: Limit of the CUDA arena; None for all of the GPU's memory.
        tf32: Allow TF32 products on the GPU: quicker float32, with 10 bits of mantissa.
        cuda_graph: Record the kernels once and replay them. Input addresses and shapes must then be fixed.
        cpu_share_limit: Largest share of nodes that may fall from the GPU to the CPU, in [0, 1].
    """

    threads: int | None = None
    spinning: bool = True
    memory_arena: bool = True
    memory_pattern: bool = True
    device_id: int = 0
    gpu_memory_bytes: int | None = None
    tf32: bool = False
    cuda_graph: bool = False
    cpu_share_limit: float = 0.4

    def __post_init__(self) -> None:
        """Verify ranges.

        Raises:
            SettingsError: A value is out of its range.
        """
        for name, lowest in (("threads", 1), ("device_id", 0), ("gpu_memory_bytes", 1)):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < lowest
            ):
                raise SettingsError(f"{name} is {value!r}; expected a whole number from {lowest}")
        if not 0.0 <= self.cpu_share_limit <= 1.0:
            raise SettingsError(f"cpu_share_limit is {self.cpu_share_limit!r}; expected 0.0 to 1.0")


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
        return self.settings.device_id if self.device == "cuda" else 0

    def open(self, graph: Path, *, tensorrt_options: Mapping[str, str] | None = None) -> ort.InferenceSession:
        """Open a graph.

        Args:
            graph: The ONNX file.
            tensorrt_options: Options of the TensorRT provider, from `runtime.tensorrt.EngineStore`; needed
                with provider "tensorrt" and only there.

        Returns:
            A session whose providers and node placement are what was asked for.

        Raises:
            ProviderError: The provider is not in force, or left too much of the graph to the CPU.
            BundleError: onnxruntime cannot load the file.
        """
        if (self.provider == "tensorrt") != (tensorrt_options is not None):
            raise SettingsError(
                f"{graph.name}: provider {self.provider} with TensorRT options "
                f"{'left out' if tensorrt_options is None else 'given'}; they belong together"
            )
        session = self._create(graph, tensorrt_options or {})
        in_force = session.get_providers()
        if not in_force or in_force[0] != self.choice.ort_name:
            raise ProviderError(
                f"{graph.name}: {self.choice.ort_name} was asked for and onnxruntime uses "
                f"{', '.join(in_force)}; `python -m runtime doctor` says what is missing"
            )
        placement = read_placement(session)
        check_placement(placement, self.choice.ort_name, graph.name, self.settings.cpu_share_limit)
        self._placements[graph.name] = placement
        logger.info("%s: %s", graph.name, placement.to_dict())
        return session

    def describe(self) -> dict[str, Any]:
        """Return provider, settings and the node placement of every graph opened so far, for reports."""
        return {
            **self.choice.to_dict(),
            "settings": asdict(self.settings),
            "placement": {name: placement.to_dict() for name, placement in self._placements.items()},
        }

    def _create(self, graph: Path, tensorrt_options: Mapping[str, str]) -> ort.InferenceSession:
        providers = provider_list(self.provider, self.settings, tensorrt_options)
        try:
            session = ort.InferenceSession(
                graph, session_options(self.settings), providers=providers, enable_fallback=0
            )
        except Exception as error:
            # onnxruntime raises classes of its own for each status code; what they share is Exception alone.
            message = " ".join(str(error).split())
            if "providers" in message.lower() or self.provider != "cpu":
                raise ProviderError(f"{graph.name} on {self.choice.ort_name}: {message}") from error
            raise BundleError(
                f"{graph}: onnxruntime cannot load it: {message}; export the bundle again (make export)"
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
    options.log_severity_level = _ERROR_SEVERITY  # warnings on placement are read from the session instead
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    return options


def provider_list(
    name: ProviderName, settings: SessionSettings, tensorrt_options: Mapping[str, str]
) -> list[tuple[str, dict[str, str]]]:
    """Return onnxruntime's list of providers with their options; the later take what the first leaves."""
    cpu: tuple[str, dict[str, str]] = (ORT_NAMES["cpu"], {})
    if name == "cpu":
        return [cpu]
    cuda = (ORT_NAMES["cuda"], cuda_options(settings))
    if name == "cuda":
        return [cuda, cpu]
    return [(ORT_NAMES["tensorrt"], dict(tensorrt_options)), cuda, cpu]


def cuda_options(settings: SessionSettings) -> dict[str, str]:
    """Return the options of the CUDA provider (onnxruntime: docs/execution-providers/CUDA)."""
    options = {
        "device_id": str(settings.device_id),
        "arena_extend_strategy": "kSameAsRequested",  # the cache grows in small steps
        "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search runs anew for every new batch size
        "use_tf32": "1" if settings.tf32 else "0",
        "enable_cuda_graph": "1" if settings.cuda_graph else "0",
    }
    if settings.gpu_memory_bytes is not None:
        options["gpu_mem_limit"] = str(settings.gpu_memory_bytes)
    return options
