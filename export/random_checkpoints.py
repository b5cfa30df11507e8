"""Random-weight checkpoints of the published architectures, for measuring and testing without a download.

Dimensions are those of the public configurations of OpenAI's Whisper and CLIP and of distil-whisper. The
tokenizers have the real sizes and the real special tokens at the real ids; their words are made up.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from runtime.errors import SettingsError

Dimensions = TypeVar("Dimensions")

TIMESTAMPS: Final = 1501  # <|0.00|> to <|30.00|> by 0.02 s


@dataclass(frozen=True, slots=True)
class WhisperDimensions:
    """Shape of a Whisper architecture.

    Attributes:
        width: Model dimension; a head has 64.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        mels: Mel bands.
        languages: Language tokens.
        english: Whether it is an English-only (.en) checkpoint.
    """

    width: int
    encoder_layers: int
    decoder_layers: int
    mels: int = 80
    languages: int = 99
    english: bool = False

    @property
    def words(self) -> int:
        """Size of the vocabulary before its special tokens."""
        return 50256 if self.english else 50257

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary: words, special tokens, timestamps."""
        return self.words + 2 + self.languages + 6 + TIMESTAMPS


_SIZES: Final = {"tiny": (384, 4), "base": (512, 6), "small": (768, 12), "medium": (1024, 24)}
WHISPER: Final[Mapping[str, WhisperDimensions]] = MappingProxyType(
    {
        **{f"whisper-{name}": WhisperDimensions(w, n, n) for name, (w, n) in _SIZES.items()},
        **{f"whisper-{name}.en": WhisperDimensions(w, n, n, english=True) for name, (w, n) in _SIZES.items()},
        "whisper-large-v2": WhisperDimensions(1280, 32, 32),
        "whisper-large-v3": WhisperDimensions(1280, 32, 32, mels=128, languages=100),
        "whisper-large-v3-turbo": WhisperDimensions(1280, 32, 4, mels=128, languages=100),
        "distil-large-v3": WhisperDimensions(1280, 32, 2, mels=128, languages=100),
        "distil-small.en": WhisperDimensions(768, 12, 4, english=True),
    }
)

# text width, text layers, vision width, vision layers, patch size, projection
CLIP: Final[Mapping[str, tuple[int, int, int, int, int, int]]] = MappingProxyType(
    {
        "clip-vit-base-patch32": (512, 12, 768, 12, 32, 512),
        "clip-vit-base-patch16": (512, 12, 768, 12, 16, 512),
        "clip-vit-large-patch14": (768, 12, 1024, 24, 14, 768),
    }
)


def whisper_config(dimensions: WhisperDimensions, **tokens: int) -> WhisperConfig:
    """Return the configuration of an architecture, with these special tokens."""
    return WhisperConfig(
        vocab_size=dimensions.vocab_size,
        num_mel_bins=dimensions.mels,
        d_model=dimensions.width,
        encoder_layers=dimensions.encoder_layers,
        decoder_layers=dimensions.decoder_layers,
        encoder_attention_heads=dimensions.width // 64,
        decoder_attention_heads=dimensions.width // 64,
        encoder_ffn_dim=4 * dimensions.width,
        decoder_ffn_dim=4 * dimensions.width,
        **tokens,
    )


def make_whisper_checkpoint(architecture: str, folder: Path, seed: int = 0) -> None:
    """Write a random-weight Whisper checkpoint in Hugging Face format.

    Raises:
        SettingsError: The architecture is unknown.
    """
    dimensions = _known(WHISPER, architecture)
    folder.mkdir(parents=True, exist_ok=True)
    special = _special_ids(dimensions)
    eos, start = special["<|endoftext|>"], special["<|startoftranscript|>"]
    config = whisper_config(
        dimensions, pad_token_id=eos, bos_token_id=eos, eos_token_id=eos, decoder_start_token_id=start
    )
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    _disturb_vectors(model)
    languages = {name: i for name, i in special.items() if name[2:-2] in LANGUAGES}
    multilingual: dict[str, Any] = {
        "lang_to_id": languages,
        "task_to_id": {task: special[f"<|{task}|>"] for task in ("transcribe", "translate")},
    }
    model.generation_config = GenerationConfig(
        max_length=448,
        pad_token_id=eos,
        bos_token_id=eos,
        eos_token_id=eos,
        decoder_start_token_id=start,
        no_timestamps_token_id=special["<|notimestamps|>"],
        max_initial_timestamp_index=50,
        suppress_tokens=[special["<|startoflm|>"], special["<|startofprev|>"], special["<|nospeech|>"]],
        begin_suppress_tokens=[220, eos],
        is_multilingual=not dimensions.english,
        **({} if dimensions.english else multilingual),
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=dimensions.mels).save_pretrained(folder)
    _byte_level_tokenizer(dimensions.words, list(special)).save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "WhisperTokenizer"})


def make_clip_checkpoint(architecture: str, folder: Path, seed: int = 0) -> None:
    """Write a random-weight CLIP checkpoint in Hugging Face format.

    Raises:
        SettingsError: The architecture is unknown.
    """
    text_width, text_layers, vision_width, vision_layers, patch, projection = _known(CLIP, architecture)
    folder.mkdir(parents=True, exist_ok=True)
    words = 49406
    start, end = words, words + 1
    config = CLIPConfig(
        text_config={
            "vocab_size": words + 2,
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": text_layers,
            "num_attention_heads": text_width // 64,
            "projection_dim": projection,
            "bos_token_id": start,
            "eos_token_id": end,
            "pad_token_id": end,
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": 4 * vision_width,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": vision_width // 64,
            "patch_size": patch,
            "projection_dim": projection,
        },
        projection_dim=projection,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    _disturb_vectors(model)
    model.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    _clip_tokenizer(words).save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"})


def _disturb_vectors(model: torch.nn.Module) -> None:
    """Give biases and norms values of their own.

    Fresh ones are zeros and ones, all alike: the exporter would merge them into one, which no trained
    checkpoint allows, and a graph that lost one would go unnoticed.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)


def _known(table: Mapping[str, Dimensions], architecture: str) -> Dimensions:
    if architecture not in table:
        raise SettingsError(f"unknown architecture {architecture!r}; expected one of {', '.join(table)}")
    return table[architecture]


def _special_ids(dimensions: WhisperDimensions) -> dict[str, int]:
    names = ["<|endoftext|>", "<|startoftranscript|>"]
    names += [f"<|{code}|>" for code in list(LANGUAGES)[: dimensions.languages]]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    names += ["<|nospeech|>", "<|notimestamps|>", *(f"<|{i * 0.02:.2f}|>" for i in range(TIMESTAMPS))]
    return {name: dimensions.words + i for i, name in enumerate(names)}


def _byte_level_tokenizer(words: int, special: list[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer without merges: 256 bytes, made-up words, special tokens."""

    def spellings() -> Iterator[str]:
        yield from sorted(pre_tokenizers.ByteLevel.alphabet())
        yield from (f"Ġw{i}" for i in range(words - 256))

    vocabulary = {spelling: i for i, spelling in enumerate(spellings())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    timestamps = [name for name in special if name[2:3].isdigit()]
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True) for name in special if name not in timestamps]
    )
    tokenizer.add_tokens([AddedToken(name, special=False) for name in timestamps])
    return tokenizer


def _clip_tokenizer(words: int) -> Tokenizer:
    """Return a tokenizer in the form that `CLIPTokenizerFast` takes, every word spelt byte by byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spellings = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    spellings += [f"w{i}</w>" for i in range(words - len(spellings))]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={spelling: i for i, spelling in enumerate(spellings)}, merges=[], end_of_word_suffix="</w>"
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pieces = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer.add_special_tokens([AddedToken(start, special=True), AddedToken(end, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=(end, words + 1), cls=(start, words), trim_offsets=False, add_prefix_space=False
    )
    return tokenizer


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
