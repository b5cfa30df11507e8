"""Loading checkpoints of any format, and writing the settings that the runtime reads beside the graphs."""

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import CLIPModel, PreTrainedModel, WhisperForConditionalGeneration

from export.modules.clip import LEGACY_EOS_TOKEN_ID
from export.sources import ctranslate2, huggingface
from export.sources.clip_pictures import save_pictures
from export.sources.source import Source
from export.sources.whisper_generation import generation_json
from export.sources.whisper_tokenizer import read_tokenizer
from runtime.errors import BundleError, CheckpointError
from runtime.whisper.log_mel import LogMelExtractor
from runtime.whisper.tokens import WhisperTokens

__all__ = ["Source", "load_clip", "load_whisper", "save_clip_settings", "save_whisper_settings"]


def load_whisper(source: Source) -> WhisperForConditionalGeneration:
    """Load a Whisper checkpoint in float32: a hub id, or a folder of transformers or CTranslate2.

    Raises:
        CheckpointError: It cannot be found or read, or is no Whisper.
    """
    if ctranslate2.is_ctranslate2(source):
        return ctranslate2.load_model(source).eval()
    return huggingface.load_whisper(source).eval()


def load_clip(source: Source) -> CLIPModel:
    """Load a CLIP checkpoint in float32.

    Raises:
        CheckpointError: It cannot be found or read, or is no CLIP.
    """
    return huggingface.load_clip(source).eval()


def save_whisper_settings(source: Source, model: PreTrainedModel, folder: Path) -> None:
    """Write everything but weights that the runtime needs of a Whisper into `folder`.

    Raises:
        CheckpointError: A settings file of the checkpoint cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    settings = generation_json(model.generation_config)
    (folder / "generation_config.json").write_text(settings, encoding="utf-8")
    if ctranslate2.is_ctranslate2(source):
        features = ctranslate2.load_feature_extractor(source, model.config)
        tokenizer, cleans_up = read_tokenizer(Path(source.name), model.config.vocab_size), False
    else:
        features = huggingface.load_whisper_features(source, model.config)
        tokenizer, cleans_up = huggingface.load_whisper_tokenizer(source)
    features.save_pretrained(folder)
    _save_tokenizer(tokenizer, folder)
    clean_up = {"clean_up_tokenization_spaces": cleans_up}
    (folder / "tokenizer_config.json").write_text(json.dumps(clean_up), encoding="utf-8")
    try:  # what the runtime would refuse is better known now
        LogMelExtractor.from_folder(folder)
        WhisperTokens.from_folder(folder)
    except BundleError as error:
        fault = str(error).replace(f"{folder}/", "").partition("; export the bundle")[0]
        raise CheckpointError(f"{source.name}: {fault}; correct it in the checkpoint") from error


def save_clip_settings(source: Source, model: PreTrainedModel, folder: Path) -> None:
    """Write everything but weights that the runtime needs of a CLIP into `folder`.

    Raises:
        CheckpointError: A settings file of the checkpoint cannot be read, or does not fit the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    processor = huggingface.load_clip_processor(source)
    save_pictures(source.name, processor, model.config.vision_config.image_size, folder)
    tokenizer = huggingface.load_clip_tokenizer(source)
    end = model.config.text_config.eos_token_id
    if end not in (LEGACY_EOS_TOKEN_ID, tokenizer.eos_token_id):
        raise CheckpointError(
            f"{source.name}: the model pools texts at token {end}, its tokenizer ends them with "
            f"{tokenizer.eos_token_id}; expected the same id"
        )
    _save_tokenizer(tokenizer.backend_tokenizer, folder)


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    # Not its own `save`, whose faults (a full disk) are bare exceptions.
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
