"""The facts that decide which execution provider can run here: wheels, driver, shared libraries."""

import contextlib
import ctypes
import importlib.util
import io
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime as ort

from runtime.sessions.cuda_driver import DRIVER_LIBRARY, CudaDriver, read_cuda_driver
from runtime.sessions.elf import needed_libraries
from runtime.sessions.openvino import OpenVino, read_openvino
from runtime.sessions.processors import processor_flags

logger = logging.getLogger(__name__)

# Distributions that install the import package `onnxruntime`; two of them overwrite each other's files.
_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-silicon",
    "ort-nightly",
    "ort-nightly-gpu",
)
TENSORRT_MAJOR = 10  # the TensorRT that onnxruntime-gpu 1.30 to 1.31 links against: libnvinfer.so.10
# In the order in which they need one another.
_TENSORRT_LIBRARIES = (f"libnvinfer.so.{TENSORRT_MAJOR}", f"libnvonnxparser.so.{TENSORRT_MAJOR}")


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has, as far as execution providers care. Tests build one by hand.

    Attributes:
        distributions: Installed distributions that hold the package `onnxruntime`: name to version.
        providers: Execution providers compiled into the package that was imported, in its own names.
        cuda_build: CUDA version that the package was built for ("13.0"); None for a CPU build.
        driver: What the NVIDIA driver says.
        libraries: Faults of the providers' shared libraries: provider name ("cuda", "tensorrt") to the
            loader's message. A name that is missing here loads.
        tensorrt: TensorRT's version, None where there is none.
        openvino: What OpenVINO's plugin offers.
        amx_bf16: Whether the processor multiplies bf16 matrices in units of their own (AMX).
        architecture: "x86_64", "aarch64", …
        system: "Linux", "Windows", "Darwin".
    """

    distributions: Mapping[str, str]
    providers: tuple[str, ...]
    cuda_build: str | None = None
    driver: CudaDriver = field(default_factory=CudaDriver)
    libraries: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tensorrt: str | None = None
    openvino: OpenVino = field(default_factory=OpenVino)
    amx_bf16: bool = False
    architecture: str = "x86_64"
    system: str = "Linux"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, for reports."""
        return {
            "system": self.system,
            "architecture": self.architecture,
            "distributions": dict(self.distributions),
            "providers": list(self.providers),
            "cuda_build": self.cuda_build,
            "cuda_driver": self.driver.to_dict(),
            "library_faults": dict(self.libraries),
            "tensorrt": self.tensorrt,
            "openvino": self.openvino.to_dict(),
            "amx_bf16": self.amx_bf16,
        }


def read_machine() -> Machine:
    """Look at wheels, driver and libraries; loads the CUDA and TensorRT libraries where they are there."""
    providers = tuple(ort.get_available_providers())
    faults: dict[str, str] = {}
    if "CUDAExecutionProvider" in providers:
        preload_cuda_libraries()
        _note_fault(faults, "cuda", _needed_by("cuda"))
    _note_fault(faults, "tensorrt", _tensorrt_libraries())
    tensorrt = None if "tensorrt" in faults else _tensorrt_version()
    if "TensorrtExecutionProvider" in providers and tensorrt:
        _note_fault(faults, "tensorrt", _needed_by("tensorrt"))
    return Machine(
        distributions=installed_distributions(),
        providers=providers,
        cuda_build=getattr(ort, "cuda_version", None) or None,
        driver=read_cuda_driver(),
        libraries=MappingProxyType(faults),
        tensorrt=tensorrt,
        openvino=read_openvino(),
        amx_bf16="amx_bf16" in processor_flags(),
        architecture=platform.machine(),
        system=platform.system(),
    )


def installed_distributions() -> dict[str, str]:
    """Return name and version of every installed distribution that provides `import onnxruntime`."""
    import importlib.metadata  # takes as long to import as a tenth of this package

    found: dict[str, str] = {}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def preload_cuda_libraries() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, where onnxruntime would not look by itself.

    `onnxruntime.preload_dlls` prints what it misses; that goes to the log instead.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    if printed.getvalue():
        logger.info("onnxruntime.preload_dlls: %s", " ".join(printed.getvalue().split()))


def _note_fault(faults: dict[str, str], provider: str, libraries: list[str]) -> None:
    """Load the libraries in order and keep the first failure."""
    mode = getattr(ctypes, "RTLD_GLOBAL", ctypes.DEFAULT_MODE)
    for library in libraries:
        try:
            ctypes.CDLL(library, mode=mode)
        except OSError as error:
            faults[provider] = " ".join(str(error).split())
            return


def _needed_by(provider: str) -> list[str]:
    """Name what onnxruntime's library for a provider is linked with.

    `runtime.sessions.elf` says why it is not loaded.
    The driver is left out, which `read_cuda_driver` asks. On Windows nothing is named: a first computation
    decides there.
    """
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    return [name for name in needed_libraries(library) if name != DRIVER_LIBRARY]


def _tensorrt_libraries() -> list[str]:
    """Names of TensorRT's libraries: those of NVIDIA's wheel where it is installed, else the system's."""
    spec = importlib.util.find_spec("tensorrt_libs")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    libraries = []
    for name in _TENSORRT_LIBRARIES:
        inside = [str(folder / name) for folder in folders if (folder / name).is_file()]
        libraries.append(inside[0] if inside else name)
    return libraries


def _tensorrt_version() -> str:
    """Ask libnvinfer for its version: getInferLibVersion() returns 10 * 10_000 + minor * 100 + patch."""
    number = int(ctypes.CDLL(_tensorrt_libraries()[0]).getInferLibVersion())
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
