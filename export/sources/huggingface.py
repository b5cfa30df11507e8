"""Checkpoints in Hugging Face's format: a hub id or a folder, through `from_pretrained`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    CLIPModel,
    CLIPTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from export.sources.folder_check import (
    FEATURES,
    SAVE,
    require_no_adapter,
    require_readable_tokenizer,
    require_whisper_files,
)
from export.sources.source import Source
from export.sources.weight_check import OUTPUT, require_finite, require_fitting_names, tie_output
from export.sources.whisper_features import require_fitting_features
from export.sources.whisper_generation import complete_generation
from export.sources.whisper_tokenizer import reason
from export.sources.whisper_vocabulary import WhisperVocabulary
from runtime.bundle.json_files import read_json_object
from runtime.errors import BundleError, CheckpointError

GENERATION: Final = "generation_config.json"
logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")


def load_whisper(source: Source) -> WhisperForConditionalGeneration:
    """Load a Whisper checkpoint in float32, its generation settings completed.

    Raises:
        CheckpointError: It cannot be found or read, is no Whisper, or is damaged.
    """
    config = _require_type(source, "whisper")
    require_whisper_files(source)
    _require_readable_generation(source)
    tokenizer, _ = load_whisper_tokenizer(source)
    tied = bool(config.tie_word_embeddings)
    config.tie_word_embeddings = False  # tied, an output layer in the file would be passed over silently
    kind = WhisperForConditionalGeneration
    model, has_output = _load_model(source, "Whisper checkpoint", kind, output_is_tied=tied, config=config)
    if tied:
        tie_output(source.name, model, has_output)
    config = model.config
    if config.d_model % config.decoder_attention_heads or config.d_model % config.encoder_attention_heads:
        raise CheckpointError(
            f"{source.name}: width {config.d_model} cannot be divided among "
            f"{config.encoder_attention_heads} encoder and {config.decoder_attention_heads} decoder heads"
        )
    vocabulary = WhisperVocabulary(tokenizer, config.vocab_size, source.name)
    complete_generation(source.name, model.generation_config, config, vocabulary)
    return model


def load_whisper_features(source: Source, config: WhisperConfig) -> WhisperFeatureExtractor:
    """Load the settings of Whisper's features.

    Args:
        source: The checkpoint.
        config: Of its model.

    Raises:
        CheckpointError: They cannot be read, or are of another model.
    """
    extractor = _load(source, "feature extractor", WhisperFeatureExtractor.from_pretrained)
    require_fitting_features(
        f"{source.name}: {FEATURES[0]}", extractor, config, f"save the processor: {SAVE}"
    )
    return extractor


def load_whisper_tokenizer(source: Source) -> tuple[Tokenizer, bool]:
    """Load Whisper's tokenizer, and whether it cleans up spaces when it decodes.

    Raises:
        CheckpointError: It cannot be read.
    """
    require_readable_tokenizer(source)
    tokenizer = _load(source, "tokenizer", WhisperTokenizerFast.from_pretrained)
    return tokenizer.backend_tokenizer, bool(tokenizer.clean_up_tokenization_spaces)


def load_clip(source: Source) -> CLIPModel:
    """Load a CLIP checkpoint in float32.

    Raises:
        CheckpointError: It cannot be found or read, or is no CLIP.
    """
    _require_type(source, "clip")
    model, _ = _load_model(source, "CLIP checkpoint", CLIPModel)
    return model


def load_clip_processor(source: Source) -> Any:
    """Load the settings of CLIP's pictures.

    Raises:
        CheckpointError: They cannot be read.
    """
    # The slow processor is the reference of the runtime's own: the fast one needs torchvision.
    return _load(source, "image processor", AutoImageProcessor.from_pretrained, use_fast=False)


def load_clip_tokenizer(source: Source) -> CLIPTokenizerFast:
    """Load CLIP's tokenizer.

    Raises:
        CheckpointError: It cannot be read.
    """
    require_readable_tokenizer(source)
    return _load(source, "tokenizer", CLIPTokenizerFast.from_pretrained)


def _require_readable_generation(source: Source) -> None:
    """Refuse damaged generation settings, which transformers takes for absent ones.

    Raises:
        CheckpointError: The file is there and no JSON object.
    """
    missing_is_fine = dict.fromkeys(
        ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
    )
    path = _load(source, GENERATION, cached_file, filename=GENERATION, **missing_is_fine)
    if path is None:
        return
    try:
        read_json_object(Path(path))
    except BundleError as error:
        raise CheckpointError(
            f"{source.name}: {GENERATION} cannot be read: {reason(error)}; copy it again from the checkpoint "
            "that training began with, or remove it, and its settings follow from the tokenizer"
        ) from error


def _load_model(
    source: Source, what: str, model: Any, output_is_tied: bool = False, **options: Any
) -> tuple[Any, bool]:
    """Load weights in float32 that all have a place in the model, and a place each.

    Args:
        source: Where from.
        what: Of the checkpoint, for messages.
        model: Class of the model.
        output_is_tied: Whether the output layer may be left out.
        **options: Of `from_pretrained`.

    Returns:
        The model, and whether it has an output layer from the file.
    """
    with _no_warnings():
        loaded, info = _load(
            source,
            what,
            model.from_pretrained,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **options,
        )
    require_fitting_names(source.name, loaded, info, output_is_tied)
    require_finite(source.name, loaded)
    return loaded, OUTPUT not in info["missing_keys"]


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Leave out what transformers says about weights that do not fit: they are refused by name."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _require_type(source: Source, model_type: str) -> Any:
    """Return the configuration, which is of this type."""
    require_no_adapter(source)
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
    return config


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
        expected = "a hub id that can be reached, or a folder written by save_pretrained"
        if "model_type" in reason:  # a config.json that is not of transformers
            expected += (
                "; a checkpoint of CTranslate2 is read from a folder that holds model.bin: download it"
            )
        raise CheckpointError(
            f"{source.name}: the {what} cannot be loaded: {reason} (expected {expected})"
        ) from error
