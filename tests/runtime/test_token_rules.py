"""Token rules: parity with the logits processors of transformers, then properties, then faults."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import GenerationConfig
from transformers.generation import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from runtime.errors import SettingsError
from runtime.whisper.token_rules import TimestampRules, TokenRules, allow_only, forbid

# A vocabulary laid out as Whisper's: text, end-of-text, start, <|notimestamps|>, timestamps.
EOS, NO_TIMESTAMPS, BEGIN, VOCAB_SIZE = 12, 14, 15, 35
RULES = TimestampRules(NO_TIMESTAMPS, BEGIN, EOS, max_initial_index=4)

histories = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=8)
quick = hypothesis_settings(max_examples=150, deadline=None)


def log_probs_of(seed: int, timestamp_shift: float) -> NDArray[np.float32]:
    """Return one row of log-probabilities, shape (1, VOCAB_SIZE)."""
    logits = np.random.default_rng(seed).normal(scale=2.0, size=(1, VOCAB_SIZE))
    logits[:, BEGIN:] += timestamp_shift
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


def by_token(rules: TokenRules, history: list[int], log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply mask and `narrow` as the search does; return log-probabilities in the order of the ids, (V,)."""
    mask = rules.mask(np.array([[history]], np.int64)) if history else rules.first_mask()
    masked = log_probs + mask
    order = np.argsort(-masked, axis=1, kind="stable")
    values, tokens = rules.narrow(masked[0, order][None], order[None], VOCAB_SIZE)
    result = np.empty(VOCAB_SIZE, np.float32)
    result[tokens[0, 0]] = values[0, 0]
    return result


@quick
@given(
    history=histories,
    seed=st.integers(0, 10**6),
    shift=st.sampled_from([-6.0, -2.0, 0.0, 3.0]),
    limit=st.sampled_from([None, 0, 4]),
    suppress=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=5),
)
def test_equals_the_processors_of_transformers(
    history: list[int], seed: int, shift: float, limit: int | None, suppress: list[int]
) -> None:
    prompt = [13, 3]
    log_probs = log_probs_of(seed, shift)
    config = GenerationConfig(
        eos_token_id=EOS, no_timestamps_token_id=NO_TIMESTAMPS, max_initial_timestamp_index=limit
    )
    ids = torch.tensor([[*prompt, *history]])
    expected = torch.from_numpy(log_probs)
    if suppress:
        expected = SuppressTokensLogitsProcessor(suppress)(ids, expected)
    expected = SuppressTokensAtBeginLogitsProcessor([2, EOS], len(prompt))(ids, expected)
    expected = WhisperTimeStampLogitsProcessor(config, begin_index=len(prompt))(ids, expected)

    rules = TokenRules(VOCAB_SIZE, suppress, [2, EOS], TimestampRules(NO_TIMESTAMPS, BEGIN, EOS, limit))
    # Nothing is computed anew, only forbidden or not: equal to the last bit.
    np.testing.assert_array_equal(by_token(rules, history, log_probs), expected[0].numpy())


@quick
@given(history=histories, seed=st.integers(0, 10**6))
def test_without_timestamps_only_the_lists_count(history: list[int], seed: int) -> None:
    rules = TokenRules(VOCAB_SIZE, [1, 4], [2])
    log_probs = log_probs_of(seed, 0.0)
    forbidden = {1, 4} if history else {1, 2, 4}
    result = by_token(rules, history, log_probs)
    for token in range(VOCAB_SIZE):
        assert result[token] == (-np.inf if token in forbidden else log_probs[0, token])


@pytest.mark.parametrize(
    ("history", "allowed", "forbidden"),
    [
        ([], [BEGIN, BEGIN + 4], [0, EOS, BEGIN + 5]),
        ([BEGIN + 2], [0, EOS], [BEGIN + 2, BEGIN + 3]),
        ([BEGIN + 2, 5], [0, EOS, BEGIN + 3], [BEGIN + 2]),
        ([BEGIN + 2, 5, BEGIN + 6], [EOS, BEGIN + 6, BEGIN + 7], [0, BEGIN + 5]),
        ([BEGIN + 2, 5, BEGIN + 6, BEGIN + 6], [0, EOS], [BEGIN + 6, BEGIN + 7]),
        ([BEGIN + 2, 5, BEGIN + 6, BEGIN + 6, 5], [0, BEGIN + 7], [BEGIN + 6]),
    ],
)
def test_timestamps_open_come_in_pairs_and_never_decrease(
    history: list[int], allowed: list[int], forbidden: list[int]
) -> None:
    rules = TokenRules(VOCAB_SIZE, timestamps=RULES)
    mask = rules.mask(np.array([[history]], np.int64)) if history else rules.first_mask()
    assert (mask[0, allowed] == 0).all()
    assert np.isneginf(mask[0, [*forbidden, NO_TIMESTAMPS]]).all()


def test_text_is_forbidden_where_all_timestamps_together_outweigh_it() -> None:
    rules = TokenRules(VOCAB_SIZE, timestamps=RULES)
    probabilities = np.full(VOCAB_SIZE, 0.5 / 34)
    probabilities[0] = 0.28  # the 18 timestamps after the last one have 18 * 0.5 / 34 = 0.26 together
    result = by_token(rules, [BEGIN + 1, 0], np.log(probabilities, dtype=np.float32)[None])
    assert result[0] == np.float32(np.log(0.28))
    probabilities[0] = 0.25
    result = by_token(rules, [BEGIN + 1, 0], np.log(probabilities, dtype=np.float32)[None])
    assert np.isneginf(result[:BEGIN]).all()
    assert np.isfinite(result[BEGIN + 2 :]).all()


def test_masks_without_timestamps_are_built_once_and_shared() -> None:
    rules = TokenRules(VOCAB_SIZE, [1], [2])
    history = np.zeros((2, 3, 4), np.int64)
    assert rules.mask(history) is rules.mask(history[:1])
    assert rules.first_mask() is rules.first_mask()
    assert rules.mask(history).shape == (1, VOCAB_SIZE)
    assert rules.mask(history).dtype == np.float32
    assert rules.top_k(10) == 10
    with pytest.raises(ValueError, match="read-only"):
        rules.mask(history)[0, 0] = 1.0


def test_masks_with_timestamps_have_a_row_per_beam_and_leave_the_shared_mask_alone() -> None:
    rules = TokenRules(VOCAB_SIZE, [1], timestamps=RULES)
    history = np.array([[[BEGIN, 5], [BEGIN + 3, 5]], [[BEGIN, 5], [BEGIN, 5]]], np.int64)
    mask = rules.mask(history)
    assert mask.shape == (4, VOCAB_SIZE)
    assert [int(row[BEGIN:].argmax()) for row in mask] == [1, 4, 1, 1]
    assert rules.top_k(10) == VOCAB_SIZE
    np.testing.assert_array_equal(mask, rules.mask(history))


def test_allow_only_and_forbid_are_opposites() -> None:
    allowed, forbidden = allow_only(6, [1, 3]), forbid(6, [0, 2, 4, 5])
    np.testing.assert_array_equal(allowed, forbidden)
    assert allowed.shape == (1, 6)
    assert allowed.dtype == np.float32


@pytest.mark.parametrize("token", [-1, 6])
def test_refuses_tokens_outside_the_vocabulary(token: int) -> None:
    for build in (allow_only, forbid, TokenRules):
        with pytest.raises(SettingsError, match="vocabulary of 6 tokens"):
            build(6, [token])
