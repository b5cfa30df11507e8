"""Loading checkpoints: a hub id or a folder, through `from_pretrained`."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    CLIPModel,
    CLIPTokenizerFast,
    PreTrainedModel,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from export.clip_graphs import LEGACY_EOS_TOKEN_ID
from runtime.bundle import sha256_of
from runtime.errors import CheckpointError

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a checkpoint comes from.

    Attributes:
        name: Hub id or folder, as given.
        revision: Branch, tag or commit of a hub id; None for the default.
    """

    name: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a local folder rather than a hub id."""
        return Path(self.name).is_dir()

    def fingerprint(self) -> str:
        """Return what identifies the content: a hash over a folder's files, or id and revision."""
        if not self.is_folder:
            return f"{self.name}@{self.revision or 'main'}"
        digest = hashlib.sha256()
        for path in sorted(p for p in Path(self.name).iterdir() if p.is_file()):
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
        return f"sha256:{digest.hexdigest()}"


def load_whisper(source: Source) -> WhisperForConditionalGeneration:
    """Load a Whisper checkpoint in float32.

    Raises:
        CheckpointError: It cannot be found or read, or is no Whisper.
    """
    _require_type(source, "whisper")
    model = _load(
        source, "Whisper checkpoint", WhisperForConditionalGeneration.from_pretrained, dtype=torch.float32
    )
    config = model.config
    if config.d_model % config.decoder_attention_heads or config.d_model % config.encoder_attention_heads:
        raise CheckpointError(
            f"{source.name}: width {config.d_model} cannot be divided among "
            f"{config.encoder_attention_heads} encoder and {config.decoder_attention_heads} decoder heads"
        )
    return model.eval()


def load_clip(source: Source) -> CLIPModel:
    """Load a CLIP checkpoint in float32.

    Raises:
        CheckpointError: It cannot be found or read, or is no CLIP.
    """
    _require_type(source, "clip")
    return _load(source, "CLIP checkpoint", CLIPModel.from_pretrained, dtype=torch.float32).eval()


def save_whisper_settings(source: Source, model: PreTrainedModel, folder: Path) -> None:
    """Write everything but weights that the runtime needs of a Whisper into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    _load(source, "feature extractor", WhisperFeatureExtractor.from_pretrained).save_pretrained(folder)
    tokenizer = _load(source, "tokenizer", WhisperTokenizerFast.from_pretrained)
    _save_tokenizer(tokenizer, folder)
    clean_up = {"clean_up_tokenization_spaces": bool(tokenizer.clean_up_tokenization_spaces)}
    (folder / "tokenizer_config.json").write_text(json.dumps(clean_up), encoding="utf-8")


def save_clip_settings(source: Source, model: PreTrainedModel, folder: Path) -> None:
    """Write everything but weights that the runtime needs of a CLIP into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    # The slow processor is the reference of the runtime's own: the fast one needs torchvision.
    _load(source, "image processor", AutoImageProcessor.from_pretrained, use_fast=False).save_pretrained(
        folder
    )
    tokenizer = _load(source, "tokenizer", CLIPTokenizerFast.from_pretrained)
    end = model.config.text_config.eos_token_id
    if end not in (LEGACY_EOS_TOKEN_ID, tokenizer.eos_token_id):
        raise CheckpointError(
            f"{source.name}: the model pools texts at token {end}, its tokenizer ends them with "
            f"{tokenizer.eos_token_id}; expected the same id"
        )
    _save_tokenizer(tokenizer, folder)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    # Not its own `save`, whose faults (a full disk) are bare exceptions.
    (folder / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(pretty=True), encoding="utf-8")


def _require_type(source: Source, model_type: str) -> None:
    # Without the file, transformers would guess the type from the folder's name.
    if source.is_folder and not (Path(source.name) / "config.json").is_file():
        raise CheckpointError(
            f"{source.name}: no config.json in this folder; expected one written by save_pretrained"
        )
    config = _load(source, "configuration", AutoConfig.from_pretrained)
    if config.model_type != model_type:
        raise CheckpointError(
            f"{source.name} is a checkpoint of type {config.model_type!r}; expected {model_type!r}"
        )


def _load(source: Source, what: str, load: Callable[..., Loaded], **options: Any) -> Loaded:
    path = Path(source.name)
    looks_like_path = path.is_absolute() or source.name.startswith(".") or len(path.parts) > 2
    if looks_like_path and not path.is_dir():
        raise CheckpointError(f"{source.name}: no such folder; expected a checkpoint folder or a hub id")
    try:
        return load(source.name, revision=source.revision, **options)
    except (
        Exception
    ) as error:  # transformers, safetensors and the hub raise dozens of kinds, bare ones included
        logger.debug("loading failed", exc_info=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{source.name}: the {what} cannot be loaded: {reason} "
            "(expected a hub id that can be reached, or a folder written by save_pretrained)"
        ) from error
