"""Which neighbours in the padding may share one key and one value of the decoder.

Ward's method, constrained to neighbours (Ward 1963; Grimm 1987, "CONISS"): of all groups of neighbours, those
two become one whose joining adds least to the squared distances of the positions from the mean of their
group, again and again. A plan cuts its padding at the boundaries that go last.
"""

import heapq
from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.whisper.short_window import GRID, PaddingStatistics, ShortWindow

# What the groups of a plan may lose of the squared deviation of the padding's final states from their mean.
# whisper-base loses 0.053 at most, tiny.en 0.006. With 640 keys, where base loses 0.136, its n-best lists
# are still as near to the full window's as without groups (docs/research/short-utterances.md).
MOST_LOST: Final = 0.15


def boundaries(states: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return when each boundary between two neighbours goes.

    Args:
        states: What the positions hold on average, (positions, width).

    Returns:
        (positions - 1,), of each position and the next one: 0 where two are joined first.
    """
    count = len(states)
    sums = states.astype(np.float64)
    sizes = np.ones(count)
    ends = np.arange(count)  # last position of the group that begins here
    begins = np.arange(count)  # first position of the group that ends here
    versions = np.zeros(count, np.int64)  # of the group that begins here; negative where none does any more
    order = np.zeros(count - 1, np.int32)

    def joining(left: int, right: int) -> tuple[float, int, int, int, int]:
        apart = sums[left] / sizes[left] - sums[right] / sizes[right]
        weight = sizes[left] * sizes[right] / (sizes[left] + sizes[right])
        return float(weight * (apart @ apart)), left, right, int(versions[left]), int(versions[right])

    queue = [joining(place, place + 1) for place in range(count - 1)]
    heapq.heapify(queue)
    joined = 0
    while queue:
        _, left, right, *known = heapq.heappop(queue)
        if known != [versions[left], versions[right]]:
            continue
        order[right - 1] = joined
        joined += 1
        sums[left] += sums[right]
        sizes[left] += sizes[right]
        ends[left] = ends[right]
        begins[ends[left]] = left
        versions[left] += 1
        versions[right] = -1
        if ends[left] + 1 < count:
            heapq.heappush(queue, joining(left, int(ends[left]) + 1))
        if left > 0:
            heapq.heappush(queue, joining(int(begins[left - 1]), left))
    return order


def share_lost(statistics: PaddingStatistics) -> float:
    """Return the largest share of the padding's squared deviation that the groups of a plan lose.

    Args:
        statistics: With boundaries. 0 where no plan makes groups.
    """
    window = ShortWindow(statistics, "fp32")
    worst = 0.0
    speech = 1
    while (leading := window.leading_positions(speech)) is not None:
        plan = window.plan(leading)
        states = statistics.means[-1][plan.cached].astype(np.float64)
        inside = np.square(states - plan.memory_mean.astype(np.float64)[plan.groups]).sum()
        whole = np.square(states - states.mean(axis=0)).sum()
        worst = max(worst, float(inside / whole) if whole else 0.0)
        speech += GRID
    return worst
