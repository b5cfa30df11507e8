"""Which positions of the encoder's window are computed for a short utterance, and how the others follow.

Whisper encodes 30 seconds, whatever was said. Computed here are the *leading* positions, from the start to a
margin behind the speech, and a few *anchors* in the padding behind it. What the encoder holds at all other
positions is its mean over example utterances (`PaddingStatistics`, of the checkpoint, made at export) plus
the deviation from it, estimated from the deviations at the last leading position and at the anchors. The
estimate is the best linear one for deviations of a known covariance (kriging; Rasmussen & Williams 2006,
equation 2.25).

The decoder gets fewer keys than the window has positions: neighbours in the padding that hold nearly the same
are one *group*, where the statistics tell that little is lost. A group is one key that counts as often as it
has positions (proportional attention; Bolya et al. 2023, "Token Merging").
"""

import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError

GAP: Final = 10  # positions behind the speech after which padding counts as such
MARGIN: Final = 25  # positions behind the speech that count as leading: half a second
GRID: Final = 25  # leading positions come in multiples of it, so that few plans serve all utterances
# Distances from anchor to anchor behind the leading positions: the states change fast there; then evenly.
NEAR_STEPS: Final = (3,) * 8 + (6,) * 8
STEP: Final = 16
FROM_END: Final = (16, 10, 6, 3, 2)  # anchors before the end of the window, where they change fast again
LARGEST_SHARE: Final = 0.6  # of the window that may be computed; beyond, computing all of it is as quick
SHORTEST_WINDOW: Final = 500  # positions below which nothing is gained
KEYS_STEP: Final = 64  # the decoder's keys come in multiples of it, which its products like
MOST_A_GROUP: Final = 4  # mean size of a group, in positions, beyond which there are none


# Variances in units of the deviations' own: of a constant that all positions share, whose estimate is thereby
# free, and of what the covariance does not explain. In int8 that is the rounding of each position's states:
# measured 0.10 to 0.18 of the deviations on whisper tiny.en. Taken for signal, it would be amplified.
CONSTANT_VARIANCE: Final = 10.0
NOISE_VARIANCE: Final = 1e-3
NOISE_VARIANCE_INT8: Final = 0.1


@dataclass(frozen=True, slots=True)
class PaddingStatistics:
    """What a checkpoint's encoder makes of padding.

    Attributes:
        means: (T, positions, width) float16: what each position holds on average, for the keys and values of
            every layer and for the final states.
        covariance: (positions, positions) float16, of deviations from the mean, whose mean variance is 1.
        boundaries: (positions - 1,) int32, of each position and the next one: when they come into one group,
            if groups of neighbours are joined one after the other, those whose final states are most alike
            first; empty where no groups may be made.
    """

    means: NDArray[np.float16]
    covariance: NDArray[np.float16]
    boundaries: NDArray[np.int32]

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez(path, means=self.means, covariance=self.covariance, boundaries=self.boundaries)

    @classmethod
    def load(cls, path: Path) -> "PaddingStatistics":
        """Read what `save` wrote.

        Raises:
            BundleError: The file does not hold the three arrays in shapes that fit.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                means, covariance, boundaries = (
                    arrays[name] for name in ("means", "covariance", "boundaries")
                )
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{path} holds no padding statistics ({error}); export the bundle again"
            ) from error
        fits = (
            means.ndim == 3
            and covariance.shape == (means.shape[1], means.shape[1])
            and boundaries.shape in ((means.shape[1] - 1,), (0,))
        )
        kinds = (means.dtype, covariance.dtype, boundaries.dtype)
        if not fits or kinds != (np.float16, np.float16, np.int32):
            raise BundleError(
                f"{path}: means {means.dtype} {means.shape}, covariance {covariance.dtype} "
                f"{covariance.shape} and boundaries {boundaries.dtype} {boundaries.shape} do not fit "
                "together; export the bundle again"
            )
        return cls(means, covariance, boundaries)

    def interpolation(
        self, supports: NDArray[np.int64], cached: NDArray[np.int64], noise_variance: float
    ) -> NDArray[np.float32]:
        """Return the weights (cached, supports) that estimate deviations from those of the supports."""
        covariance = self.covariance[supports].astype(np.float64) + CONSTANT_VARIANCE
        noise = noise_variance * np.eye(len(supports))
        weights = np.linalg.solve(covariance[:, supports] + noise, covariance[:, cached])
        return np.ascontiguousarray(weights.T, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How a window with so many leading positions is encoded: inputs of the short encoder graph.

    Attributes:
        leading: Leading positions, from the first on.
        anchors: Computed positions in the padding, besides the last one of the window, (anchors,) int64.
        supports: The last leading position, the anchors, the last position, (supports,) int64.
        cached: All other positions, (cached,) int64.
        interpolation: (cached, supports) float32, weights of the supports' deviations from the mean.
        groups: (cached,) int64, the group of each in the decoder's memory; groups hold neighbours.
        memory_mean: (groups, width) float16, what the groups hold on average of the final states.
        memory_interpolation: (groups, supports) float32, `interpolation` of the groups.
        memory_bias: (memory,) float32, logarithm of how many positions each of the decoder's keys stands for.
    """

    leading: int
    anchors: NDArray[np.int64]
    supports: NDArray[np.int64]
    cached: NDArray[np.int64]
    interpolation: NDArray[np.float32]
    groups: NDArray[np.int64]
    memory_mean: NDArray[np.float16]
    memory_interpolation: NDArray[np.float32]
    memory_bias: NDArray[np.float32]

    @property
    def keys(self) -> int:
        """Number of keys that the decoder gets."""
        return len(self.memory_bias)

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Return the inputs of the graph that depend on the plan."""
        of_padding = ("anchors", "supports", "cached", "interpolation")
        of_memory = ("memory_mean", "memory_interpolation", "memory_bias")
        return {name: getattr(self, name) for name in of_padding + of_memory}

    def keys_of_positions(self) -> NDArray[np.int64]:
        """Return which of the decoder's keys stands for each position of the window, (positions,)."""
        computed = np.concatenate([np.arange(self.leading), self.supports[1:]])
        keys = np.empty(len(computed) + len(self.cached), np.int64)
        keys[computed] = np.arange(len(computed))
        keys[self.cached] = len(computed) + self.groups
        return keys


class ShortWindow:
    """Plans for every number of leading positions of one checkpoint.

    Args:
        statistics: Of the checkpoint.
        precision: Of the graph that computes the anchors, whose rounding the estimate has to bear.
    """

    def __init__(self, statistics: PaddingStatistics, precision: str) -> None:
        self.statistics = statistics
        self.noise_variance = NOISE_VARIANCE_INT8 if precision == "int8" else NOISE_VARIANCE
        self.positions = statistics.means.shape[1]
        self._plans: dict[int, WindowPlan] = {}
        self._lock = threading.Lock()

    @property
    def has_groups(self) -> bool:
        """Whether the decoder gets fewer keys of some utterances than the window has positions."""
        return len(self.statistics.boundaries) > 0

    def leading_positions(self, speech: int) -> int | None:
        """Return how many positions lead for a speech of so many; None where all should be computed."""
        leading = -(-(speech + MARGIN) // GRID) * GRID
        computed = leading + len(anchors_behind(leading, self.positions)) + 1
        return leading if computed <= LARGEST_SHARE * self.positions else None

    def keys(self, leading: int | None) -> int:
        """Return how many keys the decoder gets, given what `leading_positions` says."""
        return self.positions if leading is None else self.plan(leading).keys

    def plan(self, leading: int) -> WindowPlan:
        """Return the plan for so many leading positions; the first time, it is worked out."""
        with self._lock:
            if leading not in self._plans:
                self._plans[leading] = self._make_plan(leading)
            return self._plans[leading]

    def _make_plan(self, leading: int) -> WindowPlan:
        anchors = anchors_behind(leading, self.positions)
        last = self.positions - 1
        supports = np.concatenate([[leading - 1], anchors, [last]])
        cached = np.setdiff1d(np.arange(leading, last), anchors)
        interpolation = self.statistics.interpolation(supports, cached, self.noise_variance)
        computed = leading + len(anchors) + 1
        groups = self._groups(cached, grouped_keys(self.positions) - computed)
        first = np.flatnonzero(np.diff(groups, prepend=-1))
        sizes = np.diff(first, append=len(groups))

        def grouped(rows: NDArray[Any]) -> NDArray[np.float32]:
            sums = np.add.reduceat(rows, first, dtype=np.float32)
            return np.asarray(sums / sizes[:, None], np.float32)

        return WindowPlan(
            leading,
            anchors,
            supports,
            cached,
            interpolation,
            groups,
            memory_mean=grouped(self.statistics.means[-1][cached]).astype(np.float16),
            memory_interpolation=grouped(interpolation),
            memory_bias=np.log(np.concatenate([np.ones(computed), sizes])).astype(np.float32),
        )

    def _groups(self, cached: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """Return the group of each cached position: what is joined last is cut, or each is by itself."""
        if not self.has_groups or len(cached) > MOST_A_GROUP * most or len(cached) <= most:
            return np.arange(len(cached))
        boundaries = self.statistics.boundaries
        # What lies between two neighbours in `cached` was computed: nothing of it comes into a group.
        between = np.maximum.reduceat(boundaries[: cached[-1]], cached[:-1])
        cuts = np.argsort(between)[len(between) + 1 - most :]
        begins = np.zeros(len(cached), np.int64)
        begins[cuts + 1] = 1
        return np.cumsum(begins)


def is_worthwhile(positions: int) -> bool:
    """Whether a window of so many positions is long enough to gain anything."""
    return positions >= SHORTEST_WINDOW


def grouped_keys(positions: int) -> int:
    """Return how many keys the decoder gets of a window with groups: about half of its positions."""
    return -(-positions // (2 * KEYS_STEP)) * KEYS_STEP


def anchors_behind(leading: int, positions: int) -> NDArray[np.int64]:
    """Return the positions of the padding that are computed, in order.

    Args:
        leading: Leading positions.
        positions: Of the window.
    """
    near = leading - 1 + np.cumsum(NEAR_STEPS)
    last = positions - FROM_END[0]
    even = np.arange(near[-1] + STEP, last, STEP)
    wanted = np.concatenate([near, even, positions - np.array(FROM_END)])
    return np.unique(wanted[(wanted >= leading) & (wanted < positions - 1)]).astype(np.int64)
