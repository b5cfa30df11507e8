"""The one way to write: beside the place, synced, renamed.

A reader sees all of it, or what was there before.
"""

import ctypes
import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from runtime.errors import OutputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_LONGEST_NAME: Final = 64  # of the place's name in that beside it: file systems end at 255 bytes
_LOCKED_BYTE: Final = 1 << 40
_AT_FDCWD: Final = -100  # relative paths are relative to the current folder (linux/fcntl.h)
_RENAME_EXCHANGE: Final = 2  # linux/fs.h
# What file systems answer that have no locks: many network and user-space ones.
_NO_LOCKS: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS})

logger = logging.getLogger(__name__)


@contextmanager
def write_whole(place: Path) -> Iterator[Path]:
    """Give a path beside `place` to write a file to, and put it there when all went well.

    Args:
        place: The file to write or to replace; its folder must exist.

    Raises:
        OutputError: It cannot be written; what was there before is still there.
    """
    beside = _beside(place)
    try:
        yield beside
        _sync(beside)
        beside.replace(place)
    except OSError as error:
        raise _unwritable(place, error) from error
    finally:
        # It may not be there, and a file system that is read-only says so even then.
        with suppress(OSError):
            beside.unlink()


@contextmanager
def write_whole_folder(place: Path) -> Iterator[Path]:
    """Give an empty folder beside `place` to fill, and put it there when all went well.

    Raises:
        OutputError: It cannot be written; what was there before is still there.
    """
    beside = _beside(place)
    try:
        beside.mkdir(parents=True)
        yield beside
        sync_folder(beside)
        replace_folder(beside, place)
    except OSError as error:
        raise _unwritable(place, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_text(place: Path, text: str) -> Path:
    """Write a text file as `write_whole` does, in UTF-8, with the folders that lead to it; return its path.

    Raises:
        OutputError: It cannot be written; what was there before is still there.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(place, error) from error
    with write_whole(place) as beside:
        beside.write_text(text, encoding="utf-8")
    return place


def write_json(place: Path, content: Any) -> Path:
    """Write a JSON file as `write_text` does: readable, without NaN and infinities.

    Raises:
        OutputError: It cannot be written; what was there before is still there.
        ValueError: A number in it is none.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    return write_text(place, f"{text}\n")


def replace_folder(new: Path, place: Path) -> None:
    """Put the folder `new` in the place of another.

    Where the file system can swap the two, a whole folder is there at every moment. Elsewhere there is none
    between two renames, and the old one lies at `set_aside(place)` if the process is killed there.
    """
    if exchange(new, place):
        shutil.rmtree(new, ignore_errors=True)
        return
    old = set_aside(place)
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def set_aside(place: Path) -> Path:
    """Return where `replace_folder` keeps the old folder between its two renames."""
    return place.absolute().parent / f".{place.name}.old"


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders of one file system atomically (`renameat2`).

    Returns:
        Whether it was done; False where the system or the file system cannot, or one of the two is not there.
    """
    if sys.platform == "win32":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc 2.28, musl; not macOS
    if renameat2 is None:
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return status == 0


def lock(file: IO[Any], *, wait: bool) -> bool:
    """Let one process at a time have a file; it is given back when the file is closed or the process ends.

    Where the file system has no locks, a warning says so and the file is had: the caller goes on, and whoever
    starts two processes on one file has to see to it.

    Args:
        file: An open file.
        wait: Whether to wait until the other process has ended.

    Returns:
        Whether it was had; without waiting, False where another process has it.

    Raises:
        OutputError: The file cannot be locked for another reason.
    """
    if sys.platform == "win32":
        return _lock_on_windows(file, wait=wait)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OutputError(f"{file.name} cannot be locked: {error.strerror}") from error
        logger.warning(
            "%s: its file system has no locks (%s); going on without: let no other process write there",
            file.name,
            error.strerror,
        )
    return True


def _lock_on_windows(file: IO[Any], *, wait: bool) -> bool:
    """Lock a byte far behind the end of the file, so that its content stays readable."""
    if sys.platform == "win32":
        place = file.tell()
        file.seek(_LOCKED_BYTE)
        try:
            # LK_LOCK gives up after ten seconds, with the error of a lock that is taken.
            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                except OSError:
                    if not wait:
                        return False
                else:
                    return True
        finally:
            file.seek(place)
    raise AssertionError("only called on Windows")


def sync_folder(folder: Path) -> None:
    """Have the disk take every file of a folder before its name says that it is whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)


def sync_names(folder: Path) -> None:
    """Have the disk take the names in a folder: what was put there stays there if the power fails."""
    if sys.platform != "win32":  # which opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _beside(place: Path) -> Path:
    return place.absolute().with_name(
        f".{place.name[:_LONGEST_NAME]}-{os.getpid()}-{os.urandom(4).hex()}.tmp"
    )


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _unwritable(place: Path, error: OSError) -> OutputError:
    if isinstance(error, OutputError):
        return error
    return OutputError(f"{place} cannot be written: {error.strerror or error}")
