"""Whisper in CTranslate2's format: the folder that faster-whisper loads.

`model.bin` holds the weights under names of CTranslate2, with query, key and value stacked; `config.json` the
lists of suppressed tokens. Dimensions follow from the weights' shapes, all other settings from the tokenizer.
"""

import json
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from export.sources.ctranslate2_file import MEND, read_model_file
from export.sources.ctranslate2_weights import Weights
from export.sources.source import Source
from export.sources.whisper_features import require_fitting_features
from export.sources.whisper_generation import complete_generation
from export.sources.whisper_tokenizer import read_tokenizer
from export.sources.whisper_vocabulary import WhisperVocabulary
from runtime.bundle.json_files import read_json_object
from runtime.errors import BundleError, CheckpointError

SPEC: Final = "WhisperSpec"
REVISION: Final = 3
FRAMES_PER_SECOND: Final = 100  # of the log-mel features; the encoder halves them


def is_ctranslate2(source: Source) -> bool:
    """Tell a folder of CTranslate2 from one of transformers, whose `config.json` names a model type."""
    folder = Path(source.name)
    if not source.is_folder or not (folder / "model.bin").is_file():
        return False
    try:
        return "model_type" not in read_json_object(folder / "config.json")
    except BundleError:
        return True


def load_model(source: Source) -> WhisperForConditionalGeneration:
    """Load the weights in float32, exactly as stored, and the settings that go with them.

    Raises:
        CheckpointError: The folder is incomplete, damaged, or holds no Whisper.
    """
    folder = Path(source.name)
    settings = _settings(folder)
    file = read_model_file(folder / "model.bin", SPEC)
    if file.revision != REVISION:
        raise CheckpointError(
            f"{file.path} is of revision {file.revision} of {SPEC}; expected {REVISION}: convert the "
            "checkpoint again with ctranslate2 4"
        )
    weights = Weights(file)
    config = weights.config()
    state = weights.state(config)
    vocabulary = WhisperVocabulary(read_tokenizer(folder, config.vocab_size), config.vocab_size, source.name)
    path = folder / "config.json"
    vocabulary.require_languages(_ids(settings, "lang_ids", path, config.vocab_size), str(path))
    vocabulary.complete_config(config)
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    model.load_state_dict(state, assign=True, strict=False)  # `state` is complete; proj_out is tied
    model.tie_weights()
    model.generation_config = _generation(settings, path, config)
    complete_generation(source.name, model.generation_config, config, vocabulary)
    return model


def load_feature_extractor(source: Source, config: WhisperConfig) -> WhisperFeatureExtractor:
    """Return the settings of the features: those in the folder, else those that follow from the weights.

    Raises:
        CheckpointError: The folder's settings cannot be read, or do not fit the weights.
    """
    folder = Path(source.name)
    seconds, odd = divmod(2 * config.max_source_positions, FRAMES_PER_SECOND)
    if not (folder / "preprocessor_config.json").is_file():
        if odd:
            raise CheckpointError(
                f"{source.name}: the encoder has {config.max_source_positions} positions, which are no whole "
                "seconds; add the checkpoint's preprocessor_config.json to the folder"
            )
        return WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)
    mend = "remove it, and the settings are taken from the weights"
    path = folder / "preprocessor_config.json"
    try:
        extractor = WhisperFeatureExtractor.from_pretrained(source.name)
    except Exception as error:  # transformers raises whatever the settings lead to
        raise CheckpointError(f"{path} cannot be read: {error}; {mend}") from error
    require_fitting_features(path, extractor, config, mend)
    return extractor


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return read_json_object(folder / "config.json")
    except BundleError as error:
        raise CheckpointError(
            f"{folder / 'config.json'} is missing or no JSON object; expected the one that CTranslate2 wrote "
            f"beside model.bin: {MEND}"
        ) from error


def _generation(settings: dict[str, Any], path: Path, config: WhisperConfig) -> GenerationConfig:
    """Return what `config.json` states; the tokenizer completes it."""
    stated: dict[str, Any] = {
        "max_length": config.max_target_positions,
        "suppress_tokens": _ids(settings, "suppress_ids", path, config.vocab_size),
        "begin_suppress_tokens": _ids(settings, "suppress_ids_begin", path, config.vocab_size),
    }
    if heads := _alignment_heads(settings.get("alignment_heads"), config):
        stated["alignment_heads"] = heads
    return GenerationConfig(**stated)


def _ids(settings: dict[str, Any], key: str, path: Path, vocab_size: int) -> list[int]:
    values = settings.get(key)
    values = [] if values is None else values
    fits = isinstance(values, list) and all(
        isinstance(i, int) and not isinstance(i, bool) and -1 <= i < vocab_size for i in values
    )
    if not fits:
        raise CheckpointError(
            f"{path}: {key} is {json.dumps(values)[:80]}; expected a list of token ids from 0 to "
            f"{vocab_size - 1}, as ct2-transformers-converter writes it"
        )
    return [i for i in values if i >= 0]  # transformers takes -1, too, for no token


def _alignment_heads(stated: Any, config: WhisperConfig) -> list[list[int]] | None:
    """Return pairs of layer and head; None where they are of another model, such as a teacher."""
    limits = (config.decoder_layers, config.decoder_attention_heads)
    fits = isinstance(stated, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(i, int) and 0 <= i < limit for i, limit in zip(pair, limits, strict=True))
        for pair in stated
    )
    return [list(pair) for pair in stated] if fits else None
