"""What stands in the way of an execution provider on this machine, and the command that mends it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from runtime.errors import ProviderError, SettingsError
from runtime.sessions import openvino
from runtime.sessions.machine import TENSORRT_MAJOR, Machine

ProviderName = Literal["cpu", "cuda", "tensorrt", "openvino"]
ORT_NAMES: Final[Mapping[ProviderName, str]] = MappingProxyType(
    {
        "cpu": "CPUExecutionProvider",
        "cuda": "CUDAExecutionProvider",
        "tensorrt": "TensorrtExecutionProvider",
        "openvino": openvino.PROVIDER,
    }
)
_PLUGIN_WHEEL = "earsight[openvino]"
_GPU_WHEEL = "onnxruntime-gpu[cuda,cudnn]"
_SWAP_WHEELS = f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install '{_GPU_WHEEL}'"
# CUDA's minor versions share one driver branch: release notes of CUDA 12.0 and 13.0, Linux x86_64.
_DRIVER_BRANCH = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason why a provider cannot run, and what mends it."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason} [{self.remedy}]"


def parse_provider(name: str) -> ProviderName:
    """Turn "cuda", "CUDA" or "CUDAExecutionProvider" into the project's name.

    Raises:
        SettingsError: No provider of that name is supported.
    """
    wanted = name.strip().lower().removesuffix("executionprovider")
    for known in ORT_NAMES:
        if wanted == known:
            return known
    raise SettingsError(f"unknown execution provider {name!r}; known are {', '.join(ORT_NAMES)}")


def find_obstacles(name: ProviderName, machine: Machine) -> tuple[Obstacle, ...]:
    """List everything that keeps a provider from running on a machine; nothing for the CPU.

    Args:
        name: The provider.
        machine: The facts, from `read_machine`.

    Returns:
        Reasons with their remedies, the one to mend first in front; empty where nothing is in the way.
    """
    if name == "cpu":
        return ()
    if name == "openvino":
        plugin = _plugin(machine)
        return (plugin,) if plugin else ()
    found = (
        _two_wheels(machine),
        _wheel_without(name, machine),
        _driver(machine),
        _cuda_major(machine),
        _cuda_libraries(machine),
        _tensorrt_libraries(name, machine),
    )
    return tuple(obstacle for obstacle in found if obstacle)


def obstacle_error(name: ProviderName, obstacles: tuple[Obstacle, ...]) -> ProviderError:
    """Compose the error for a provider that was asked for by name and cannot run."""
    reasons = "; ".join(obstacle.reason for obstacle in obstacles)
    remedies = "; then ".join(dict.fromkeys(obstacle.remedy for obstacle in obstacles))
    return ProviderError(f"provider {name} cannot run here: {reasons}. To mend it: {remedies}.")


def _plugin(machine: Machine) -> Obstacle | None:
    """Say what is wrong with OpenVINO's plugin, which comes in a wheel of its own."""
    facts = machine.openvino
    if facts.version is None:
        return Obstacle(f"{openvino.DISTRIBUTION} is not installed", f"pip install '{_PLUGIN_WHEEL}'")
    wheel = f"{openvino.DISTRIBUTION} {facts.version}"
    if facts.fault is not None:
        remedy = f"pip install --force-reinstall --no-deps {openvino.DISTRIBUTION}"
        return Obstacle(f"{wheel} does not load: {facts.fault}", remedy)
    if facts.processor is None:
        # https://github.com/microsoft/onnxruntime/pull/31981: the plugin passes over what is not Intel's.
        return Obstacle(
            f"{wheel} does not take this processor; of CPUs it takes those of Intel alone",
            "use --provider cpu",
        )
    return None


def _two_wheels(machine: Machine) -> Obstacle | None:
    if len(machine.distributions) < 2:
        return None
    both = " and ".join(f"{package} {version}" for package, version in machine.distributions.items())
    return Obstacle(
        f"{both} are both installed; they write the same files, and which of them is imported is chance",
        f"pip uninstall -y {' '.join(machine.distributions)} && pip install '{_GPU_WHEEL}'",
    )


def _wheel_without(name: ProviderName, machine: Machine) -> Obstacle | None:
    if ORT_NAMES[name] in machine.providers:
        return None
    wheel = " ".join(next(iter(machine.distributions.items()), ("onnxruntime",)))
    reason = f"the installed {wheel} has no {ORT_NAMES[name]} (it has {', '.join(machine.providers)})"
    if machine.system == "Darwin":
        return Obstacle(reason, "use a machine with an NVIDIA GPU: there is none for macOS")
    if machine.architecture.lower() in ("aarch64", "arm64"):
        return Obstacle(reason, "install the onnxruntime-gpu wheel that NVIDIA builds for this JetPack")
    return Obstacle(reason, _SWAP_WHEELS)


def _driver(machine: Machine) -> Obstacle | None:
    if machine.driver.fault is None:
        return None
    return Obstacle(
        machine.driver.fault,
        "install NVIDIA's driver until `nvidia-smi` lists the GPU (in a container: docker run --gpus all)",
    )


def _cuda_major(machine: Machine) -> Obstacle | None:
    if machine.cuda_build is None or machine.driver.version is None:
        return None
    built = int(machine.cuda_build.split(".")[0])
    driver = ".".join(map(str, machine.driver.version))
    if machine.driver.version[0] >= built:
        return None
    branch = f" ({_DRIVER_BRANCH[built]} or newer)" if built in _DRIVER_BRANCH else ""
    return Obstacle(
        f"onnxruntime was built for CUDA {machine.cuda_build}, and the driver runs CUDA {driver} at most",
        f"install an NVIDIA driver for CUDA {built}{branch}, or an onnxruntime-gpu built for CUDA "
        f"{machine.driver.version[0]}",
    )


def _cuda_libraries(machine: Machine) -> Obstacle | None:
    if fault := machine.libraries.get("cuda"):
        version = f" {machine.cuda_build}" if machine.cuda_build else ""
        return Obstacle(f"the libraries of CUDA{version} do not load: {fault}", f"pip install '{_GPU_WHEEL}'")
    return None


def _tensorrt_libraries(name: ProviderName, machine: Machine) -> Obstacle | None:
    if name == "tensorrt" and (fault := machine.libraries.get("tensorrt")):
        cuda = (machine.cuda_build or "13").split(".")[0]
        return Obstacle(
            f"TensorRT {TENSORRT_MAJOR} does not load: {fault}",
            f"pip install 'tensorrt-cu{cuda}=={TENSORRT_MAJOR}.*'",
        )
    return None
