"""Beam search over any step decoder: the n-best list of `transformers`, batched over utterances.

The semantics are those of `transformers.generation.GenerationMixin.generate` (4.57) with
`num_return_sequences = num_beams`: which candidates run on, which finish, and when an utterance is done.
Every utterance is done for itself: its list does not depend on the others of its batch. All sums are
float32, as there.

The decoder does the heavy work (log-softmax, token mask, top 2K of every beam); what remains here are a dozen
numpy calls per step on arrays of N·K·2K numbers.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError, SettingsError
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.token_rules import TokenRules

__all__ = ["BeamSearchSettings", "FinishedHypothesis", "StepDecoder", "beam_search"]

# The reference keeps unused beams and free places of the pool at this score; a sum below
# half of it belongs to no real hypothesis.
UNREACHABLE = np.float32(-1e9)
REAL = float(UNREACHABLE) / 2

# The utterances of a batch that nobody waits for any more; asked between two steps.
GivenUp = Callable[[], Collection[int]]
# Told of every utterance as soon as its list is known: its place in the batch, and the list.
Finished = Callable[[int, list["FinishedHypothesis"]], object]


@dataclass(frozen=True, slots=True)
class FinishedHypothesis:
    """One entry of the n-best list.

    Attributes:
        tokens: Generated ids without the prompt; end-of-text included unless the length limit came first.
        score: `sum_logprob / len(tokens) ** length_penalty`.
        sum_logprob: Sum of the log-probabilities of `tokens` (natural log).
        merged_logprob: Log of the added probabilities of all spellings of these words that the search
            finished. The list of `distinct="tokens"` has one spelling an entry, and None here.
    """

    tokens: tuple[int, ...]
    score: float
    sum_logprob: float
    merged_logprob: float | None = None


class StepDecoder(Protocol):
    """What the search needs of a decoder. N utterances (rows), K beams, V vocabulary.

    `token_mask` is additive float32, (1, V) or one row per output, and is added after the
    log-softmax, without renormalisation. Outputs are the best `top_k` per beam, best first;
    forbidden tokens come out as -inf.
    """

    def prefill(
        self, prompts: NDArray[np.int64], token_mask: NDArray[np.float32], top_k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Read the prompts (N, P); return log-probabilities and tokens, both (N, 1, top_k)."""
        ...

    def step(
        self,
        tokens: NDArray[np.int64],
        parents: NDArray[np.int64],
        token_mask: NDArray[np.float32],
        top_k: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Append one token to every beam; return log-probabilities and tokens, both (N, K, top_k).

        Args:
            tokens: New tokens, (N, K).
            parents: Which beam of the previous step each beam extends, (N, K), 0 to K - 1;
                all 0 at the first step, which extends the prompt.
            token_mask: (1, V) or (N * K, V).
            top_k: Candidates per beam.
        """
        ...

    def keep(self, utterances: NDArray[np.int64]) -> None:
        """Go on with these rows only, in this order; row numbers of the batch as it is now."""
        ...


def beam_search(
    decoder: StepDecoder,
    prompts: Sequence[Sequence[int]] | NDArray[np.int64],
    settings: BeamSearchSettings,
    rules: TokenRules,
    *,
    eos_token_id: int,
    max_length: int,
    most_tokens: Sequence[int] | None = None,
    given_up: GivenUp = tuple,
    finished: Finished | None = None,
) -> list[list[FinishedHypothesis]]:
    """Return the n-best list of every utterance, best first.

    Args:
        decoder: The model with the audio of N utterances.
        prompts: Prompt tokens, (N, P): all of one length.
        settings: How to search; `distinct="words"` is `word_beam_search`'s.
        rules: Which tokens are permitted.
        eos_token_id: End of text.
        max_length: Most tokens that the model takes, prompt included.
        most_tokens: Most tokens to generate of each utterance, (N,), within those of the settings.
        given_up: Asked between two steps for utterances that are not worth another one.
        finished: Told of every utterance once, while the others go on.

    Returns:
        One list per prompt, at most `num_hypotheses` long; shorter only where the rules leave fewer ways
        to go on, or where an utterance was given up.

    Raises:
        SettingsError: The prompts differ in length, or the settings do not fit the model.
        BundleError: The decoder's output holds nan.
    """
    if settings.distinct != "tokens":
        raise SettingsError(
            f"distinct is {settings.distinct!r}; expected 'tokens' here: see word_beam_search"
        )
    prompt_array = as_matrix(prompts)
    limits = checked_limits(prompt_array, settings, rules, eos_token_id, max_length, most_tokens)
    search = Search(limits, settings, eos_token_id)
    return run_search(search, decoder, prompt_array, settings, rules, given_up, finished)


def run_search(
    search: "Search",
    decoder: StepDecoder,
    prompts: NDArray[np.int64],
    settings: BeamSearchSettings,
    rules: TokenRules,
    given_up: GivenUp = tuple,
    finished: Finished | None = None,
) -> list[list[FinishedHypothesis]]:
    """Take steps until no list can change; see `beam_search`."""
    untold = set(range(len(prompts)))

    def tell_finished() -> None:
        if finished is not None:
            for utterance in sorted(untold - search.open_utterances()):
                untold.remove(utterance)
                finished(utterance, search.result(utterance, settings.count))

    wanted = 2 * settings.num_beams
    top_k = rules.top_k(wanted)
    log_probs, candidates = decoder.prefill(prompts, rules.first_mask(), top_k)
    search.advance(*rules.narrow(log_probs, candidates, wanted))
    while search.goes_on(given_up()):
        tell_finished()
        if (rows := search.drop_finished_rows()) is not None:
            decoder.keep(rows)
        mask = rules.mask(search.generated())
        log_probs, candidates = decoder.step(search.tokens, search.parents, mask, top_k)
        search.advance(*rules.narrow(log_probs, candidates, wanted))
    tell_finished()
    return [search.result(utterance, settings.count) for utterance in range(len(prompts))]


def checked_limits(
    prompts: NDArray[np.int64],
    settings: BeamSearchSettings,
    rules: TokenRules,
    eos_token_id: int,
    max_length: int,
    most_tokens: Sequence[int] | None,
) -> list[int]:
    """Return the most tokens to generate of each utterance.

    Raises:
        SettingsError: The settings do not fit the model, or the limits the utterances.
    """
    if not 0 <= eos_token_id < rules.vocab_size:
        raise SettingsError(f"eos_token_id is {eos_token_id}; expected 0 to {rules.vocab_size - 1}")
    limit = settings.new_token_limit(prompts.shape[1], max_length, rules.vocab_size)
    if most_tokens is None:
        return [limit] * len(prompts)
    if len(most_tokens) != len(prompts) or min(most_tokens) < 1:
        raise SettingsError(
            f"most_tokens is {list(most_tokens)}; expected one number from 1 on for each of {len(prompts)} "
            "utterances"
        )
    return [min(limit, most) for most in most_tokens]


def as_matrix(prompts: Sequence[Sequence[int]] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return prompts as (N, P).

    Raises:
        SettingsError: They differ in length, or there is none.
    """
    lengths = {len(prompt) for prompt in prompts}
    if len(lengths) != 1:
        raise SettingsError(
            f"prompts have {sorted(lengths)} tokens; expected at least one prompt, all of one length"
        )
    return np.ascontiguousarray(prompts, dtype=np.int64)


@dataclass(slots=True)
class _Pool:
    """Finished hypotheses of one utterance: the best K so far, best first; the earlier first among equals."""

    size: int
    entries: list[FinishedHypothesis] = field(default_factory=list)

    def add(self, hypothesis: FinishedHypothesis) -> None:
        place = bisect_right(self.entries, -hypothesis.score, key=lambda entry: -entry.score)
        self.entries.insert(place, hypothesis)
        del self.entries[self.size :]

    def is_full(self) -> bool:
        return len(self.entries) == self.size

    def worst(self) -> float:
        return self.entries[-1].score if self.is_full() else float(UNREACHABLE)


class Search:
    """State of one search whose results differ in tokens; rows are the utterances of the decoder's batch.

    Attributes:
        tokens: Newest token of every running beam, (rows, K).
        parents: The beam of the previous step that each extends, (rows, K).
    """

    def __init__(self, limits: Sequence[int], settings: BeamSearchSettings, eos_token_id: int) -> None:
        utterances, beams = len(limits), settings.num_beams
        self._settings = settings
        self._eos = eos_token_id
        self._limits = np.array(limits)  # most tokens of every row
        self._length = 0  # tokens generated so far
        self._pools = [_Pool(beams) for _ in range(utterances)]
        self._utterance = list(range(utterances))  # of every row
        self._live = [True] * utterances  # per row; a finished utterance's pool is frozen
        # Beams 1.. start unreachable, so that the K copies of the prompt count once.
        self._sums = np.full((utterances, beams), UNREACHABLE)
        self._sums[:, 0] = 0.0
        self._worst = np.full(utterances, UNREACHABLE)  # of every row's pool
        self._history = np.zeros((utterances, beams, max(limits)), np.int64)
        self._row_index = np.arange(utterances)[:, None]
        self.tokens = np.zeros((utterances, beams), np.int64)
        self.parents = np.zeros((utterances, beams), np.int64)

    def is_open(self) -> bool:
        """Return whether any utterance can still change its list."""
        return True in self._live

    def goes_on(self, given_up: Collection[int]) -> bool:
        """Close the utterances that were given up; return whether any other is open."""
        if given_up:
            live = zip(self._live, self._utterance, strict=True)
            self._live = [is_live and utterance not in given_up for is_live, utterance in live]
        return self.is_open()

    def open_utterances(self) -> set[int]:
        """Return those whose list can still change."""
        return {utterance for utterance, live in zip(self._utterance, self._live, strict=True) if live}

    def generated(self) -> NDArray[np.int64]:
        """Return the tokens of the running beams, (rows, K, length)."""
        return self._history[:, :, : self._length]

    def advance(self, log_probs: NDArray[np.float32], candidates: NDArray[np.int64]) -> None:
        """Take one step.

        Args:
            log_probs: Best candidates of every beam, best first, (rows, K, top_k >= 2K), or (rows, 1, top_k)
                for the prompt, which stands for K equal beams.
            candidates: Their token ids.
        """
        rows, beams = self._sums.shape
        if self._length == 0:
            log_probs = np.broadcast_to(log_probs, (rows, beams, log_probs.shape[2]))
            candidates = np.broadcast_to(candidates, log_probs.shape)
        # 1. The best 2K continuations of all beams; among equals the lower beam, then the lower token.
        totals = (log_probs + self._sums[:, :, None]).reshape(rows, -1)
        order = (-totals).argsort(axis=1, kind="stable")[:, : 2 * beams]
        totals = totals[self._row_index, order]
        tokens = candidates.reshape(rows, -1)[self._row_index, order]
        parents = order // log_probs.shape[2]
        # 2. Those that end here, by end-of-text or by length; only ones ranked among the first K are kept.
        hits = (tokens == self._eos) | (self._limits == self._length + 1)[:, None]
        if hits[:, :beams].any():
            self._finish(totals, tokens, parents, hits[:, :beams])
            # 3. The best K of the others run on.
            totals = totals + hits * UNREACHABLE
            chosen = (-totals).argsort(axis=1, kind="stable")[:, :beams]
            totals = totals[self._row_index, chosen]
            tokens = tokens[self._row_index, chosen]
            parents = parents[self._row_index, chosen]
        self._sums = totals[:, :beams]
        self._history = self._history[self._row_index, parents[:, :beams]]
        self.tokens = self._history[:, :, self._length] = tokens[:, :beams]
        # All beams of the first step extend the prompt, which is the decoder's beam 0.
        self.parents = parents[:, :beams] if self._length else np.zeros_like(parents[:, :beams])
        self._length += 1
        # 4. An utterance is done, for good, once its best running beam cannot improve its list.
        self._close()

    def _finish(
        self,
        totals: NDArray[np.float32],
        tokens: NDArray[np.int64],
        parents: NDArray[np.int64],
        hits: NDArray[np.bool_],
    ) -> None:
        """Put finished candidates into the pools of the utterances that are not done; hits: (rows, K)."""
        divisor = np.float32(float(self._length + 1) ** self._settings.length_penalty)
        for row, rank in zip(*hits.nonzero(), strict=True):
            total = totals[row, rank]
            if not self._live[row] or not total > REAL:
                continue
            history = self._history[row, parents[row, rank], : self._length].tolist()
            pool = self._pools[self._utterance[row]]
            pool.add(
                FinishedHypothesis(
                    tokens=(*history, int(tokens[row, rank])),
                    score=float(total / divisor),
                    sum_logprob=float(total),
                )
            )
            self._worst[row] = pool.worst()

    def _close(self) -> None:
        """Mark the utterances whose list can no longer change."""
        open_rows = self._open_rows()
        if not open_rows.all():
            self._live = [live and bool(still) for live, still in zip(self._live, open_rows, strict=True)]

    def _open_rows(self) -> NDArray[np.bool_]:
        """Return for every row whether its best running beam can still improve its list."""
        settings = self._settings
        longest = settings.early_stopping == "never" and settings.length_penalty > 0
        lengths = self._limits.tolist() if longest else [self._length]
        divisors = np.array([float(length) ** settings.length_penalty for length in lengths], np.float32)
        best: NDArray[np.float32] = self._best_running() / divisors
        open_rows: NDArray[np.bool_] = (best > self._worst) & (self._length < self._limits)
        if settings.early_stopping is True:
            open_rows &= self._worst == UNREACHABLE
        if not open_rows.all():
            self._refuse_nan(best)
        return open_rows

    def _best_running(self) -> NDArray[np.float32]:
        """Return the log-probability of every row's best running beam."""
        best: NDArray[np.float32] = self._sums[:, 0]
        return best

    def _refuse_nan(self, log_probs: NDArray[np.float32]) -> None:
        if np.isnan(log_probs).any():
            raise BundleError(
                f"the decoder's log-probabilities are nan at generated token {self._length}; expected "
                "numbers or -inf: the weights are damaged, or their precision is too low for this model "
                "(try fp32)"
            )

    def drop_finished_rows(self) -> NDArray[np.int64] | None:
        """Drop the rows of finished utterances; return the rows that stay, in their new order, None for all.

        The last rows take the places of those that are done among them, which takes the decoder about as
        long as one step of such a row.
        """
        live = np.flatnonzero(self._live)
        count = len(live)
        if count == len(self._live):
            return None
        rows = np.arange(count)
        rows[~np.array(self._live[:count])] = live[live >= count]
        self._utterance = [self._utterance[row] for row in rows]
        self._live = [self._live[row] for row in rows]
        self._sums, self._worst, self._history = self._sums[rows], self._worst[rows], self._history[rows]
        self._limits = self._limits[rows]
        self.tokens, self.parents = self.tokens[rows], self.parents[rows]
        self._row_index = self._row_index[: len(rows)]
        return rows

    def result(self, utterance: int, count: int) -> list[FinishedHypothesis]:
        """Return the best `count` hypotheses of an utterance, best first."""
        return self._pools[utterance].entries[:count]
