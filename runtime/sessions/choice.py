"""Which execution provider runs: what was asked for, or the best that really works here."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnxruntime as ort

from runtime.errors import ProviderError, SettingsError
from runtime.sessions.cuda_driver import Gpu
from runtime.sessions.machine import Machine, read_machine
from runtime.sessions.obstacles import (
    ORT_NAMES,
    Obstacle,
    ProviderName,
    find_obstacles,
    obstacle_error,
    parse_provider,
)
from runtime.sessions.openvino import find_device, openvino_options

logger = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]
ON_PROCESSOR: Final = ("cpu", "openvino")  # providers that need no GPU

# y = relu(x @ x) for float32 x of shape (2, 2), opset 17: the smallest proof that a provider computes.
# `tests/runtime/test_sessions.py` builds the same model with the onnx package.
PROBE_MODEL: Final = bytes.fromhex(
    "080812003a5a0a150a01780a017812016d1a026d3022064d61744d756c0a100a016d1201791a027230220452656c7512"
    "0570726f62655a130a0178120e0a0c080112080a0208020a02080262130a0179120e0a0c080112080a0208020a020802"
    "42040a001011"
)


@dataclass(frozen=True, slots=True)
class Provider:
    """The execution provider that was chosen.

    Attributes:
        name: "cpu", "cuda", "tensorrt" or "openvino".
        passed_over: Better or earlier wishes that cannot run here, each with its reasons.
        gpu: The GPU that it uses; None for the CPU.
        tensorrt: TensorRT's version, where it is the provider.
        bf16: Whether it computes in bf16 (OpenVINO, on a processor with units for it).
    """

    name: ProviderName
    passed_over: tuple[tuple[ProviderName, tuple[Obstacle, ...]], ...] = ()
    gpu: Gpu | None = None
    tensorrt: str | None = None
    bf16: bool = False

    @property
    def device(self) -> Device:
        """Where inputs and outputs may stay between two calls."""
        return "cpu" if self.name in ON_PROCESSOR else "cuda"

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
            "tensorrt": self.tensorrt,
            "bf16": self.bf16,
            "passed_over": {name: [str(item) for item in reasons] for name, reasons in self.passed_over},
        }


def select_provider(
    requested: str | Sequence[str] | None = None,
    *,
    device_id: int = 0,
    machine: Machine | None = None,
    engines: Callable[[Gpu, str], bool] | None = None,
    bf16: bool = False,
) -> Provider:
    """Choose the execution provider.

    Args:
        requested: A name ("cpu", "cuda", "tensorrt", "openvino", or onnxruntime's "CUDAExecutionProvider",
            …): that one or an error. Several names: the first that runs here, or an error. None: the best
            that runs here.
        device_id: Number of the GPU, where one is used.
        machine: The facts to decide on; read from this machine when left out.
        engines: Whether TensorRT engines are built for a GPU and a version of TensorRT. TensorRT takes part
            in the automatic choice only where they are, because building them takes minutes.
        bf16: Whether the export found bf16 good enough. OpenVINO takes part in the automatic choice only
            then, and only where the processor has AMX: elsewhere int8 on the CPU provider is as quick.

    Returns:
        The provider. It is proven by a tiny session, unless `machine` is given.

    Raises:
        SettingsError: A name is unknown, the list is empty, or there is no GPU of that number.
        ProviderError: Nothing of what was asked for runs here; the message says why and what mends it.
    """
    wishes = _wishes(requested, engines is not None, bf16)
    if wishes == ("cpu",):
        return Provider("cpu")
    prove = machine is None
    facts = machine or read_machine()
    passed: list[tuple[ProviderName, tuple[Obstacle, ...]]] = []
    for name in wishes:
        obstacles = find_obstacles(name, facts)
        if name == "openvino" and requested is None and not (obstacles or facts.amx_bf16):
            obstacles = (Obstacle("without AMX bf16 is no quicker than int8", "--provider openvino"),)
        if not obstacles and prove:
            obstacles = _prove(name, device_id)
        if obstacles:
            passed.append((name, obstacles))
            continue
        gpu = None if name in ON_PROCESSOR else _gpu(facts, device_id)
        if name == "tensorrt" and engines is not None and gpu is not None:
            assert facts.tensorrt is not None  # find_obstacles has seen it
            if not engines(gpu, facts.tensorrt):
                lacking = f"no engines of this bundle are built for {gpu.name} and TensorRT {facts.tensorrt}"
                passed.append((name, (Obstacle(lacking, "python -m runtime engines --bundle DIR"),)))
                continue
        for other, reasons in passed:
            logger.info("provider %s passed over: %s", other, "; ".join(map(str, reasons)))
        logger.info("provider %s chosen%s", name, f" on {gpu.name}" if gpu else "")
        tensorrt = facts.tensorrt if name == "tensorrt" else None
        bf16 = name == "openvino" and facts.openvino.bf16
        return Provider(name, tuple(passed), gpu, tensorrt, bf16)
    if len(passed) == 1:
        raise obstacle_error(*passed[0])
    raise ProviderError(" ".join(str(obstacle_error(name, reasons)) for name, reasons in passed))


def _wishes(requested: str | Sequence[str] | None, engines: bool, bf16: bool) -> tuple[ProviderName, ...]:
    if requested is None:
        places: tuple[tuple[ProviderName, bool], ...] = (
            ("tensorrt", engines),
            ("cuda", True),
            ("openvino", bf16),
            ("cpu", True),
        )
        return tuple(name for name, takes_part in places if takes_part)
    names = [requested] if isinstance(requested, str) else list(requested)
    if not names:
        raise SettingsError("an empty list of execution providers; name one, or give None for the best")
    return tuple(dict.fromkeys(parse_provider(name) for name in names))


def _gpu(machine: Machine, device_id: int) -> Gpu:
    gpus = machine.driver.gpus
    if not 0 <= device_id < len(gpus):
        raise SettingsError(f"GPU {device_id} was asked for; the driver sees GPUs 0 to {len(gpus) - 1}")
    return gpus[device_id]


def _prove(name: ProviderName, device_id: int) -> tuple[Obstacle, ...]:
    """Let the provider compute; TensorRT is proven on CUDA, because its builder takes many seconds."""
    if name == "cpu":
        return ()
    wanted = ORT_NAMES["openvino" if name == "openvino" else "cuda"]
    remedy = "python -m runtime doctor prints what onnxruntime found"
    try:
        if name == "openvino":
            options = ort.SessionOptions()
            options.add_provider_for_devices([find_device()], openvino_options("fp32", 1))
            session = ort.InferenceSession(PROBE_MODEL, options, enable_fallback=0)
        else:
            session = ort.InferenceSession(
                PROBE_MODEL, providers=[(wanted, {"device_id": str(device_id)})], enable_fallback=0
            )
        if wanted not in session.get_providers():
            return (Obstacle(f"onnxruntime did not load {wanted} and would have used the CPU", remedy),)
        session.run(None, {"x": np.eye(2, dtype=np.float32)})
    except Exception as error:  # noqa: BLE001 - onnxruntime raises classes of its own, RuntimeError among them
        return (Obstacle(f"a first computation failed: {' '.join(str(error).split())}", remedy),)
    return ()
