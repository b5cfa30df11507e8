"""A share of the fuzz run: 200 mutated inputs of each kind (`python -m tests.fuzz` runs 10,000)."""

import pytest

from tests.fuzz import case_input, fuzz, outcome
from tests.fuzz_seeds import SEEDS

KINDS = sorted(SEEDS)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_themselves_load(kind):
    assert {outcome(kind, content) for content in SEEDS[kind]()} == {"loaded"}


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_inputs_raise_nothing_foreign(kind):
    report = fuzz(kind, 200, seed=7)
    assert report.passed, vars(report)
    assert sum(report.outcomes.values()) == 200
    assert report.outcomes["loaded"] > 0  # some mutations are harmless, so the loaders are really reached


def test_cases_are_reproducible():
    seeds = SEEDS["cache"]()
    assert case_input("cache", seeds, 0, 5) == case_input("cache", seeds, 0, 5)
    assert case_input("cache", seeds, 0, 5) != case_input("cache", seeds, 0, 6)
