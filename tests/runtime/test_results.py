"""Joining n-best lists: the best combinations, found without trying all."""

import itertools

import numpy as np
import pytest

from runtime.results import Hypothesis, RescoredHypothesis, join_hypotheses, join_rescored, joined_text


def random_list(rng, place, length):
    scores = np.sort(-rng.exponential(1, length))[::-1]
    return [
        Hypothesis(f"s{place}h{i}", float(s), tuple(range(rng.integers(1, 9)))) for i, s in enumerate(scores)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_the_best_of_all_combinations(seed):
    rng = np.random.default_rng(seed)
    lists = [random_list(rng, place, rng.integers(1, 6)) for place in range(rng.integers(2, 6))]
    weights = np.array([len(segment[0].tokens) for segment in lists], float)
    weights /= weights.sum()
    every = sorted(
        (-sum(w * h.score for w, h in zip(weights, way, strict=True)), " ".join(h.text for h in way))
        for way in itertools.product(*lists)
    )
    joined = join_hypotheses(lists, 5)
    assert [h.text for h in joined] == [text for _, text in every[:5]]
    np.testing.assert_allclose([-h.score for h in joined], [cost for cost, _ in every[:5]])
    assert joined[0].tokens == tuple(itertools.chain.from_iterable(segment[0].tokens for segment in lists))


def test_one_list_stays_as_it_is_and_empty_ones_leave_no_trace():
    only = [Hypothesis("a", -0.1, (1,)), Hypothesis("b", -0.2, (2,))]
    assert join_hypotheses([[], only, []], 1) == only
    assert join_hypotheses([[], []], 5) == join_hypotheses([], 5) == join_rescored([], 5) == []
    rescored = [RescoredHypothesis("a", 0.6, 0.3, 0.5), RescoredHypothesis("b", 0.4, 0.2, 0.5)]
    assert join_rescored([rescored], 5) == rescored
    assert joined_text(["a", "", "b"]) == "a b"


def test_rescored_lists_join_by_fused_score():
    first = [RescoredHypothesis("a b c", 0.4, 0.3, 0.7), RescoredHypothesis("d", 0.6, 0.1, 0.3)]
    second = [RescoredHypothesis("e", 0.9, 0.2, 0.8), RescoredHypothesis("f", 0.1, 0.2, 0.2)]
    best, *others = join_rescored([first, second], 3)
    assert best.text == "a b c e"
    assert best.fused_score == pytest.approx(0.75 * 0.7 + 0.25 * 0.8)
    assert best.clip_score == pytest.approx(0.75 * 0.3 + 0.25 * 0.2)
    assert len(others) == 2


def test_combinations_that_read_the_same_count_once():
    words = [Hypothesis("a", -0.1, (1,)), Hypothesis("", -0.2, (2,))]
    assert [h.text for h in join_hypotheses([words, words], 4)] == ["a a", "a", ""]
