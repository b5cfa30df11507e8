"""The decoder's two entrances, and which entries of the cache each beam descends from.

The cache of an utterance is append-only: the prompt's P entries, then K entries a step, one of each beam.
Which of them a beam descends from is a row of `_lineage`, an additive mask over the cache. Reordering beams
reorders these rows and nothing else: no key and no value is copied.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Added to an attention score that must not count. Finite, so that a row of nothing else gives no NaN, and
# within float16's range.
HIDDEN: Final = -1e4

Candidates = tuple[NDArray[np.float32], NDArray[np.int64]]


class Run(NamedTuple):
    """What one run of the decoder is given.

    Attributes:
        tokens: New tokens, (batch, queries).
        mask: What each sees of the cache, these entries included, (batch, queries, entries).
        positions: Place of each token in its text, (queries,).
        wanted: Queries whose candidates are asked for, (outputs,).
        token_mask: (1, 1, V), (1, outputs, V) or (batch, K, V).
        top_k: Candidates of each.
    """

    tokens: NDArray[np.int64]
    mask: NDArray[Any]
    positions: NDArray[np.int64]
    wanted: NDArray[np.int64]
    token_mask: NDArray[np.float32]
    top_k: int


class LineageDecoder(ABC):
    """`StepDecoder` but for the run itself.

    Args:
        batch: Utterances N.
        kind: Type of the mask over the cache, the decoder's own.
        hidden_entries: Entries of the cache at its beginning that nobody may see.
    """

    def __init__(self, batch: int, kind: DTypeLike, hidden_entries: int = 0) -> None:
        self._batch = batch
        self._rows = np.arange(batch)  # batch row of each utterance that is still wanted
        self._lineage: NDArray[Any] = np.full((batch, 1, hidden_entries), HIDDEN, kind)
        self._next_position = 0

    @abstractmethod
    def _run(self, run: Run) -> Candidates:
        """Append entries to the cache; return log-probabilities and tokens, both (batch, outputs, top_k)."""

    def prefill(self, prompts: NDArray[np.int64], token_mask: NDArray[np.float32], top_k: int) -> Candidates:
        """Read the prompts once per utterance; see `StepDecoder.prefill`."""
        return self.read(prompts, [prompts.shape[1] - 1], token_mask, top_k)

    def read(
        self,
        prompts: NDArray[np.int64],
        wanted: Sequence[int],
        token_mask: NDArray[np.float32],
        top_k: int,
    ) -> Candidates:
        """Read the prompts once per utterance; return what may follow some of their places.

        Args:
            prompts: (N, P).
            wanted: The places, (outputs,).
            token_mask: (1, V), or one row per place.
            top_k: Candidates of each.

        Returns:
            Log-probabilities and tokens, both (N, outputs, top_k), best first.
        """
        length = prompts.shape[1]
        causal = np.where(np.tri(length, dtype=bool), 0.0, HIDDEN).astype(self._lineage.dtype)
        own = np.broadcast_to(causal, (self._batch, length, length))
        mask = np.concatenate([np.repeat(self._lineage, length, axis=1), own], axis=2)
        outputs = self._run(
            Run(prompts, mask, np.arange(length), np.array(wanted), _three_dimensional(token_mask), top_k)
        )
        self._lineage = mask[:, -1:]  # the last token of the prompt sees all of it
        self._next_position = length
        return outputs

    def step(
        self,
        tokens: NDArray[np.int64],
        parents: NDArray[np.int64],
        token_mask: NDArray[np.float32],
        top_k: int,
    ) -> Candidates:
        """Append one token to every beam; see `StepDecoder.step`."""
        utterances, beams = tokens.shape
        own = np.where(np.eye(beams, dtype=bool), 0.0, HIDDEN).astype(self._lineage.dtype)
        inherited = self._lineage[np.arange(utterances)[:, None], parents]
        self._lineage = np.concatenate([inherited, np.broadcast_to(own, (utterances, beams, beams))], axis=2)
        if len(token_mask) > 1:
            token_mask = self._spread(token_mask.reshape(utterances, beams, -1))
        log_probs, best = self._run(
            Run(
                self._spread(tokens),
                self._spread(self._lineage),
                np.full(beams, self._next_position),
                np.arange(beams),
                _three_dimensional(token_mask),
                top_k,
            )
        )
        self._next_position += 1
        if self._batch != utterances:
            return log_probs[self._rows], best[self._rows]
        return log_probs, best

    def keep(self, utterances: NDArray[np.int64]) -> None:
        """Go on with these utterances only. The others stay in the batch, computed for nothing."""
        self._lineage = self._lineage[utterances]
        self._rows = self._rows[utterances]

    def _spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Put the rows of the wanted utterances where they stand in the batch; zeros elsewhere."""
        if len(values) == self._batch:
            return values
        spread = np.zeros((self._batch, *values.shape[1:]), values.dtype)
        spread[self._rows] = values
        return spread


def _three_dimensional(token_mask: NDArray[np.float32]) -> NDArray[np.float32]:
    return token_mask if token_mask.ndim == 3 else token_mask[None]
