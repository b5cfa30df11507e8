"""The floor of a decoder step: reading its bytes once at the bandwidth of the machine."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bench.measure.timing import Stopwatch
from runtime.errors import SettingsError


class MemoryRead:
    """Streams through a buffer with all threads.

    Args:
        size: Bytes, rounded up to a multiple of 8.
        threads: Readers, each with its own contiguous part.
    """

    def __init__(self, size: int, threads: int) -> None:
        if size < 1 or threads < 1:
            raise SettingsError(f"size is {size} and threads {threads}; both must be 1 or more")
        # Written once: pages that were never written all map to one page of zeros.
        self._buffer = np.ones(-(-size // 8), np.int64)
        self._parts = np.array_split(self._buffer, threads)
        self._pool = ThreadPoolExecutor(threads)

    @property
    def size(self) -> int:
        """Bytes read in one pass."""
        return self._buffer.nbytes

    def read(self, watch: Stopwatch) -> int:
        """Read all of it once and time stage "read".

        Returns:
            The maximum, so that nothing can be left out.
        """
        # A maximum of 64-bit integers vectorises and needs no second operand: of the reductions of numpy
        # it comes closest to the bandwidth. numpy releases the interpreter lock inside it.
        with watch.lap("read"):
            maxima = list(self._pool.map(_maximum, self._parts))
        return max(maxima)


def _maximum(part: NDArray[np.int64]) -> int:
    return int(np.maximum.reduce(part)) if part.size else 0
