"""Swapping two folders in one step, so that at no moment there is none."""

import ctypes
import os
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100  # relative paths are relative to the current folder (linux/fcntl.h)
_RENAME_EXCHANGE: Final = 2  # linux/fs.h


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders of one file system atomically (`renameat2`).

    Returns:
        Whether it was done; False where the system or the file system cannot, or one of the two is not there.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc 2.28, musl; not macOS
    if renameat2 is None:
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return status == 0
