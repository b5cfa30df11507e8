"""Neighbours on the cores: what a figure is worth on a machine that is not quiet."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Arithmetic on registers: it takes processor time of equal priority and leaves caches and memory alone.
_BUSY: Final = "while True: pass"
_QUIT_SECONDS: Final = 10


@contextmanager
def company(processes: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep so many processes of equal priority busy while the body runs, and yield them."""
    neighbours = [
        subprocess.Popen([sys.executable, "-c", _BUSY], stdin=subprocess.DEVNULL) for _ in range(processes)
    ]
    try:
        yield neighbours
    finally:
        for neighbour in neighbours:
            neighbour.kill()
        for neighbour in neighbours:
            neighbour.wait(_QUIT_SECONDS)
