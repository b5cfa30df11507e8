"""Files that a caller gave, by their path or opened: had with errors that say what was expected of them."""

import codecs
import os
from pathlib import Path
from typing import BinaryIO

from runtime.errors import EarsightError


def open_file(
    path: str | os.PathLike[str], what: str, fault: type[EarsightError], missing: type[EarsightError]
) -> BinaryIO:
    """Open a regular file for reading; a pipe or device would block.

    Args:
        path: Where it lies.
        what: What it should be, for messages.
        fault: Raised where it cannot be opened.
        missing: Raised where there is none; a subclass of `fault`.
    """
    try:
        place = Path(path)
        if not place.exists():
            raise missing(f"{what} not found: {place}")
        if not place.is_file():
            raise fault(f"{place} is a {'folder' if place.is_dir() else 'device or pipe'}, no {what}")
        return place.open("rb")
    except (OSError, ValueError) as error:
        if isinstance(error, fault):
            raise
        # ValueError: a NUL inside the name. OSError: permissions, name too long, input/output faults.
        raise fault(f"{what} {os.fspath(path)!r} cannot be opened: {error}") from error


def read_object(
    source: object, what: str, expected: str, most_bytes: int, fault: type[EarsightError]
) -> bytes:
    """Read a binary file object from its current position.

    Args:
        source: Whatever was given.
        what: What it should be, for messages.
        expected: What may be given.
        most_bytes: So many are held in memory.
        fault: Raised where it cannot be read, is larger, or is no binary file.
    """
    read = getattr(source, "read", None)
    if read is None:
        raise fault(f"{what} of type {type(source).__name__}; expected {expected}")
    try:
        content = read(most_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: read of a closed file
        raise fault(f"{what} file object cannot be read: {error}") from error
    if not isinstance(content, bytes):
        raise fault(
            f"{what} file object gives {type(content).__name__}, not bytes; open it in binary mode ('rb')"
        )
    if len(content) > most_bytes:
        raise fault(f"{what} of more than {most_bytes} bytes in memory; pass a path instead")
    return content


def text_encoding(content: bytes) -> str:
    """Return how a text file is encoded, UTF-16 or UTF-8, by the mark that Windows' programs put first."""
    return "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
