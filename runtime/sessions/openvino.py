"""OpenVINO, which onnxruntime loads as a plugin: what it offers here, and how its sessions are opened.

The plugin's precision is silent by default: bf16 where the processor has units for it, else float32. Here a
graph's own precision is asked for by name. Its options `precision` and `num_of_threads` are ignored with a
warning; what counts is `load_config`, with the names of OpenVINO's properties.
"""

import functools
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import onnxruntime as ort

DISTRIBUTION: Final = "onnxruntime-ep-openvino"
PROVIDER: Final = "OpenVINOExecutionProvider"
_MODULE: Final = "onnxruntime_ep_openvino"
_REGISTRATION: Final = "earsight_openvino"
_DEVICE: Final = "CPU"  # OpenVINO's name of the processor, among GPUs and NPUs
OPENVINO_PRECISIONS: Final[Mapping[str, str]] = {"fp32": "f32", "bf16": "bf16"}


@dataclass(frozen=True, slots=True)
class OpenVino:
    """What the plugin offers on this machine.

    Attributes:
        version: Of the wheel; None where it is not installed.
        fault: Why the plugin does not load; None where it does.
        processor: The processor as the plugin names it; None where it does not take it.
        capabilities: Among others "FP32", "BF16", "INT8".
    """

    version: str | None = None
    fault: str | None = None
    processor: str | None = None
    capabilities: tuple[str, ...] = ()

    @property
    def bf16(self) -> bool:
        """Whether the processor has units for bf16; without them the plugin computes float32, silently."""
        return "BF16" in self.capabilities

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def read_openvino() -> OpenVino:
    """Load the plugin where its wheel is installed, and ask it for the processor.

    Returns:
        The answer; a plugin that is missing or broken is told there, not raised.
    """
    import importlib.metadata  # takes as long to import as a tenth of this package

    try:
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return OpenVino()
    try:
        device = find_device()
    except Exception as error:  # noqa: BLE001 - whatever the wheel's module and onnxruntime's loader raise
        return OpenVino(version, fault=" ".join(str(error).split()) or type(error).__name__)
    if device is None:
        return OpenVino(version)
    told = device.ep_metadata
    capabilities = tuple(told.get("OPTIMIZATION_CAPABILITIES", "").split())
    return OpenVino(version, None, told.get("FULL_DEVICE_NAME", "of unknown name"), capabilities)


def find_device() -> Any:
    """Return onnxruntime's device of the plugin that stands for the processor; None where there is none."""
    _register(str(importlib.import_module(_MODULE).get_library_path()))
    for device in ort.get_ep_devices():
        if device.ep_name == PROVIDER and device.ep_metadata.get("ov_device") == _DEVICE:
            return device
    return None


@functools.cache
def _register(library: str) -> None:
    """Let onnxruntime load the plugin, once a process."""
    ort.register_execution_provider_library(_REGISTRATION, library)


def openvino_options(precision: str, threads: int | None) -> dict[str, str]:
    """Return the plugin's options for one session.

    OpenVINO's cache of compiled graphs is left off: it saves little, and a changed bit in it goes unnoticed
    (docs/research/speed.md).

    Args:
        precision: What products are computed in: "fp32" or "bf16".
        threads: Of one operator; None for OpenVINO's own choice (one a physical core).
    """
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision],
        "NUM_STREAMS": "1",  # all threads work on one request
    }
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    return {"load_config": json.dumps({_DEVICE: properties})}
