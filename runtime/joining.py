"""The n-best list of a recording from those of its segments."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from runtime.results import Hypothesis, RescoredHypothesis

H = TypeVar("H", Hypothesis, RescoredHypothesis)
Combination = tuple[float, tuple[int, ...]]  # minus the score, then the place taken in every list


def join_hypotheses(lists: Sequence[Sequence[Hypothesis]], count: int) -> list[Hypothesis]:
    """Return the `count` best ways to take one hypothesis of every segment.

    Scores are averaged with the segments' weights, the number of tokens of each best hypothesis: the first of
    the result joins the best of all segments, and its score is the mean log-probability per token again.
    A single list is returned as it is.
    """
    lists = [segment for segment in lists if segment]
    if len(lists) <= 1:
        return list(lists[0]) if lists else []
    weights = _shares([max(1, len(segment[0].tokens)) for segment in lists])

    def join(parts: Sequence[Hypothesis]) -> Hypothesis:
        return Hypothesis(
            joined_text([part.text for part in parts]),
            sum(w * part.score for w, part in zip(weights, parts, strict=True)),
            tuple(token for part in parts for token in part.tokens),
        )

    return _joined(lists, [[h.score for h in segment] for segment in lists], weights, join, count)


def join_rescored(lists: Sequence[Sequence[RescoredHypothesis]], count: int) -> list[RescoredHypothesis]:
    """As `join_hypotheses`, by fused score, the segments weighted by the words of their best hypothesis."""
    lists = [segment for segment in lists if segment]
    if len(lists) <= 1:
        return list(lists[0]) if lists else []
    weights = _shares([max(1, len(segment[0].text.split())) for segment in lists])

    def join(parts: Sequence[RescoredHypothesis]) -> RescoredHypothesis:
        return RescoredHypothesis(
            joined_text([part.text for part in parts]),
            *(
                sum(w * getattr(part, name) for w, part in zip(weights, parts, strict=True))
                for name in ("asr_score", "clip_score", "fused_score")
            ),
        )

    return _joined(lists, [[h.fused_score for h in segment] for segment in lists], weights, join, count)


def joined_text(texts: Sequence[str]) -> str:
    """Join the texts of segments by single spaces; empty ones leave no trace."""
    return " ".join(text for text in texts if text)


def _extended(best: Sequence[Combination], costs: Sequence[float]) -> Iterator[Combination]:
    for total, places in best:
        for place, cost in enumerate(costs):
            yield total + cost, (*places, place)


def _shares(sizes: Sequence[int]) -> list[float]:
    return [size / sum(sizes) for size in sizes]


def _joined(
    lists: Sequence[Sequence[H]],
    scores: Sequence[Sequence[float]],
    weights: Sequence[float],
    join: Callable[[Sequence[H]], H],
    count: int,
) -> list[H]:
    """Find the best combinations segment by segment; keep the first of those that read the same.

    A weighted sum is monotone in each term, so no combination outside the best `count` of a prefix can belong
    to the best `count` of the whole.
    """
    best: list[Combination] = [(0.0, ())]
    for row, weight in zip(scores, weights, strict=True):
        costs = [-weight * score for score in row[:count]]
        best = heapq.nsmallest(count, _extended(best, costs))
    distinct: dict[str, H] = {}
    for _, places in best:
        whole = join([segment[place] for segment, place in zip(lists, places, strict=True)])
        distinct.setdefault(whole.text, whole)
    return list(distinct.values())
