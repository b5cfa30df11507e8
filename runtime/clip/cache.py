"""The image-embedding cache: an .npz archive with one unit vector for each file name, as in the notebook.

Archives are read and written here rather than by `numpy.load` and `numpy.savez`: no pickle is ever looked
at, memory is taken for what is there and not for what a header claims, and any file name can be a key
(`savez` refuses "file").
"""

import ast
import io
import lzma
import os
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from runtime.errors import ImageCacheError, OutputError
from runtime.files.write_whole import write_whole

Embedding = npt.NDArray[np.float32]

MAX_DIMENSION: Final = 65_536  # numbers of an embedding; CLIP has 512 to 1,024
MAX_ENTRIES: Final = 5_000_000
MAX_HEADER_BYTES: Final = 10_000
MAX_TOTAL_BYTES: Final = 2**30  # of all embeddings unpacked; a million pictures of 256 numbers
UNIT_TOLERANCE: Final = 1e-3  # of the norm: float16 keeps 11 bits, so a vector stored in it is within 5e-4
SUFFIX: Final = ".npy"
MAGIC: Final = b"\x93NUMPY"
EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same embeddings make the same file

# All that zipfile and its decompressors raise on damaged archives.
_ARCHIVE_FAULTS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, KeyError,
    RuntimeError, IndexError, OverflowError, MemoryError,
)  # fmt: skip


def load_image_cache(path: str | os.PathLike[str]) -> dict[str, Embedding]:
    """Read a cache.

    Args:
        path: An .npz file of vectors of one dimension, float16, float32 or float64, unit norm.

    Returns:
        File name → embedding, float32, shape (dimension,).

    Raises:
        ImageCacheError: The file is missing or no such archive; the message names the entry.
    """
    place = Path(path)
    try:
        if not place.is_file():
            raise ImageCacheError(f"image cache not found: {place}; write one with `embed-images`")
        with zipfile.ZipFile(place) as archive:
            embeddings = _read_all(archive, place)
    except _ARCHIVE_FAULTS as error:
        if isinstance(error, ImageCacheError):
            raise
        raise ImageCacheError(
            f"{place} is no readable .npz archive ({error or type(error).__name__}); "
            "write it again with `embed-images`"
        ) from error
    _require_consistent(embeddings, str(place))
    return embeddings


def find_embedding(cache: Mapping[str, Embedding], key: str) -> Embedding | None:
    """Return the embedding of a key, whichever Unicode form it and the cache's have; None if there is none.

    macOS takes file names apart ("é" as "e" and an accent: NFD), other systems and keyboards do not (NFC).
    """
    for spelling in (key, unicodedata.normalize("NFC", key), unicodedata.normalize("NFD", key)):
        if (embedding := cache.get(spelling)) is not None:
            return embedding
    return None


def save_image_cache(
    path: str | os.PathLike[str], embeddings: Mapping[str, npt.NDArray[np.floating]]
) -> None:
    """Write a cache whole or not at all (beside its place, then renamed).

    Args:
        path: The file to write or to replace; its folder must exist.
        embeddings: File name → unit vector, float, shape (dimension,), the same for all.

    Raises:
        ImageCacheError: A key or an embedding is not what `load_image_cache` accepts.
        OutputError: The file cannot be written.
    """
    place = Path(path)
    vectors = {key: _as_vector(key, value, f"cache for {place}") for key, value in embeddings.items()}
    for key in vectors:
        _require_key(key, f"cache for {place}")
    _require_consistent(vectors, f"cache for {place}")
    try:
        with write_whole(place) as beside, beside.open("xb") as stream:
            _write_all(stream, vectors)
    except (OutputError, ValueError) as error:
        raise OutputError(f"image cache {place} cannot be written: {error}") from error


def _read_all(archive: zipfile.ZipFile, place: Path) -> dict[str, Embedding]:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_TOTAL_BYTES:
        raise ImageCacheError(
            f"{place}: {len(entries)} entries are more than a cache of {MAX_TOTAL_BYTES} bytes holds"
        )
    embeddings: dict[str, Embedding] = {}
    for entry in entries:
        key = entry.filename.removesuffix(SUFFIX)
        if not entry.filename.endswith(SUFFIX) or key in embeddings:
            raise ImageCacheError(
                f"{place}: entry {entry.filename!r} is no array or there twice; expected 'name.npy'"
            )
        if entry.file_size > MAX_DIMENSION * 8 + MAX_HEADER_BYTES:
            raise ImageCacheError(f"{place}: entry {key!r} of {entry.file_size} bytes is no embedding")
        with archive.open(entry) as stream:
            content = stream.read(MAX_DIMENSION * 8 + MAX_HEADER_BYTES + 1)
        embeddings[key] = _parse_array(content, key, str(place))
    return embeddings


def _parse_array(content: bytes, key: str, place: str) -> Embedding:
    """Read the .npy format, versions 1 to 3 (numpy.lib.format), of one vector."""
    if content[:6] != MAGIC or len(content) < 12:
        raise ImageCacheError(f"{place}: entry {key!r} is no .npy array")
    length_bytes = 2 if content[6] == 1 else 4
    start = 8 + length_bytes
    length = int.from_bytes(content[8:start], "little")
    if content[6] not in (1, 2, 3) or length > MAX_HEADER_BYTES:
        raise ImageCacheError(f"{place}: entry {key!r} has an unknown .npy header")
    try:
        header = ast.literal_eval(content[start : start + length].decode("utf-8").strip())
        descr, shape = header["descr"], header["shape"]
        dtype = np.dtype(descr) if isinstance(descr, str) else None
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise ImageCacheError(f"{place}: entry {key!r} has a damaged .npy header ({error})") from error
    if dtype is None or dtype.kind != "f":
        raise ImageCacheError(
            f"{place}: entry {key!r} has dtype {descr!r}; expected float16, float32 or float64"
        )
    if not (isinstance(shape, tuple) and len(shape) == 1 and isinstance(shape[0], int)):
        raise ImageCacheError(f"{place}: entry {key!r} has shape {shape!r}; expected one dimension")
    values = content[start + length :]
    if len(values) != shape[0] * dtype.itemsize:
        raise ImageCacheError(
            f"{place}: entry {key!r} holds {len(values)} bytes; its header promises {shape[0]} numbers"
        )
    return _as_vector(key, np.frombuffer(values, dtype), place)


def _as_vector(key: str, value: npt.NDArray[np.generic], place: str) -> Embedding:
    """Verify one embedding."""
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind != "f":
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", type(value).__name__)
        raise ImageCacheError(
            f"{place}: entry {key!r} has shape {shape} and dtype {dtype}; expected floats, one dimension"
        )
    if not 0 < value.size <= MAX_DIMENSION:
        raise ImageCacheError(
            f"{place}: entry {key!r} holds {value.size} numbers; expected 1 to {MAX_DIMENSION}"
        )
    with np.errstate(over="ignore"):
        vector = value.astype(np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not abs(norm - 1.0) < UNIT_TOLERANCE:  # also true of NaN and infinity
        raise ImageCacheError(
            f"{place}: entry {key!r} has norm {norm:.6g}; expected 1 (divide it by its norm)"
        )
    return vector


def _require_key(key: str, place: str) -> None:
    try:
        usable = isinstance(key, str) and 0 < len(key.encode("utf-8")) < 60_000 and "\0" not in key
    except UnicodeEncodeError:  # a lone surrogate, from a file name that is no UTF-8
        usable = False
    # zipfile turns the separator of Windows into "/", so such a key would come back changed.
    if not usable or (os.sep != "/" and os.sep in key):
        raise ImageCacheError(
            f"{place}: {key!r} cannot be a key; expected a file name of 1 to 60000 bytes of UTF-8"
        )


def _require_consistent(embeddings: Mapping[str, Embedding], place: str) -> None:
    dimensions = {vector.size: key for key, vector in embeddings.items()}
    if len(dimensions) > 1:
        examples = ", ".join(f"{key!r} has {size}" for size, key in sorted(dimensions.items())[:3])
        raise ImageCacheError(
            f"{place}: embeddings of different dimensions ({examples}); they stem from different models"
        )


def _write_all(stream: io.BufferedIOBase, vectors: Mapping[str, Embedding]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, vector in vectors.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, vector, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(key + SUFFIX, EPOCH), content.getvalue())
