"""Triton's model configurations, `config.pbtxt`.

Source: protobuf/model_config.proto of triton-inference-server/common.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.sessions.obstacles import ProviderName

BUNDLE: Final = "bundle"  # beside the written model.py
OPTIONS: Final = "options"  # parameter: options of `python -m runtime transcribe`
ALPHA: Final = "alpha"  # parameter: weight of the picture; "" for the default
FILES: Final = ("image_cache", "fusion")  # options that name files, which lie beside the written model.py
# onnxruntime's names of element types, and Triton's.
DATA_TYPES: Final = {"tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16"}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model.

    Attributes:
        name: Its name.
        data_type: Triton's name of its type.
        dims: Its sizes without the batch; -1 for any.
        optional: Whether a request may leave it out.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False

    def text(self) -> str:
        """Return the message."""
        dims = ", ".join(map(str, self.dims))
        more = " optional: true" if self.optional else ""
        return f"{{ name: {json.dumps(self.name)} data_type: {self.data_type} dims: [ {dims} ]{more} }}"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model configuration.

    Attributes:
        name: Of the model, and of its folder.
        backend: "python" or "onnxruntime".
        inputs: What a request holds.
        outputs: What an answer holds.
        provider: Where it runs.
        instances: How many run at a time, on each GPU or on the CPU.
        max_batch_size: Requests that Triton may join; 0 for none.
        file: The file in the version folder, where it is not the backend's default.
        parameters: What the model is told.
    """

    name: str
    backend: str
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    provider: ProviderName
    instances: int
    max_batch_size: int = 0
    file: str | None = None
    parameters: Mapping[str, str] | None = None

    def text(self) -> str:
        """Return the content of `config.pbtxt`."""
        lines = [
            f"name: {json.dumps(self.name)}",
            f"backend: {json.dumps(self.backend)}",
            f"max_batch_size: {self.max_batch_size}",
            *(f"input {port.text()}" for port in self.inputs),
            *(f"output {port.text()}" for port in self.outputs),
            f"instance_group {{ count: {self.instances} kind: {self._kind()} }}",
        ]
        if self.file is not None:
            lines.append(f"default_model_filename: {json.dumps(self.file)}")
        if self.max_batch_size:
            lines.append("dynamic_batching { }")
        if self.backend == "onnxruntime" and self.provider == "tensorrt":
            lines.append(
                "optimization { execution_accelerators { gpu_execution_accelerator "
                '{ name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } } } }'
            )
        for key, value in (self.parameters or {}).items():
            lines.append(
                f"parameters {{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(value)} }} }}"
            )
        return "\n".join(lines) + "\n"

    def _kind(self) -> str:
        return "KIND_CPU" if self.provider == "cpu" else "KIND_GPU"
