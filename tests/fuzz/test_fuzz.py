"""A share of the fuzz run: 200 mutated inputs of each kind (`python -m tests.fuzz` runs 10,000)."""

import pytest

from tests.fuzz.runner import KINDS, OF_A_BUNDLE, case_input, fuzz, make_seeds
from tests.fuzz.targets import outcome, targets

SHARE = {kind: 60 if kind in (*OF_A_BUNDLE, "nbest") else 200 for kind in KINDS}  # these take 0.1 s each


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_themselves_load(kind, pocket_bundle):
    with targets(pocket_bundle.folder) as uses:
        for label, content in make_seeds(kind, pocket_bundle.folder):
            assert outcome(uses[kind], label, content) == "loaded", label


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_inputs_raise_nothing_foreign(kind, pocket_bundle):
    report = fuzz(kind, SHARE[kind], seed=7, bundle=pocket_bundle.folder)
    assert report.passed, vars(report)
    assert sum(report.outcomes.values()) == SHARE[kind]
    assert report.outcomes["loaded"] > 0  # some mutations are harmless, so the loaders are really reached


@pytest.mark.parametrize("kind", ["cache", "manifest"])
def test_cases_are_reproducible(kind):
    seeds = make_seeds(kind)
    assert case_input(kind, seeds, 0, 5) == case_input(kind, seeds, 0, 5)
    assert case_input(kind, seeds, 0, 5) != case_input(kind, seeds, 0, 6)
