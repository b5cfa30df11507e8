"""Scales of symmetric int8."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVELS: Final = 127.0


def symmetric_scales(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return by what numbers are divided to lie within -127 and 127, one scale for each run along `axis`."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scales: NDArray[np.float32] = np.maximum(largest / np.float32(LEVELS), np.finfo(np.float32).tiny)
    return scales
