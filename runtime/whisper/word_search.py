"""Beam search whose beams, and whose n-best list, differ in words.

Half of a 5-best list of Whisper's is punctuation: "americans, ask" and "americans ask" are two hypotheses and
one thing that was said. Here candidates of one step that have said the same share one beam. The most
probable of them lives on, and the probabilities of all are added: what the beam is ranked by is the
probability of what was said, not that of one way to write it down. Finished hypotheses of the same words
share one entry of the list likewise, whatever their length. Everything else is `beam_search`'s.
`docs/research/word-beams.md` tells what follows from it.
"""

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingsError
from runtime.whisper.beam_search import (
    REAL,
    UNREACHABLE,
    Finished,
    FinishedHypothesis,
    GivenUp,
    Search,
    StepDecoder,
    as_matrix,
    checked_limits,
    run_search,
)
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.token_rules import TokenRules
from runtime.whisper.word_keys import WordKey, WordKeys

LEAST_PATIENCE: Final = 3  # tokens behind the end of the search for spellings, at least


@dataclass(slots=True)
class _Group:
    """Candidates of one step that have said the same and either all end here or all go on.

    Attributes:
        mass: Log of the added probabilities, those of merged beams included: what the group is ranked by.
        found: Log of the added probabilities of the candidates alone.
        best: Log-probability of the most probable candidate, for which the rest stands.
        token: Its newest token.
        parent: The beam that it extends.
        key: What they have said.
        ends: Whether they end here.
        spellings: Log-probabilities of the best K spellings, merged ones included, best first. What a merged
            one would go on with is taken to be as probable as with the survivor.
    """

    mass: float
    found: float
    best: float
    token: int
    parent: int
    key: WordKey
    ends: bool
    spellings: list[float]


@dataclass(slots=True)
class _Said:
    """Finished hypotheses of the same words: as in `_Group`, with the most probable one's tokens."""

    mass: float
    found: float
    best: float
    tokens: tuple[int, ...]


class _WordPool:
    """Finished hypotheses of one utterance, one entry for the same words.

    Once the search for spellings would end (`close`), the list may still lack things said. What comes later
    fills it up from behind: it counts only where it scores no better than all that came in time. What scores
    better so late does so by repeating itself, which means per token reward.
    """

    def __init__(self, size: int, penalty: float) -> None:
        self._size = size
        self._penalty = penalty
        self._said: dict[str, _Said] = {}
        self._spellings: list[float] = []  # minus the scores of single spellings, the best K in order
        self._highest = math.inf  # score that a further entry may have
        self._end: int | None = None  # tokens, at which nothing more is awaited; None while in time

    def add(self, words: str, said: _Said, spellings: Sequence[float]) -> None:
        """Take a finished hypothesis in, with what it says, and how probable it is in each spelling."""
        score = self._score(said.best, said.tokens)
        for log_prob in spellings:
            insort(self._spellings, -self._score(log_prob, said.tokens))
        del self._spellings[self._size :]
        known = self._said.get(words)
        if known is None:
            if score <= self._highest:
                self._said[words] = said
            return
        known.mass, known.found = _added(known.mass, said.mass), _added(known.found, said.found)
        if said.best > known.best:
            known.best, known.tokens = said.best, said.tokens

    def kth_spelling(self) -> float:
        """Return the score of the K-th best single spelling; `UNREACHABLE` where there are fewer."""
        return -self._spellings[-1] if len(self._spellings) == self._size else float(UNREACHABLE)

    def close(self, length: int) -> None:
        """Note that no further spelling can belong to the best K, now that hypotheses have so many tokens."""
        if self._end is None:
            self._end = length + max(LEAST_PATIENCE, length // 2)
            self._highest = min(self._score(said.best, said.tokens) for said in self._said.values())

    def is_done(self, length: int) -> bool:
        """Whether nothing more is awaited: K things are said, or patience is out."""
        return self._end is not None and (len(self._said) >= self._size or length >= self._end)

    def best(self, count: int) -> list[FinishedHypothesis]:
        """Return the K most probable things that were said, by the score of their most probable spelling.

        What belongs to the list is decided by the added probabilities. The scores in it are those of the
        reference, one spelling each, so that they mean the same in both kinds of lists: ranked by them the
        first texts are better, too.
        """
        said = sorted(self._said.values(), key=lambda each: -self._score(each.mass, each.tokens))[
            : self._size
        ]
        entries = [
            FinishedHypothesis(each.tokens, self._score(each.best, each.tokens), each.best, each.found)
            for each in said
        ]
        return sorted(entries, key=lambda entry: -entry.score)[:count]

    def _score(self, log_prob: float, tokens: tuple[int, ...]) -> float:
        return log_prob / math.pow(len(tokens), self._penalty)


def word_beam_search(
    decoder: StepDecoder,
    prompts: Sequence[Sequence[int]] | NDArray[np.int64],
    settings: BeamSearchSettings,
    rules: TokenRules,
    keys: Sequence[WordKeys],
    *,
    eos_token_id: int,
    max_length: int,
    most_tokens: Sequence[int] | None = None,
    given_up: GivenUp = tuple,
    finished: Finished | None = None,
) -> list[list[FinishedHypothesis]]:
    """Return n-best lists whose entries differ in words.

    Args:
        decoder: As for `beam_search`, also below.
        prompts: Prompt tokens, (N, P).
        settings: How to search.
        rules: Which tokens are permitted.
        keys: What tells which hypotheses of an utterance say the same, one for each.
        eos_token_id: End of text.
        max_length: Most tokens that the model takes, prompt included.
        most_tokens: Most tokens to generate of each utterance, (N,), within those of the settings.
        given_up: As for `beam_search`.
        finished: As for `beam_search`.

    Raises:
        SettingsError: The prompts differ in length, there is not one set of keys for each, or the settings do
            not fit the model.
        BundleError: The decoder's output holds nan.
    """
    matrix = as_matrix(prompts)
    if len(keys) != len(matrix):
        raise SettingsError(
            f"there are keys for {len(keys)} of {len(matrix)} utterances; expected one for each"
        )
    limits = checked_limits(matrix, settings, rules, eos_token_id, max_length, most_tokens)
    search = WordSearch(limits, settings, eos_token_id, keys)
    return run_search(search, decoder, matrix, settings, rules, given_up, finished)


class WordSearch(Search):
    """`Search` whose beams and results differ in words.

    Args:
        limits: Most tokens to generate of each utterance.
        settings: How to search.
        eos_token_id: End of text.
        keys: Of each utterance.
    """

    def __init__(
        self,
        limits: Sequence[int],
        settings: BeamSearchSettings,
        eos_token_id: int,
        keys: Sequence[WordKeys],
    ) -> None:
        super().__init__(limits, settings, eos_token_id)
        utterances, beams = len(limits), settings.num_beams
        self._word_pools = [_WordPool(beams, settings.length_penalty) for _ in range(utterances)]
        self._word_keys = list(keys)  # of every row
        self._said = [[WordKey()] * beams for _ in range(utterances)]  # of every beam
        self._own = np.zeros((utterances, beams))  # log-probability of every beam as it is spelled
        # How far the spellings that every beam stands for are behind that, itself first, the best K.
        self._behind = [[[0.0]] * beams for _ in range(utterances)]

    def advance(self, log_probs: NDArray[np.float32], candidates: NDArray[np.int64]) -> None:
        """Take one step; see `Search.advance`."""
        self._refuse_nan(log_probs)
        rows = len(self._live)
        # The prompt stands for K equal beams, of which only the first is reachable.
        masses = log_probs + self._sums[:, : log_probs.shape[1], None]
        order = (-masses.reshape(rows, -1)).argsort(axis=1, kind="stable")
        for row in range(rows):
            if self._live[row]:
                groups = self._groups(row, masses[row], log_probs[row], candidates[row], order[row])
                self._finish_groups(row, groups)
                self._go_on(row, [group for group in groups if not group.ends])
        self._length += 1
        self._close()

    def drop_finished_rows(self) -> NDArray[np.int64] | None:
        """Drop the rows of finished utterances; see `Search`."""
        rows = super().drop_finished_rows()
        if rows is not None:
            self._own = self._own[rows]
            self._said = [self._said[row] for row in rows]
            self._behind = [self._behind[row] for row in rows]
            self._word_keys = [self._word_keys[row] for row in rows]
        return rows

    def result(self, utterance: int, count: int) -> list[FinishedHypothesis]:
        """Return the best `count` hypotheses of an utterance, best first."""
        return self._word_pools[utterance].best(count)

    def _close(self) -> None:
        """Mark the utterances whose list can no longer change, or is no longer waited for."""
        open_rows = self._open_rows()
        for row, running in enumerate(self._sums[:, 0].tolist()):
            pool = self._word_pools[self._utterance[row]]
            if self._live[row] and not open_rows[row] and self._worst[row] > UNREACHABLE:
                pool.close(self._length)
            goes_on = self._length < self._limits[row] and running > REAL and not pool.is_done(self._length)
            self._live[row] = self._live[row] and bool(goes_on)

    def _best_running(self) -> NDArray[np.float32]:
        """Return that of the most probable spelling: it is spellings that the search ends with."""
        own = np.where(self._sums > REAL, self._own, float(UNREACHABLE))
        best: NDArray[np.float32] = own.max(axis=1).astype(np.float32)
        return best

    def _groups(
        self,
        row: int,
        masses: NDArray[np.float32],
        log_probs: NDArray[np.float32],
        candidates: NDArray[np.int64],
        order: NDArray[np.int64],
    ) -> list[_Group]:
        """Return the best 2K things that the candidates of a row say, best first."""
        last = self._length + 1 == self._limits[row]
        said, keys = self._said[row], self._word_keys[row]
        found: dict[tuple[WordKey, bool], _Group] = {}
        flat = masses.reshape(-1)[order].tolist()
        parents, places = np.unravel_index(order, log_probs.shape)
        own = (log_probs + self._own[row, : len(log_probs), None])[parents, places].tolist()
        tokens = candidates[parents, places].tolist()
        for mass, best, token, parent in zip(flat, own, tokens, parents.tolist(), strict=True):
            if not mass > REAL:
                break
            key = keys.extend(said[parent], token)
            ends = last or token == self._eos
            spellings = [best - behind for behind in self._behind[row][parent]]
            group = found.setdefault(
                (key, ends), _Group(mass, best, best, token, parent, key, ends, spellings)
            )
            if (group.token, group.parent) == (token, parent):
                continue
            group.spellings = sorted(group.spellings + spellings, reverse=True)[: self._settings.num_beams]
            group.mass, group.found = _added(group.mass, mass), _added(group.found, best)
            if best > group.best:
                group.best, group.token, group.parent = best, token, parent
        return sorted(found.values(), key=lambda group: -group.mass)[: 2 * self._settings.num_beams]

    def _finish_groups(self, row: int, groups: list[_Group]) -> None:
        """Put those that end, and rank among the first K, into the utterance's pool."""
        pool = self._word_pools[self._utterance[row]]
        for group in groups[: self._settings.num_beams]:
            if group.ends:
                history = self._history[row, group.parent, : self._length].tolist()
                tokens = (*history, group.token)
                pool.add(group.key.said, _Said(group.mass, group.found, group.best, tokens), group.spellings)
        self._worst[row] = pool.kth_spelling()

    def _go_on(self, row: int, groups: list[_Group]) -> None:
        """Let the best K of the others run on; where there are fewer, the rest is unreachable."""
        beams = self._settings.num_beams
        chosen = groups[:beams]
        parents = np.array([group.parent for group in chosen] + [0] * (beams - len(chosen)))
        tokens = np.zeros(beams, np.int64)
        tokens[: len(chosen)] = [group.token for group in chosen]
        self._sums[row] = UNREACHABLE
        self._sums[row, : len(chosen)] = [group.mass for group in chosen]
        self._own[row] = 0.0
        self._own[row, : len(chosen)] = [group.best for group in chosen]
        self._said[row] = [group.key for group in chosen] + [WordKey()] * (beams - len(chosen))
        behind = [[group.best - spelling for spelling in group.spellings] for group in chosen]
        self._behind[row] = behind + [[0.0]] * (beams - len(chosen))
        self._history[row] = self._history[row, parents]
        self._history[row, :, self._length] = self.tokens[row] = tokens
        self.parents[row] = parents


def _added(one: float, other: float) -> float:
    """Return the log of the sum of two probabilities, given as logs."""
    return float(np.logaddexp(one, other))
