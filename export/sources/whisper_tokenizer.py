"""Tokenizers of converted Whisper folders, brought to the state of the published ones."""

import json
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer

from runtime.bundle.tokenizer_files import load_tokenizer
from runtime.errors import BundleError, CheckpointError

FILE: Final = "tokenizer.json"
BYTES: Final = 256  # ids of single bytes; the merges' follow in the merges' order
TIMESTAMP_STEP: Final = 0.02  # seconds


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """Read `tokenizer.json` of a converted folder.

    Conversions of 2022 and 2023 carry an early tokenizer, which is completed: it lacked its first merge and
    the timestamps that the embedding has rows for.

    Raises:
        CheckpointError: It is missing, unreadable, or knows more tokens than the model has.
    """
    path = folder / FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {FILE} (a vocabulary alone cannot join tokens to words); copy the one of "
            "the original checkpoint into it, or convert again with `ct2-transformers-converter --copy_files "
            f"{FILE} preprocessor_config.json`"
        )
    try:
        tokenizer = _with_first_merge(load_tokenizer(path))
    except BundleError as error:
        raise CheckpointError(
            f"{path} cannot be read as a tokenizer: {reason(error)}; copy the one of the original checkpoint"
        ) from error
    _add_timestamps(tokenizer, vocab_size)
    known = tokenizer.get_vocab_size(with_added_tokens=True)
    if known > vocab_size:
        raise CheckpointError(
            f"{path} knows {known} tokens, but the embedding has {vocab_size} rows; expected the one of "
            "this very checkpoint"
        )
    return tokenizer


def reason(error: BaseException) -> str:
    """Return the cause of an error in one line."""
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


def _with_first_merge(tokenizer: Tokenizer) -> Tokenizer:
    """Restore the first merge, which early conversions took for the header of `merges.txt`.

    Without it no text with " t" in it is split as in training. It is known to be lost where every merge makes
    the token that its successor should make.
    """
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    if model.get("type") != "BPE" or not model["merges"]:
        return tokenizer
    spelling = {i: text for text, i in model["vocab"].items()}
    first = spelling.get(BYTES, "")
    made = ["".join(merge) for merge in model["merges"]]
    lost = len(first) == 2 and all(spelling.get(BYTES + 1 + i) == text for i, text in enumerate(made))
    if not lost:
        return tokenizer
    model["merges"].insert(0, list(first))
    return Tokenizer.from_str(json.dumps(content, ensure_ascii=False))


def _add_timestamps(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Name the rows after `<|notimestamps|>`, as the published tokenizers do, where none has a name."""
    last = tokenizer.token_to_id("<|notimestamps|>")
    if last is None or last + 1 != tokenizer.get_vocab_size(with_added_tokens=True):
        return
    names = [f"<|{i * TIMESTAMP_STEP:.2f}|>" for i in range(vocab_size - last - 1)]
    tokenizer.add_tokens([AddedToken(name, normalized=True, special=False) for name in names])
