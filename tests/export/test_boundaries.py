"""Groups of neighbours in the padding: Ward's method, and what they lose."""

import dataclasses
import itertools

import numpy as np

from export.short_window.boundaries import boundaries, share_lost
from tests.tools.padding_examples import statistics


def test_groups_end_where_the_states_change():
    """States that are constant over stretches: with as many groups as stretches nothing is lost."""
    random = np.random.default_rng(1)
    states = np.repeat(random.normal(size=(300, 4)), 5, axis=0).astype(np.float16)
    means = np.stack([np.zeros_like(states), np.zeros_like(states), states])
    found = dataclasses.replace(statistics(4), means=means, boundaries=boundaries(states.astype(np.float32)))
    assert share_lost(found) < 1e-6
    noise = random.normal(size=states.shape).astype(np.float16)  # nobody is like anybody else
    means[-1] = noise
    lost = share_lost(dataclasses.replace(found, boundaries=boundaries(noise.astype(np.float32))))
    assert 0.3 < lost < 1


def test_boundaries_are_those_of_wards_method():
    """Written out: of every pair of neighbouring groups, what joining adds to the sum of squares."""
    random = np.random.default_rng(2)
    states = np.cumsum(random.normal(size=(40, 3)), axis=0).astype(np.float32)
    groups = [[place] for place in range(len(states))]

    def squares(members):
        return np.square(states[members] - states[members].mean(axis=0)).sum(dtype=np.float64)

    order = []
    while len(groups) > 1:
        costs = [squares(a + b) - squares(a) - squares(b) for a, b in itertools.pairwise(groups)]
        least = int(np.argmin(costs))
        order.append(groups[least][-1])
        groups[least : least + 2] = [groups[least] + groups[least + 1]]
    np.testing.assert_array_equal(np.argsort(boundaries(states)), order)
