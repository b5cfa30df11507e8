"""What Triton's Python backend runs: one pipeline of this project, asked by tensors.

One model hosts the whole pipeline. As an ensemble, or a loop of calls from model to model, every step of the
decoder would cross the server (https://github.com/triton-inference-server/server/issues/7622, 3857).
The module `triton_python_backend_utils` exists within Triton alone.
"""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from runtime.commands.options import add_pipeline_arguments, make_pipeline
from runtime.commands.triton.config import ALPHA, BUNDLE, FILES, OPTIONS
from runtime.errors import EarsightError, SettingsError
from runtime.pipeline import MultimodalASR
from runtime.results import Transcription


class TritonPythonModel:
    """The interface that Triton's Python backend calls."""

    asr: MultimodalASR

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the pipeline that the configuration's parameters describe.

        Args:
            args: Triton's: `model_config` (JSON), `model_repository`, `model_version`,
                `model_instance_device_id`, …

        Raises:
            EarsightError: The bundle cannot be used, or the provider cannot run here. Triton reports it.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        folder = Path(args["model_repository"]) / args["model_version"]
        alpha = parameters[ALPHA]["string_value"]
        self.asr = open_pipeline(
            folder,
            parameters[OPTIONS]["string_value"],
            int(args["model_instance_device_id"]),
            float(alpha) if alpha else None,
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests; one that cannot be answered fails alone."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            result = self.asr.transcribe(
                _bytes(request, "AUDIO"),
                image_id=_text(request, "IMAGE_ID"),
                image_path=_input(request, "IMAGE"),
                alpha=_number(request, "ALPHA"),
            )
        except EarsightError as error:
            return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(error)))
        return triton.InferenceResponse(output_tensors=outputs(result))


def open_pipeline(folder: Path, options: str, device: int, alpha: float | None) -> MultimodalASR:
    """Open the bundle of a version folder.

    Args:
        folder: Holds the bundle, and the files that options name.
        options: As on the command line of `python -m runtime transcribe`.
        device: Number of the GPU, where one is used.
        alpha: Weight of the picture; None for the default.

    Raises:
        EarsightError: The bundle cannot be used, or the provider cannot run here.
    """
    parser = argparse.ArgumentParser()
    add_pipeline_arguments(parser)
    given = ["--bundle", str(folder / BUNDLE), "--device", str(device), *shlex.split(options)]
    args = parser.parse_args(given)
    for name in FILES:
        if getattr(args, name) is not None:
            setattr(args, name, str(folder / getattr(args, name)))
    return make_pipeline(args, alpha=alpha)


def outputs(result: Transcription) -> list[Any]:
    """Return the tensors of an answer.

    Args:
        result: What was recognised, with H hypotheses.

    Returns:
        TRANSCRIPTION, shape (1,), the chosen text; HYPOTHESES, shape (H,), all texts, best first; RESULT,
        shape (1,), `Transcription.to_dict()` as JSON, with every score. All are UTF-8.
    """
    texts = {
        "TRANSCRIPTION": [result.transcription],
        "HYPOTHESES": [hypothesis.text for hypothesis in result.hypotheses],
        "RESULT": [json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False)],
    }
    return [
        triton.Tensor(name, np.array([text.encode() for text in values], dtype=np.object_))
        for name, values in texts.items()
    ]


def _input(request: Any, name: str) -> Any:
    """Return the only value of an input, None where it was not sent.

    Raises:
        SettingsError: It holds no value, or several.
    """
    tensor = triton.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    if values.size != 1:
        raise SettingsError(f"{name} holds {values.size} values; expected one")
    return values[0]


def _bytes(request: Any, name: str) -> bytes:
    value = _input(request, name)
    if value is None:
        raise SettingsError(f"{name} is missing; expected the bytes of an audio file")
    return bytes(value)


def _text(request: Any, name: str) -> str | None:
    value = _input(request, name)
    try:
        return None if value is None else bytes(value).decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name} is no UTF-8: {error}") from error


def _number(request: Any, name: str) -> float | None:
    value = _input(request, name)
    return None if value is None else float(value)
