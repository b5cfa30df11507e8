"""Writes a model repository for Triton: the pipeline, CLIP's vision model, and how to start the server."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import onnxruntime as ort

import runtime
from runtime.bundle.bundle import Bundle
from runtime.bundle.graph import Graph
from runtime.commands.triton.config import BUNDLE, DATA_TYPES, ModelConfig, Port
from runtime.errors import OutputError, SettingsError
from runtime.files.write_whole import write_text, write_whole_folder
from runtime.sessions.choice import Provider
from runtime.sessions.obstacles import ProviderName
from runtime.sessions.opening import default_precision

PIPELINE: Final = "earsight"
VISION: Final = "clip_vision"
VERSION: Final = "1"
VISION_BATCH: Final = 64  # pictures that Triton may join
MODEL: Final = '''"""A model of Triton's Python backend. Written by `python -m runtime triton`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the package `runtime` beside this file

from runtime.commands.triton.model import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
'''
DOCKERFILE: Final = """# Triton's server with what `runtime` needs; written by `python -m runtime triton`.
ARG TRITON_IMAGE
FROM ${TRITON_IMAGE}
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --requirement /tmp/requirements.txt
"""
COMPOSE: Final = """# Written by `python -m runtime triton`. Never run in Triton: the first start is yours.
#   TRITON_IMAGE=<an image of Triton's server with Python 3.11 or newer> docker compose up --build
services:
  triton:
    build:
      context: .
      args:
        TRITON_IMAGE: ${{TRITON_IMAGE:?name an image of Triton's server}}
    command: tritonserver --model-repository=/models --disable-auto-complete-config
    volumes:
      - ./:/models:ro
    ports:
      - "127.0.0.1:8000:8000"
      - "127.0.0.1:8001:8001"
      - "127.0.0.1:8002:8002"
    shm_size: 1gb
    healthcheck:
      test: ["CMD", "curl", "--fail", "--silent", "localhost:8000/v2/health/ready"]
      interval: 30s
      start_period: 120s
{gpu}"""
COMPOSE_GPU: Final = """    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: all
              capabilities: [gpu]
"""


@dataclass(frozen=True, slots=True)
class TritonSettings:
    """What a repository is written for.

    Attributes:
        provider: Where the models run.
        precision: Of the graphs; None for the fastest on the provider.
        instances: Pipelines at a time, on each GPU or on the CPU.
        parameters: What the pipeline is told, see `runtime.commands.triton.model`.
        files: Files that go beside the bundle, by the name that they get.
    """

    provider: ProviderName
    precision: str | None
    instances: int
    parameters: Mapping[str, str]
    files: Mapping[str, Path]

    def __post_init__(self) -> None:
        """Verify the range.

        Raises:
            SettingsError: There would be no instance.
        """
        if self.instances < 1:
            raise SettingsError(f"instances is {self.instances}; expected 1 or more")


def write_repository(bundle: Bundle, output: Path, settings: TritonSettings) -> list[Path]:
    """Write or replace the two models in a repository, and the files that start the server.

    Args:
        bundle: Is copied.
        output: The repository; other models in it stay.
        settings: What it is written for.

    Returns:
        What was written.

    Raises:
        SettingsError: The bundle does not have the precision, or this installation knows no requirements.
        BundleError: A file of the bundle does not match its hash.
        OutputError: A folder of a model's name is there and is none of Triton's; or nothing can be written.
    """
    precision = settings.precision or default_precision(bundle, Provider(settings.provider))
    for graph in bundle.graphs(precision):
        assert graph.path.is_file()  # verified
    packages = requirements("cpu" if settings.provider == "cpu" else "gpu")
    for name in (PIPELINE, VISION):
        _require_replaceable(output / name)
    with write_whole_folder(output / PIPELINE) as folder:
        _write_pipeline(folder, bundle, settings)
    with write_whole_folder(output / VISION) as folder:
        _write_vision(folder, bundle.graph("vision_model", precision), settings.provider)
    return [
        output / PIPELINE,
        output / VISION,
        write_text(output / "requirements.txt", "".join(f"{line}\n" for line in packages)),
        write_text(output / "Dockerfile", DOCKERFILE),
        write_text(output / ".dockerignore", "*\n!requirements.txt\n"),
        write_text(
            output / "compose.yaml", COMPOSE.format(gpu="" if settings.provider == "cpu" else COMPOSE_GPU)
        ),
    ]


def requirements(extra: str) -> list[str]:
    """Return what `runtime` needs, as this installation states it, with an extra's own needs.

    Raises:
        SettingsError: The package was not installed, so that nothing states it.
    """
    try:
        stated = metadata.requires("earsight") or []
    except metadata.PackageNotFoundError as error:
        raise SettingsError("earsight is not installed, so that its requirements are not known") from error
    found = []
    for line in stated:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        asked = re.fullmatch(r"""extra == ['"](.+)['"]""", marker)
        if not marker or (asked and asked[1] == extra):
            found.append(requirement)
    return found


def _require_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder / "config.pbtxt").is_file():
        raise OutputError(f"{folder} is there and is no model of Triton's; give --output another folder")


def _write_pipeline(folder: Path, bundle: Bundle, settings: TritonSettings) -> None:
    config = ModelConfig(
        name=PIPELINE,
        backend="python",
        inputs=(
            Port("AUDIO", "TYPE_STRING", (1,)),
            Port("IMAGE", "TYPE_STRING", (1,), optional=True),
            Port("IMAGE_ID", "TYPE_STRING", (1,), optional=True),
            Port("ALPHA", "TYPE_FP32", (1,), optional=True),
        ),
        outputs=(
            Port("TRANSCRIPTION", "TYPE_STRING", (1,)),
            Port("HYPOTHESES", "TYPE_STRING", (-1,)),
            Port("RESULT", "TYPE_STRING", (1,)),
        ),
        provider=settings.provider,
        instances=settings.instances,
        parameters=settings.parameters,
    )
    (folder / "config.pbtxt").write_text(config.text(), encoding="utf-8")
    version = folder / VERSION
    version.mkdir()
    (version / "model.py").write_text(MODEL, encoding="utf-8")
    shutil.copytree(bundle.folder, version / BUNDLE)
    package = Path(runtime.__file__).parent
    shutil.copytree(package, version / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    for name, file in settings.files.items():
        shutil.copyfile(file, version / name)


def _write_vision(folder: Path, graph: Graph, provider: ProviderName) -> None:
    version = folder / VERSION
    version.mkdir()
    for part in graph.path.parent.glob(f"{graph.path.name}*"):  # its weights may lie beside it
        shutil.copyfile(part, version / part.name)
    session = ort.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
    config = ModelConfig(
        name=VISION,
        backend="onnxruntime",
        inputs=[_port(node) for node in session.get_inputs()],
        outputs=[_port(node) for node in session.get_outputs()],
        provider=provider,
        instances=1,
        max_batch_size=VISION_BATCH,
        file=graph.path.name,
    )
    (folder / "config.pbtxt").write_text(config.text(), encoding="utf-8")


def _port(node: ort.NodeArg) -> Port:
    dims = tuple(size if isinstance(size, int) else -1 for size in node.shape[1:])
    return Port(node.name, DATA_TYPES[node.type], dims)
