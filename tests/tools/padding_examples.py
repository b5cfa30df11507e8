"""Statistics of a padding that no checkpoint has: what short windows and groups are tested on."""

import dataclasses

import numpy as np

from export.short_window.boundaries import boundaries
from runtime.whisper.short_window import PaddingStatistics

POSITIONS = 1500


def statistics(width=8):
    distances = np.abs(np.subtract.outer(np.arange(POSITIONS), np.arange(POSITIONS)))
    means = np.zeros((3, POSITIONS, width), np.float16)
    return PaddingStatistics(means, np.exp(-distances / 200.0).astype(np.float16), np.zeros(0, np.int32))


def alike(seed=0, width=8):
    """Statistics whose final states wander, so that some neighbours are more alike than others."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(POSITIONS, width)) * random.gamma(0.2, size=(POSITIONS, 1))
    means = np.zeros((3, POSITIONS, width), np.float16)
    means[-1] = np.cumsum(steps, axis=0)
    return dataclasses.replace(
        statistics(width), means=means, boundaries=boundaries(means[-1].astype(np.float32))
    )
