"""A graph of a bundle: which one it is, in which precision, and where it lies."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

GRAPH_FOLDERS: Final = MappingProxyType(
    {
        "encoder_model": "whisper/onnx",
        "decoder_model": "whisper/onnx",
        "text_model": "clip/onnx",
        "vision_model": "clip/onnx",
    }
)
# Optional further graphs, which refer to the weights of `decoder_model` and `encoder_model`: the decoder in
# fixed shapes, and the encoder over the speech alone.
FIXED_DECODER: Final = "decoder_fixed_model"
SHORT_ENCODER: Final = "encoder_short_model"
STEPPED: Final = ("decoder_model", FIXED_DECODER)  # graphs that run many times for one utterance


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph file.

    Attributes:
        name: One of `GRAPH_FOLDERS`, `FIXED_DECODER` or `SHORT_ENCODER`.
        precision: "fp32", "fp16" or "int8"; "bf16" for a float32 file that is computed so.
        path: The ONNX file.
        sha256: Of the file and of its external weights, hexadecimal.
    """

    name: str
    precision: str
    path: Path
    sha256: str

    @classmethod
    def in_folder(cls, folder: Path, name: str, precision: str) -> "Graph":
        """Return a graph of a bundle that is still being made, by hashing its files."""
        present = [each for each in ("fp32", "int8") if (folder / graph_path(name, each)).is_file()]
        stored = stored_precision(name, precision, present)
        path = folder / graph_path(name, stored)
        parts = (path, external_data(path))
        computed = computed_precision(name, precision, stored)
        return cls(name, computed, path, joint_sha256(*(sha256_of(part) for part in parts if part.is_file())))


def stored_precision(graph: str, precision: str, present: Collection[str]) -> str:
    """Return the precision of the file that a graph is read from.

    "bf16" has no file of its own. The encoders are computed so from the float32 file. The decoder is read
    once a step, which 8 bits make quicker than 16: it is the int8 one where the bundle has it.

    Args:
        graph: Its name.
        precision: What was asked for.
        present: Precisions that the bundle has files of.
    """
    if precision != "bf16":
        return precision
    return "int8" if graph in STEPPED and "int8" in present else "fp32"


def computed_precision(graph: str, precision: str, stored: str) -> str:
    """Return what a graph is computed in: as asked for, but that of its file for a decoder."""
    return stored if graph in STEPPED else precision


def graph_path(graph: str, precision: str) -> str:
    """Return where a graph lies in a bundle, relative and with forward slashes."""
    suffix = "" if precision == "fp32" else f"_{precision}"
    folder = GRAPH_FOLDERS.get(graph, "whisper/onnx")  # the optional graphs are all Whisper's
    return f"{folder}/{graph}{suffix}.onnx"


def external_data(path: Path) -> Path:
    """Return where the weights of a graph lie that does not hold them itself."""
    return path.with_name(f"{path.name}_data")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def joint_sha256(*digests: str) -> str:
    """Return one hash for several files, of their hexadecimal hashes in order."""
    return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()
