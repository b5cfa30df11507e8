"""What the NVIDIA driver says about this machine, asked through its C interface (no CUDA toolkit needed).

Source: CUDA driver API reference (cuInit, cuDriverGetVersion, cuDeviceGet…). The symbols with the suffix
`_v2` are the ones that `cuda.h` maps the plain names to.
"""

import ctypes
import sys
from ctypes.util import find_library
from dataclasses import asdict, dataclass
from typing import Any

_CAPABILITY_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
_CAPABILITY_MINOR = 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
_MEMORY_CLOCK = 36  # CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, kHz
_MEMORY_BUS = 37  # CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, bits
DRIVER_LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
_RESULTS = {
    100: "CUDA_ERROR_NO_DEVICE: the driver is there and sees no GPU",
    101: "CUDA_ERROR_INVALID_DEVICE: no such GPU",
    803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: kernel module and driver library are of different versions",
    804: "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE: the forward-compatibility library does not fit this GPU",
    999: "CUDA_ERROR_UNKNOWN: often a missing /dev/nvidia-uvm, or a GPU that dropped off the bus",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        index: Its number for the driver, the `device_id` of the execution provider.
        name: For example "NVIDIA L4".
        capability: Compute capability, for example "8.9".
        memory_bytes: All of its memory.
        bandwidth: Greatest memory bandwidth, bytes per second, from clock and bus width (two transfers a
            clock); 0 where the driver does not tell.
    """

    index: int
    name: str
    capability: str
    memory_bytes: int
    bandwidth: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CudaDriver:
    """The driver's answer.

    Attributes:
        version: Newest CUDA version that the driver can run, as (major, minor); None without a driver.
        gpus: The GPUs that it sees.
        fault: Why no GPU can be used; None where one can.
    """

    version: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    fault: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, the version as text."""
        version = ".".join(map(str, self.version)) if self.version else None
        return {"version": version, "gpus": [gpu.to_dict() for gpu in self.gpus], "fault": self.fault}


class _CallError(Exception):
    """A call of the driver returned a code other than 0."""


def read_cuda_driver() -> CudaDriver:
    """Ask the driver for its version and its GPUs.

    Returns:
        The answer; a missing or broken driver is a `fault`, not an exception.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else find_library("cuda") or DRIVER_LIBRARY
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        return CudaDriver(fault=f"no NVIDIA driver: {error}")
    version: tuple[int, int] | None = None
    try:
        version = _version(library)
        _call(library, "cuInit", 0)
        gpus = _gpus(library)
    except _CallError as error:
        return CudaDriver(version, fault=f"the NVIDIA driver does not work: {error}")
    if not gpus:
        return CudaDriver(version, fault="the NVIDIA driver sees no GPU")
    return CudaDriver(version, gpus)


def _version(library: ctypes.CDLL) -> tuple[int, int]:
    number = ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10  # 13010 is CUDA 13.1


def _gpus(library: ctypes.CDLL) -> tuple[Gpu, ...]:
    count = ctypes.c_int()
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    return tuple(_gpu(library, index) for index in range(count.value))


def _gpu(library: ctypes.CDLL, index: int) -> Gpu:
    device = ctypes.c_int()
    name, memory = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    _call(library, "cuDeviceGet", ctypes.byref(device), index)
    _call(library, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    numbers = (_attribute(library, device, number) for number in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
    capability = ".".join(map(str, numbers))
    hertz = 1000 * _attribute(library, device, _MEMORY_CLOCK)
    bandwidth = 2 * hertz * _attribute(library, device, _MEMORY_BUS) // 8
    return Gpu(index, name.value.decode(errors="replace"), capability, memory.value, bandwidth)


def _attribute(library: ctypes.CDLL, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    _call(library, "cuDeviceGetAttribute", ctypes.byref(value), number, device)
    return value.value


def _call(library: ctypes.CDLL, function: str, *arguments: Any) -> None:
    code = int(getattr(library, function)(*arguments))
    if code:
        raise _CallError(f"{function} returned {_RESULTS.get(code, f'CUDA error {code}')}")
