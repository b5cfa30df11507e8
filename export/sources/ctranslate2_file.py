"""Reader of CTranslate2's `model.bin`: a list of named arrays.

Little endian throughout. `uint32` binary version, string name of the specification, `uint32` its revision,
`uint32` number of variables. Each variable: string name, `uint8` rank, that many `uint32` dimensions, `uint8`
type, `uint32` size in bytes, the values row by row. Then `uint32` number of aliases, each the string of the
alias and the string of the variable that it stands for. A string is a `uint16` length that counts a closing
zero byte, then the bytes. Binary versions 4 to 6 share this layout (3 and older had no types, 6 moved
settings to `config.json`); see `python/ctranslate2/specs/model_spec.py` of OpenNMT/CTranslate2.

Nothing is taken on trust: every length is compared with what is left of the file before it is used, so a
damaged file costs an error and no memory.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from runtime.errors import CheckpointError

VERSIONS: Final = (4, 5, 6)
MAX_RANK: Final = 8
# Type ids in the file's order; bfloat16 is unknown to numpy and read as its bits.
TYPES: Final = (
    ("float32", np.dtype("<f4")),
    ("int8", np.dtype("i1")),
    ("int16", np.dtype("<i2")),
    ("int32", np.dtype("<i4")),
    ("float16", np.dtype("<f2")),
    ("bfloat16", np.dtype("<u2")),
)
MEND: Final = "copy it again in full, or convert the checkpoint again with ct2-transformers-converter"


@dataclass(frozen=True, slots=True)
class Variable:
    """One stored array.

    Attributes:
        type: "float32", "int8", "int16", "int32", "float16" or "bfloat16".
        values: As stored, a view of the file; bfloat16 as `uint16` bits.
    """

    type: str
    values: NDArray[np.generic]

    @property
    def is_float(self) -> bool:
        """Whether it holds numbers rather than quantised or counting ones."""
        return self.type in ("float32", "float16", "bfloat16")

    def float32(self) -> NDArray[np.float32]:
        """Return the values in float32, in memory of their own; exact except for large int32."""
        if self.type == "bfloat16":
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        return self.values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a `model.bin` holds.

    Attributes:
        path: Where it lies.
        spec: Name of the specification, such as "WhisperSpec".
        revision: Of the specification.
        variables: By name, aliases included (they share the variable they stand for).
    """

    path: Path
    spec: str
    revision: int
    variables: dict[str, Variable]


def read_model_file(path: Path, spec: str) -> ModelFile:
    """Read a `model.bin` of the specification `spec`; values stay in the file until they are used.

    Raises:
        CheckpointError: It cannot be read, is of another specification or version, or is damaged.
    """
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, mode="r") if size else np.empty(0, np.uint8)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; look at its permissions") from error
    return _Reader(path, data).model(spec)


class _Reader:
    """Goes through the bytes once; every message names the file and where in it the fault lies."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self._path = path
        self._data = data
        self._at = 0

    def model(self, spec: str) -> ModelFile:
        version = self._number("I", "the version")
        if version not in VERSIONS:
            raise CheckpointError(
                f"{self._path} starts with binary version {version}; expected one of "
                f"{', '.join(map(str, VERSIONS))}: is it a model.bin of CTranslate2? If so, convert the "
                "checkpoint again with ctranslate2 4"
            )
        found, revision = self._string("the specification"), self._number("I", "the revision")
        if found != spec:
            raise CheckpointError(
                f"{self._path} holds a model of specification {found[:60]!r}; expected {spec!r}"
            )
        variables: dict[str, Variable] = {}
        for _ in range(self._number("I", "the number of variables")):
            name = self._new_name(variables)
            variables[name] = self._variable(name)
        stored = len(variables)
        for _ in range(self._number("I", "the number of aliases")):
            alias, name = self._new_name(variables), self._string("what an alias stands for")
            if name not in variables:
                self._fail(f"the alias {alias[:80]!r} stands for {name[:80]!r}, which is not there")
            variables[alias] = variables[name]
        if left := len(self._data) - self._at:
            self._fail(f"{left} bytes follow the {stored} variables and their aliases; expected the end")
        return ModelFile(self._path, found, revision, variables)

    def _variable(self, name: str) -> Variable:
        rank = self._number("B", f"the rank of {name}")
        if rank > MAX_RANK:
            self._fail(f"{name} has rank {rank}; expected at most {MAX_RANK}")
        shape = struct.unpack(f"<{rank}I", self._take(4 * rank, f"the shape of {name}"))
        if 0 in shape:
            self._fail(f"{name} has shape {shape}, which holds nothing")
        type_id = self._number("B", f"the type of {name}")
        if type_id >= len(TYPES):
            self._fail(f"{name} has type {type_id}; expected 0 to {len(TYPES) - 1}")
        kind, dtype = TYPES[type_id]
        size, expected = self._number("I", f"the size of {name}"), math.prod(shape) * dtype.itemsize
        # The size field has 32 bits, and so cannot say more than 4 GiB.
        if size != expected:
            self._fail(f"{name} of shape {shape} and type {kind} has {size} bytes; expected {expected}")
        self._take(0, name, skip=size)
        values = np.asarray(self._data[self._at - size : self._at])
        return Variable(kind, values.view(dtype).reshape(shape))

    def _new_name(self, taken: dict[str, Variable]) -> str:
        name = self._string("a name")
        if name in taken:
            self._fail(f"{name[:80]!r} is there twice")
        return name

    def _string(self, what: str) -> str:
        raw = self._take(self._number("H", f"the length of {what}"), what)
        text, end = raw[:-1], raw[-1:]
        if end != b"\0" or b"\0" in text:
            self._fail(f"{what} does not end with its zero byte")
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            self._fail(f"{what} is no text")

    def _number(self, code: str, what: str) -> int:
        value: int = struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}"), what))[0]
        return value

    def _take(self, count: int, what: str, skip: int = 0) -> bytes:
        """Return `count` bytes and step over them and `skip` more, which must be there."""
        left = len(self._data) - self._at
        if count + skip > left:
            self._fail(f"ends within {what[:80]}: {count + skip} bytes are due and {left} are left")
        taken = self._data[self._at : self._at + count].tobytes()
        self._at += count + skip
        return taken

    def _fail(self, fault: str) -> NoReturn:
        raise CheckpointError(f"{self._path} is damaged near byte {self._at}: {fault}; {MEND}")
