"""Lists that differ in words: against all sequences counted out, and against the list of tokens."""

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from runtime import MultimodalASR
from runtime.audio.load import load_audio
from runtime.errors import BundleError, SettingsError
from runtime.whisper.beam_search import beam_search
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.token_rules import TokenRules
from runtime.whisper.tokens import WhisperTokens
from runtime.whisper.word_keys import WordKey
from runtime.whisper.word_search import word_beam_search
from runtime.whisper.words import letters, lower, word_text
from tests.conftest import POCKET
from tests.runtime.test_beam_search import TableDecoder

# Letters, two letters at once, punctuation, capitals; behind them the end.
PIECES = ("a", "b", "ab", ",", "A", " ", "-b", ".", "B", "ba", "!", "c", "?", "C", "bc")
EOS = len(PIECES)
VOCABULARY = EOS + 1
PROMPT = [0]
EVERYTHING = tuple(range(VOCABULARY))


class Pieces:
    """Keys over `PIECES`, spelled as they are."""

    def extend(self, key, token):
        return key if token >= EOS else WordKey(key.said + letters(PIECES[token]))


def run(decoder, utterances, how, limit, keys=None, suppress=()):
    return word_beam_search(
        decoder,
        [PROMPT] * utterances,
        how,
        TokenRules(VOCABULARY, suppress),
        keys or [Pieces()] * utterances,
        eos_token_id=EOS,
        max_length=len(PROMPT) + limit,
    )


def said(tokens):
    return letters("".join(PIECES[token] for token in tokens if token < EOS))


def true_sums(seed, limit, shift, permitted=EVERYTHING):
    """Probability of every word string, over all sequences that end or reach the limit."""
    decoder = TableDecoder([seed], VOCABULARY, EOS, shift)
    sums, stack = {}, [((), 0.0)]
    while stack:
        sequence, log_prob = stack.pop()
        row = decoder.log_probs(seed, (*PROMPT, *sequence)).astype(float)
        for token in permitted:
            longer, total = (*sequence, token), log_prob + row[token]
            if token == EOS or len(longer) == limit:
                sums[said(longer)] = np.logaddexp(sums.get(said(longer), -math.inf), total)
            else:
                stack.append((longer, total))
    return sums


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    beams=st.integers(1, 6),
    limit=st.integers(1, 4),
    shift=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_merged_probabilities_never_exceed_the_true_sums(seed, beams, limit, shift):
    sums = true_sums(seed, limit, shift)
    (found,) = run(TableDecoder([seed], VOCABULARY, EOS, shift), 1, BeamSearchSettings(beams), limit)
    assert 1 <= len(found) <= beams
    words = [said(entry.tokens) for entry in found]
    assert len(set(words)) == len(words)
    for entry, text in zip(found, words, strict=True):
        assert entry.sum_logprob <= entry.merged_logprob + 1e-9
        assert entry.score == pytest.approx(entry.sum_logprob / len(entry.tokens))
        assert entry.merged_logprob <= sums[text] + 1e-5
    assert [entry.score for entry in found] == sorted((entry.score for entry in found), reverse=True)


@pytest.mark.parametrize("seed", range(20))
def test_where_nothing_is_pruned_they_equal_the_true_sums(seed):
    """Two pieces and the end are permitted: all sequences of two tokens find room."""
    pair = np.random.default_rng(seed).choice(EOS, size=2, replace=False).tolist()
    permitted = [*pair, EOS]
    sums = true_sums(seed, 2, 0.0, permitted)
    how = BeamSearchSettings(8, early_stopping="never", length_penalty=0.0)
    suppress = sorted(set(range(VOCABULARY)) - set(permitted))
    (found,) = run(TableDecoder([seed], VOCABULARY, EOS), 1, how, 2, [Apart()], suppress)
    assert {said(entry.tokens): entry.merged_logprob for entry in found} == pytest.approx(sums, abs=1e-4)


class Apart(Pieces):
    """As `Pieces`, but hypotheses that run on are kept apart: only what ended is merged."""

    def extend(self, key, token):
        if key.rest or token == EOS:
            return WordKey(super().extend(key, token).said)
        return WordKey(super().extend(key, token).said, bytes([token + 1]))


@settings(deadline=None, max_examples=40)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=5), beams=st.integers(1, 5))
def test_a_list_does_not_depend_on_its_batch_mates(seeds, beams):
    how = BeamSearchSettings(beams)
    together = run(TableDecoder(seeds, VOCABULARY, EOS, 1.0), len(seeds), how, 6)
    alone = [run(TableDecoder([seed], VOCABULARY, EOS, 1.0), 1, how, 6)[0] for seed in seeds]
    assert together == alone


@settings(deadline=None, max_examples=40)
@given(
    seeds=st.lists(st.integers(0, 10**6), min_size=5, max_size=5),
    limits=st.lists(st.integers(1, 8), min_size=5, max_size=5),
    beams=st.integers(1, 5),
)
def test_each_utterance_keeps_its_own_limit(seeds, limits, beams):
    def search(seeds, most_tokens, how):
        return word_beam_search(
            TableDecoder(seeds, VOCABULARY, EOS, 1.0),
            [PROMPT] * len(seeds),
            how,
            TokenRules(VOCABULARY),
            [Pieces()] * len(seeds),
            eos_token_id=EOS,
            max_length=len(PROMPT) + 6,
            most_tokens=most_tokens,
        )

    together = search(seeds, limits, BeamSearchSettings(beams))
    for seed, most, found in zip(seeds, limits, together, strict=True):
        assert search([seed], None, BeamSearchSettings(beams, max_new_tokens=min(6, most))) == [found]
    assert search(seeds, [6] * 5, BeamSearchSettings(beams)) == search(seeds, None, BeamSearchSettings(beams))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), beams=st.integers(1, 6), limit=st.integers(1, 6))
def test_where_no_two_say_the_same_the_list_is_that_of_tokens(seed, beams, limit):
    class Different:
        def extend(self, key, token):
            return WordKey(f"{key.said}<{token}>")

    how = BeamSearchSettings(beams)
    (ours,) = run(TableDecoder([seed], VOCABULARY, EOS, 1.0), 1, how, limit, [Different()])
    (theirs,) = beam_search(
        TableDecoder([seed], VOCABULARY, EOS, 1.0),
        [PROMPT],
        how,
        TokenRules(VOCABULARY),
        eos_token_id=EOS,
        max_length=len(PROMPT) + limit,
    )
    assert [entry.tokens for entry in ours] == [entry.tokens for entry in theirs]
    np.testing.assert_allclose([e.score for e in ours], [e.score for e in theirs], rtol=1e-5)


def test_a_list_of_words_wants_keys_and_tokens_take_none():
    decoder, how = TableDecoder([1], VOCABULARY, EOS), BeamSearchSettings(2)
    with pytest.raises(SettingsError, match="keys for 2 of 1"):
        run(decoder, 1, how, 3, [Pieces()] * 2)
    words = BeamSearchSettings(2, distinct="words")
    with pytest.raises(SettingsError, match="word_beam_search"):
        beam_search(
            decoder, [PROMPT], words, TokenRules(VOCABULARY), eos_token_id=EOS, max_length=len(PROMPT) + 3
        )
    with pytest.raises(SettingsError, match="'tokens' or 'words'"):
        BeamSearchSettings(distinct="letters")


def test_nan_is_the_bundles_fault():
    class Broken(TableDecoder):
        def log_probs(self, seed, sequence):
            return np.full(VOCABULARY, np.nan, np.float32)

    with pytest.raises(BundleError, match="nan"):
        run(Broken([1], VOCABULARY, EOS), 1, BeamSearchSettings(2), 3)


# -- keys --------------------------------------------------------------------------------------------------

TEXTS = [
    "Americans, ask!",
    "AMERICANS ask",
    "Straße und strasse",
    "IŞIK ılık İzmir",
    "co-operate, don't",
    "हिन्दी में",
    "日本語を話す。",
    "한국어",
    "naïve café",
    "🙂 smile 🙂🙂",
    "x²+½",
]


@pytest.mark.parametrize("language", [None, "tr"])
@pytest.mark.parametrize("text", TEXTS)
def test_letters_of_pieces_are_those_of_the_whole(text, language):
    for cut in range(len(text) + 1):
        assert letters(text[:cut], language) + letters(text[cut:], language) == letters(text, language)


@given(st.text(max_size=12), st.sampled_from([None, "tr"]))
def test_texts_of_the_same_words_have_the_same_letters(text, language):
    assert letters(word_text(text, language), language).startswith(
        letters(word_text(text, language), language)
    )
    assert letters(text.swapcase().swapcase(), language) == letters(text.swapcase().swapcase(), language)


@pytest.mark.parametrize(
    ("one", "other", "language", "equal"),
    [
        ("Americans, ask", "americans ask", None, True),
        ("ice-cream", "ice cream", None, True),
        ("Straße", "STRASSE", "de", True),
        ("IŞIK", "ışık", "tr", True),
        ("IŞIK", "işik", "tr", False),
        ("İzmir", "izmir", "tr", True),
        ("Film", "film", None, True),
        ("a bear", "a pear", None, False),
        ("schon", "schön", None, False),
    ],
)
def test_what_says_the_same(one, other, language, equal):
    assert (letters(one, language) == letters(other, language)) is equal


def test_lower_case_follows_the_language():
    assert lower("IŞIK İZMİR", "tr") == "ışık izmir"
    assert lower("Ice", None) == "ice"
    assert lower("STRASSE Straße", "de") == "strasse straße"


def test_keys_of_a_real_tokenizer_are_those_of_its_texts(pocket_asr):
    tokens = pocket_asr.whisper.tokens
    keys = tokens.word_keys()
    random = np.random.default_rng(3)
    for _ in range(200):
        sequence = random.integers(0, tokens.eos_token_id, size=int(random.integers(1, 9))).tolist()
        key = WordKey()
        for token in sequence:
            key = keys.extend(key, token)
        whole = tokens.decode(sequence)
        if "\N{REPLACEMENT CHARACTER}" not in whole and not key.rest:
            assert key.said == letters(whole)
    assert keys.extend(WordKey("a"), tokens.eos_token_id) == WordKey("a")


def test_a_character_in_two_tokens_counts_when_it_is_whole(pocket_asr):
    tokenizer = pocket_asr.whisper.tokens
    keys = tokenizer.word_keys()
    parts = [
        token
        for token in range(tokenizer.eos_token_id)
        if keys._read(token)[0] in ("é".encode()[:1], "é".encode()[1:])
    ]
    if len(parts) < 2:
        pytest.skip("the vocabulary has no single bytes")
    first, second = sorted(parts, key=lambda token: keys._read(token)[0], reverse=True)
    half = keys.extend(WordKey(), first)
    assert half == WordKey("", "é".encode()[:1])
    assert keys.extend(half, second) == WordKey(letters("é"))


def test_words_that_fine_tuning_added_count(tmp_path):
    """They stand behind the timestamps, spelt plainly: "Ł" stands for no byte, "ó" for one of its own."""
    folder = Path(shutil.copytree(POCKET / "models" / "whisper", tmp_path / "whisper"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first = tokenizer.get_vocab_size()
    tokenizer.add_tokens([" Kraków", " Łódź"])
    tokenizer.add_special_tokens(["<|speaker|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": first + 5}))
    tokens = WhisperTokens.from_folder(folder)
    keys = tokens.word_keys()
    assert keys.extend(WordKey("to"), first) == WordKey("to" + letters("Kraków"))
    assert keys.extend(WordKey("to"), first + 1) == WordKey("to" + letters("Łódź"))
    silent = (first + 2, first + 4, tokens.eos_token_id, tokens.start_token_id, tokens.timestamp_begin)
    assert {keys.extend(WordKey("to"), token) for token in silent} == {WordKey("to")}


# -- the product -------------------------------------------------------------------------------------------


def test_lists_of_the_product_differ_in_words(pocket_bundle):
    asr = MultimodalASR(pocket_bundle, precision="fp32", providers="cpu", threads=1, distinct="words")
    files = sorted((POCKET / "data" / "test" / "audio").iterdir())[:6]
    lists = asr.generate_nbest_batch([load_audio(file) for file in files])
    for file, found in zip(files, lists, strict=True):
        words = [word_text(hypothesis.text).replace(" ", "") for hypothesis in found]
        assert len(words) == len(set(words)) == 5
        assert all(lower(hypothesis.display) == hypothesis.text for hypothesis in found)
        assert [h.text for h in asr.generate_nbest(file)] == [h.text for h in found]


def test_pairs_of_pieces_are_all_tried():
    """The vocabulary of these tests has what the search is about: spellings of the same letters."""
    spelled = {}
    for pair in itertools.product(range(EOS), repeat=2):
        spelled.setdefault(said(pair), []).append(pair)
    assert max(map(len, spelled.values())) > 3


class Looping(TableDecoder):
    """Says "a" in several spellings and ends; or says "b" again and again, and is the surer the longer."""

    def log_probs(self, seed, sequence):
        said_b = sum(token == PIECES.index("b") for token in sequence[len(PROMPT) :])
        row = np.full(VOCABULARY, -20.0)
        if len(sequence) == len(PROMPT):
            row[[PIECES.index("a"), PIECES.index("b")]] = -0.2, -6.0
        elif said_b:
            row[[PIECES.index("b"), EOS]] = -0.001, -7.0
        else:
            row[[EOS, PIECES.index(","), PIECES.index(".")]] = -0.3, -1.5, -2.0
        return row.astype(np.float32)


@pytest.mark.parametrize("beams", [2, 3, 5])
def test_a_loop_does_not_lead_the_list(beams):
    (found,) = run(Looping([1], VOCABULARY, EOS), 1, BeamSearchSettings(beams), 60)
    assert said(found[0].tokens) == "a"
    assert max(len(entry.tokens) for entry in found) < 20
