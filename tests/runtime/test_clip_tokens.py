"""CLIP's tokens against `CLIPTokenizerFast`, on OpenAI's vocabulary and on a small one made here."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from runtime.clip.tokens import ClipTokens, unique_texts
from runtime.errors import BundleError, BundleNotFoundError, SettingsError
from tests.conftest import ROOT

REAL = ROOT.parent / "shared" / "data" / "tokenizers" / "clip"
CONTEXT = 16
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = [
    "a dog",
    "two bears",
    "",
    "  ",
    "\n\t",
    "naïve",
    "你好",
    "🐻",
    "don't",
    "x" * 40,
    "٣",
    START,
    END,
    "ÄÖ",
    "\u00a0",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle's clip folder with a byte-level vocabulary of 400 tokens in CLIP's form."""
    place = tmp_path_factory.mktemp("clip")
    tokenizer = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[START, END],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a dog and two bears sit on a red box"] * 5, trainer)
    tokenizer.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.RobertaProcessing((END, end), (START, start), False, False)
    tokenizer.save(str(place / "tokenizer.json"))
    (place / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": CONTEXT}}))
    return place


def reference(folder: Path, length: int):
    from transformers import CLIPTokenizerFast

    return CLIPTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), model_max_length=length)


def random_texts(count: int) -> list[str]:
    source = random.Random(0)
    return [" ".join(source.choice(WORDS) for _ in range(source.randrange(0, 40))) for _ in range(count)]


def assert_equals_transformers(folder: Path, length: int):
    original, tokens = reference(folder, length), ClipTokens.from_folder(folder)
    assert (tokens.start_id, tokens.end_id) == (original.bos_token_id, original.eos_token_id)
    assert (tokens.pad_id, tokens.context_length) == (original.pad_token_id, length)
    texts = random_texts(200)
    encoded = tokens.encode(texts)
    assert encoded == original(texts, truncation=True)["input_ids"]
    assert max(map(len, encoded)) == length
    assert all(ids[0] == tokens.start_id and ids[-1] == tokens.end_id for ids in encoded)
    for batch in tokens.batches(texts, 7):
        expected = original(
            [texts[i] for i in batch.indices], padding=True, truncation=True, return_tensors="np"
        )
        np.testing.assert_array_equal(batch.input_ids, expected["input_ids"])
        np.testing.assert_array_equal(batch.attention_mask, expected["attention_mask"])


def test_equals_transformers(folder):
    assert_equals_transformers(folder, CONTEXT)


@pytest.mark.shared
@pytest.mark.skipif(
    not REAL.exists(), reason="OpenAI's vocabulary lies beside the checkout only on some machines"
)
def test_real_vocabulary_equals_transformers(tmp_path):
    shutil.copy(REAL / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"text_config": {"max_position_embeddings": 77, "eos_token_id": 2}})
    )
    assert_equals_transformers(tmp_path, 77)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=30), max_size=30), size=st.integers(1, 9))
def test_batches_hold_every_text_once(folder, texts, size):
    tokens = ClipTokens.from_folder(folder)
    encoded = tokens.encode(texts)
    seen: list[int] = []
    longest = 0
    for indices, input_ids, mask in tokens.batches(texts, size):
        assert input_ids.dtype == mask.dtype == indices.dtype == np.int64
        assert input_ids.shape == mask.shape
        assert 1 <= len(indices) <= size
        assert mask.sum(axis=1).max() == input_ids.shape[1]  # no column of padding alone
        assert input_ids.shape[1] >= longest  # sorted by length
        longest = input_ids.shape[1]
        for index, row, kept in zip(indices, input_ids, mask.astype(bool), strict=True):
            assert row[kept].tolist() == encoded[index]
            assert (row[~kept] == tokens.pad_id).all()
        seen.extend(indices.tolist())
    assert sorted(seen) == list(range(len(texts)))


@given(st.lists(st.sampled_from("abc"), max_size=20))
def test_duplicates_are_mapped(texts):
    distinct, index_map = unique_texts(texts)
    assert len(set(distinct)) == len(distinct)
    assert [distinct[index] for index in index_map] == texts
    assert index_map.dtype == np.int64


def test_surrogates(folder):
    tokens = ClipTokens.from_folder(folder)
    lone, replaced, pair, joined = tokens.encode(["a \ud800 dog", "a \ufffd dog", "\ud83d\udc3b", "🐻"])
    assert lone == replaced
    assert pair == joined


def test_a_book_is_truncated_quickly(folder):
    tokens = ClipTokens.from_folder(folder)
    (ids,) = tokens.encode(["a dog " * 500_000])
    assert len(ids) == CONTEXT


def test_truncation_and_padding_of_the_file_do_not_count(folder, tmp_path):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(pad_id=5, length=50)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    shutil.copy(folder / "config.json", tmp_path)
    tokens = ClipTokens.from_folder(tmp_path)
    assert tokens.encode(random_texts(20)) == ClipTokens.from_folder(folder).encode(random_texts(20))
    assert tokens.pad_id == 5


@pytest.mark.parametrize("size", [0, -3])
def test_impossible_batch_size(folder, size):
    with pytest.raises(SettingsError, match="batch_size"):
        list(ClipTokens.from_folder(folder).batches(["a"], size))


def test_vocabulary_without_a_token_for_the_unknown(tmp_path):
    tokenizer = Tokenizer(models.BPE({START: 0, END: 1, "a": 2}, [], unk_token="missing"))
    tokenizer.post_processor = processors.RobertaProcessing((END, 1), (START, 0))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="cannot encode"):
        ClipTokens.from_folder(tmp_path).encode(["b"])


def test_texts_that_are_none(folder):
    with pytest.raises(SettingsError, match="NoneType"):
        ClipTokens.from_folder(folder).encode([None])


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_missing_files(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "clip")
    (tmp_path / "clip" / name).unlink()
    with pytest.raises(BundleNotFoundError, match=name):
        ClipTokens.from_folder(tmp_path / "clip")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": 3}', b"\xff", b"[]"])
def test_damaged_tokenizer(folder, tmp_path, content):
    shutil.copytree(folder, tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer.json").write_bytes(content)
    with pytest.raises(BundleError, match="no tokenizer"):
        ClipTokens.from_folder(tmp_path / "clip")


def test_tokenizer_of_another_kind(folder, tmp_path):
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(BundleError, match="0 tokens"):
        ClipTokens.from_folder(tmp_path)


@pytest.mark.parametrize("length", [0, 2, -1, "77", 10**9, 7.7])
def test_impossible_context(folder, tmp_path, length):
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": length}}))
    with pytest.raises(BundleError, match="max_position_embeddings"):
        ClipTokens.from_folder(tmp_path)
