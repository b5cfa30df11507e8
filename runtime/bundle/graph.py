"""A graph of a bundle: which one it is, in which precision, and where it lies."""

import hashlib
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


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph file.

    Attributes:
        name: One of `GRAPH_FOLDERS`, `FIXED_DECODER` or `SHORT_ENCODER`.
        precision: "fp32", "fp16" or "int8".
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
        path = folder / graph_path(name, precision)
        parts = (path, external_data(path))
        return cls(
            name, precision, path, joint_sha256(*(sha256_of(part) for part in parts if part.is_file()))
        )


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
