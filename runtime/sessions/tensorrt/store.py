"""Where TensorRT engines lie, and what makes one fit: GPU, versions, graph, precision and profile.

An engine runs on the kind of GPU and with the TensorRT that built it, for the shapes of its profile. Each
such combination has a folder of its own, named by a hash of all of it, so that nothing ever has to be
invalidated: what changed gets another folder. `engine.json` in the folder tells the ingredients. It is
written last and is therefore also the mark of a finished build.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from runtime.bundle.graph import Graph
from runtime.errors import OutputError
from runtime.files.write_whole import write_json
from runtime.sessions.tensorrt.profiles import EngineLimits

logger = logging.getLogger(__name__)

SCHEMA: Final = "earsight.engine/1"
_MARK: Final = "engine.json"


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that an engine depends on.

    Attributes:
        gpu: Name of the GPU, "NVIDIA L4".
        capability: Its compute capability, "8.9".
        tensorrt: TensorRT's version.
        onnxruntime: onnxruntime's version, which cuts the graph into the parts that become engines.
        graph: Name of the graph.
        graph_hash: SHA-256 of the graph's file and of its external data, as a bundle records it.
        precision: "fp16" or "fp32".
        profile: `Profile.digest()`.
        build: Options of the builder that change its result, in a fixed order.
    """

    gpu: str
    capability: str
    tensorrt: str
    onnxruntime: str
    graph: str
    graph_hash: str
    precision: str
    profile: str
    build: tuple[tuple[str, str], ...] = ()

    def digest(self) -> str:
        """Return the hash of all ingredients, 16 hexadecimal digits."""
        text = json.dumps([SCHEMA, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def timing_digest(self) -> str:
        """Return the hash of what measured kernel times depend on: the GPU and TensorRT alone."""
        text = json.dumps([SCHEMA, self.gpu, self.capability, self.tensorrt])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class EngineStore:
    """A folder of engines.

    Attributes:
        root: The folder; it need not exist yet.
    """

    root: Path

    def folder(self, key: EngineKey) -> Path:
        """Return the folder of one engine."""
        return self.root / f"{key.graph}_{key.precision}_{key.digest()}"

    def timing_folder(self, key: EngineKey) -> Path:
        """Return the folder of the timing cache, which all engines of a GPU share."""
        return self.root / f"timing_{key.timing_digest()}"

    def is_built(self, key: EngineKey) -> bool:
        """Tell whether the engine is there, whole."""
        folder = self.folder(key)
        try:
            mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        files = mark.get("files", {}) if mark.get("schema") == SCHEMA else {}
        return bool(files) and all(
            (folder / name).is_file() and (folder / name).stat().st_size == size
            for name, size in files.items()
        )

    def limits_built(self, graph: Graph) -> list[EngineLimits]:
        """Return the limits that engines of a graph were built for, the last build first.

        Records that cannot be read count as no engines, as in `is_built`.
        """
        marks = sorted(
            self.root.glob(f"{graph.name}_{graph.precision}_*/{_MARK}"),
            key=lambda mark: mark.stat().st_mtime,
            reverse=True,
        )
        found = []
        for mark in marks:
            try:
                found.append(EngineLimits(**json.loads(mark.read_text(encoding="utf-8"))["limits"]))
            except (OSError, ValueError, KeyError, TypeError):  # also SettingsError, a ValueError
                logger.warning("%s is no record of an engine; it is passed over", mark)
        return list(dict.fromkeys(found))

    def prepare(self, key: EngineKey) -> None:
        """Create the folders that TensorRT will write into.

        Raises:
            OutputError: They cannot be created.
        """
        for folder in (self.folder(key), self.timing_folder(key)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot create {folder} for TensorRT engines: {error}") from error

    def mark_built(self, key: EngineKey, limits: EngineLimits, notes: dict[str, Any]) -> Path:
        """Record a finished build.

        Args:
            key: What was built.
            limits: The largest requests that it was built for.
            notes: More for people to read: shapes, seconds.

        Returns:
            The record's path.

        Raises:
            OutputError: TensorRT left no engine, or the record cannot be written.
        """
        folder = self.folder(key)
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != _MARK}
        if not any(name.endswith((".engine", ".onnx")) for name in files):
            raise OutputError(
                f"TensorRT was to write an engine into {folder} and did not; it holds {list(files)}"
            )
        record = {
            "schema": SCHEMA,
            "key": asdict(key),
            "limits": asdict(limits),
            "files": files,
            **notes,
        }
        return write_json(folder / _MARK, record)
