"""Which libraries a shared library needs, read from its file without loading it.

onnxruntime's provider libraries must be loaded by nobody but onnxruntime: their start-up code asks for a host
that onnxruntime has to set first (`Provider_GetHost`), and takes the process down where it is not set.

Source of the layout: System V ABI, "Object Files" and "Dynamic Section" (64 bits, little-endian).
"""

import struct
from pathlib import Path
from typing import Final

_MAGIC: Final = b"\x7fELF\x02\x01"  # 64 bits, little-endian: x86-64 and aarch64 Linux
_PROGRAM_TABLE: Final = struct.Struct("<32xQ14xHH")  # of the file header: offset, entry size, entries
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")  # type, flags, offset, address, -, size in file, -, -
_DYNAMIC_ENTRY: Final = struct.Struct("<qQ")  # tag, value
_LOAD, _DYNAMIC = 1, 2  # types of program headers
_END, _NEEDED, _STRINGS = 0, 1, 5  # tags of the dynamic section


def needed_libraries(path: Path) -> tuple[str, ...]:
    """Return the names of the libraries that a shared library is linked with, such as "libcublas.so.13".

    Args:
        path: The file.

    Returns:
        The names in the order of the file; none where it is missing or no 64-bit little-endian ELF file.
    """
    if not path.is_file():
        return ()
    with path.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        head = read(0, _PROGRAM_TABLE.size)
        if not head.startswith(_MAGIC):
            return ()
        start, size, count = _PROGRAM_TABLE.unpack(head)
        table = read(start, size * count)
        programs = [_PROGRAM.unpack_from(table, i * size) for i in range(count)]
        places = ((place, length) for kind, _, place, _, _, length, *_ in programs if kind == _DYNAMIC)
        dynamic = next(places, None)
        if dynamic is None:
            return ()
        entries: list[tuple[int, int]] = []
        for tag, value in _DYNAMIC_ENTRY.iter_unpack(read(*dynamic)):
            if tag == _END:
                break
            entries.append((tag, value))
        address = next(value for tag, value in entries if tag == _STRINGS)
        # The table of strings is named by its address in memory; the segment that holds it tells its place.
        strings = next(
            place + address - low
            for kind, _, place, low, _, length, *_ in programs
            if kind == _LOAD and low <= address < low + length
        )
        return tuple(_name(read(strings + value, 256)) for tag, value in entries if tag == _NEEDED)


def _name(text: bytes) -> str:
    return text.split(b"\0", 1)[0].decode()
