"""The pocket Whisper's own vocabulary: byte-level BPE and the special tokens of an English-only Whisper."""

import json
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from bench.pocket.pool import WINDOW_SECONDS

END: Final = "<|endoftext|>"
START: Final = "<|startoftranscript|>"
NO_SPEECH: Final = "<|nospeech|>"
NO_TIMESTAMPS: Final = "<|notimestamps|>"
# In the order of Whisper's English-only vocabularies.
SPECIALS: Final = (START, "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>",
                   NO_SPEECH, NO_TIMESTAMPS)  # fmt: skip
TIMESTAMP_STEP: Final = 0.02  # seconds, one encoder position
LONGEST_TOKEN: Final = 4  # letters: names are spelt in pieces, so that their sound-alikes are a piece away
MAX_TOKENS: Final = 64  # decoder positions


def timestamp(seconds: float) -> str:
    """The timestamp token nearest to `seconds`."""
    return f"<|{round(seconds / TIMESTAMP_STEP) * TIMESTAMP_STEP:.2f}|>"


def make_whisper_tokenizer(texts: list[str], merges: int, folder: Path) -> Any:
    """Learn a vocabulary and write it as Whisper does.

    Args:
        texts: training captions.
        merges: how many pairs are merged.
        folder: receives vocab.json and merges.txt.

    Returns:
        A `WhisperTokenizerFast` whose text tokens come first, then <|endoftext|>, the special tokens and the
        timestamps from 0 s to the end of the window.
    """
    from transformers import WhisperTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + merges, initial_alphabet=alphabet, max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([f" {text}" for text in texts], trainer)
    learned = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in learned]
    tokens = list(dict.fromkeys([*alphabet, *(pair.replace(" ", "") for pair in pairs), END]))
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")
    fast = WhisperTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), bos_token=END, eos_token=END, unk_token=END,
        pad_token=END, model_max_length=MAX_TOKENS,
    )  # fmt: skip
    fast.add_special_tokens({"additional_special_tokens": [AddedToken(t, special=True) for t in SPECIALS]})
    stamps = [timestamp(i * TIMESTAMP_STEP) for i in range(round(WINDOW_SECONDS / TIMESTAMP_STEP) + 1)]
    fast.add_tokens([AddedToken(stamp, special=False, normalized=False) for stamp in stamps])
    fast.set_prefix_tokens(predict_timestamps=False)
    return fast
