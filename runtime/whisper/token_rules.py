"""Which tokens the decoder may produce next: Whisper's rules as additive masks.

The decoder graph adds a mask (0 for a permitted token, -inf for a forbidden one) to the
log-probabilities *after* the log-softmax; nothing is renormalised. All rules but one depend only on the
tokens generated so far, so that their masks go into the graph. The one exception compares the
probability of all timestamps with that of the best text token of the *same* position
(`TimestampRules.narrow`): in that mode the graph is asked for the whole vocabulary (`top_k` = V),
the comparison runs here, and the best candidates are selected here. Without timestamps, the
masks are two constant arrays, built once.

Source: `SuppressTokensLogitsProcessor`, `SuppressTokensAtBeginLogitsProcessor` and
`WhisperTimeStampLogitsProcessor` of transformers 4.57 describe the same behaviour.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingsError
from runtime.whisper.tokens import WhisperTokens

FORBIDDEN = np.float32(-np.inf)


def forbid(vocab_size: int, tokens: Iterable[int]) -> NDArray[np.float32]:
    """Return a read-only mask, shape (1, vocab_size), that forbids `tokens` and permits the rest.

    Raises:
        SettingsError: A token id lies outside the vocabulary.
    """
    mask = np.zeros((1, vocab_size), np.float32)
    mask[0, _checked(vocab_size, tokens)] = FORBIDDEN
    mask.flags.writeable = False
    return mask


def allow_only(vocab_size: int, tokens: Iterable[int]) -> NDArray[np.float32]:
    """Return a read-only mask, shape (1, vocab_size), that permits `tokens` and forbids the rest.

    Used to detect the language (only language tokens permitted, `top_k` = 1) and to read the probability of
    single tokens such as `<|nospeech|>`.

    Raises:
        SettingsError: A token id lies outside the vocabulary.
    """
    mask = np.full((1, vocab_size), FORBIDDEN)
    mask[0, _checked(vocab_size, tokens)] = 0.0
    mask.flags.writeable = False
    return mask


def _checked(vocab_size: int, tokens: Iterable[int]) -> list[int]:
    ids = sorted(set(tokens))
    outside = [token for token in ids if not 0 <= token < vocab_size]
    if outside:
        raise SettingsError(
            f"token ids {outside[:5]} lie outside the vocabulary of {vocab_size} tokens; "
            "the token lists and the model belong to different checkpoints"
        )
    return ids


@dataclass(frozen=True, slots=True)
class TimestampRules:
    """How timestamps may follow one another.

    Timestamps come in pairs (end of a segment, start of the next), never decrease, and open the
    transcription. Where all timestamps together are more probable than the best text token, text is
    forbidden.

    Attributes:
        no_timestamps_id: `<|notimestamps|>`, never generated in this mode.
        begin: First timestamp token; all ids from here to the end of the vocabulary are timestamps.
        eos_token_id: End of text. Tokens below it are text.
        max_initial_index: Latest first timestamp, in steps of 0.02 s; None for no limit.
    """

    no_timestamps_id: int
    begin: int
    eos_token_id: int
    max_initial_index: int | None

    def apply(self, mask: NDArray[np.float32], generated: NDArray[np.int64]) -> None:
        """Forbid in `mask` what the tokens generated so far rule out.

        Args:
            mask: Shape (rows, vocab_size), changed in place.
            generated: Shape (rows, length), without the prompt.
        """
        mask[:, self.no_timestamps_id] = FORBIDDEN
        length = generated.shape[1]
        if length == 0:
            mask[:, : self.begin] = FORBIDDEN
            if self.max_initial_index is not None:
                mask[:, self.begin + self.max_initial_index + 1 :] = FORBIDDEN
            return
        is_timestamp = generated >= self.begin
        for row in range(len(generated)):
            last = bool(is_timestamp[row, -1])
            pair_complete = length < 2 or bool(is_timestamp[row, -2])
            if last and pair_complete:
                mask[row, self.begin :] = FORBIDDEN  # text, or the end, must follow a pair
            elif last:
                mask[row, : self.eos_token_id] = FORBIDDEN  # the partner, or the end, must follow
            positions = np.flatnonzero(is_timestamp[row])
            if len(positions):
                newest = int(generated[row, positions[-1]])
                # The partner of a single timestamp may repeat it; any other must be later.
                earliest = newest if last and not pair_complete else newest + 1
                mask[row, self.begin : earliest] = FORBIDDEN

    def narrow(
        self, log_probs: NDArray[np.float32], tokens: NDArray[np.int64], wanted: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Forbid text where the timestamps together outweigh it, then keep the best candidates.

        Args:
            log_probs: Masked log-probabilities of the whole vocabulary, best first, shape (N, K, vocab_size).
            tokens: The ids they belong to, same shape.
            wanted: How many candidates to keep per beam.

        Returns:
            The best `wanted` log-probabilities and token ids, best first, both (N, K, wanted).
        """
        best = np.empty((*log_probs.shape[:2], wanted), np.float32)
        ids = np.empty(best.shape, np.int64)
        for place in np.ndindex(log_probs.shape[:2]):
            row, row_ids = log_probs[place], tokens[place]
            is_timestamp = row_ids >= self.begin
            best_text = row[is_timestamp.argmin()]  # the first that is none
            if np.logaddexp.reduce(row[is_timestamp]) > best_text:
                row = np.where(is_timestamp, row, FORBIDDEN)
                chosen = np.flatnonzero(is_timestamp)[:wanted]
                if len(chosen) < wanted:
                    chosen = np.append(chosen, np.flatnonzero(~is_timestamp)[: wanted - len(chosen)])
                best[place], ids[place] = row[chosen], row_ids[chosen]
            else:
                best[place], ids[place] = row[:wanted], row_ids[:wanted]
        return best, ids


class TokenRules:
    """All rules of one decoding run.

    Attributes:
        vocab_size: Number of tokens V.
        timestamps: The timestamp rules, or None where no timestamps are wanted.
    """

    def __init__(
        self,
        vocab_size: int,
        suppress: Iterable[int] = (),
        begin_suppress: Iterable[int] = (),
        timestamps: TimestampRules | None = None,
    ) -> None:
        """Prepare the masks.

        Args:
            vocab_size: Number of tokens V.
            suppress: Tokens that are never generated.
            begin_suppress: Tokens that are not generated at the first position.
            timestamps: The timestamp rules, or None.

        Raises:
            SettingsError: A token id lies outside the vocabulary.
        """
        suppress = tuple(suppress)
        self.vocab_size = vocab_size
        self.timestamps = timestamps
        self._later = forbid(vocab_size, suppress)
        self._first = forbid(vocab_size, (*suppress, *begin_suppress))

    @classmethod
    def of_checkpoint(cls, ids: WhisperTokens, *, timestamps: bool = False) -> "TokenRules":
        """Return the rules that a checkpoint asks for.

        Raises:
            SettingsError: Timestamps are asked of a checkpoint without timestamp tokens.
        """
        rules = None
        if timestamps:
            if ids.timestamp_begin is None or ids.no_timestamps_id is None:
                raise SettingsError("timestamps were asked for, but this checkpoint has no timestamp tokens")
            rules = TimestampRules(
                ids.no_timestamps_id, ids.timestamp_begin, ids.eos_token_id, ids.max_initial_timestamp_index
            )
        return cls(ids.vocab_size, ids.suppress_tokens, ids.begin_suppress_tokens, rules)

    def top_k(self, wanted: int) -> int:
        """Return how many candidates per beam the decoder must give so that `narrow` can yield `wanted`."""
        return self.vocab_size if self.timestamps is not None else wanted

    def first_mask(self) -> NDArray[np.float32]:
        """Return the mask of the first generated position, shape (1, V), read-only."""
        if self.timestamps is None:
            return self._first
        mask = self._first.copy()
        self.timestamps.apply(mask, np.empty((1, 0), np.int64))
        return mask

    def mask(self, generated: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the mask of a later position.

        Args:
            generated: Tokens generated so far, shape (N, K, length >= 1); their values count only
                with timestamp rules.

        Returns:
            Additive mask, (1, V) read-only without timestamp rules, else (N * K, V).
        """
        if self.timestamps is None:
            return self._later
        rows = generated.reshape(-1, generated.shape[-1])
        mask = np.repeat(self._later, len(rows), axis=0)
        self.timestamps.apply(mask, rows)
        return mask

    def narrow(
        self, log_probs: NDArray[np.float32], tokens: NDArray[np.int64], wanted: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Apply what could not be known before the step; see `TimestampRules.narrow`."""
        if self.timestamps is None:
            return log_probs, tokens
        return self.timestamps.narrow(log_probs, tokens, wanted)
