"""The pocket CLIP's own vocabulary: byte-level BPE with CLIP's conventions, learned from captions."""

import json
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

MAX_TOKENS: Final = 32
_WORD_END: Final = "</w>"
# CLIP's own way to cut a text into words.
_PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _learn_merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=512 + count, end_of_word_suffix=_WORD_END, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges][:count]


def make_clip_tokenizer(texts: list[str], merges: int, folder: Path) -> Any:
    """Learn a vocabulary and write it as CLIP does.

    The order is CLIP's: 256 bytes, the same at the end of a word, the merges, then <|startoftext|> and
    <|endoftext|>, which therefore has the highest id and is also the padding.

    Args:
        texts: training captions.
        merges: how many pairs are merged.
        folder: receives vocab.json and merges.txt.

    Returns:
        A `CLIPTokenizerFast`.
    """
    from transformers import CLIPTokenizerFast

    learned = _learn_merges(texts, merges)
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*bytes_, *(f"{b}{_WORD_END}" for b in bytes_), *("".join(m) for m in learned)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in learned)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    )
