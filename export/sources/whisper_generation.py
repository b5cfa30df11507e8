"""Generation settings of a Whisper: in the one form that the runtime reads, and what it does not follow."""

import json
import logging
from typing import Any, Final

from transformers import GenerationConfig, WhisperConfig

from export.sources.whisper_vocabulary import END, WhisperVocabulary
from runtime.errors import CheckpointError
from runtime.whisper.prompt_defaults import forced_tokens, read_prompt_defaults

logger = logging.getLogger(__name__)

# What transformers' `generate` would follow and the beam search here does not: each caller chooses beams and
# penalties, and nothing is drawn at random.
NOT_FOLLOWED: Final = (
    "num_beams", "num_beam_groups", "num_return_sequences", "length_penalty", "early_stopping",
    "diversity_penalty", "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p",
    "epsilon_cutoff", "eta_cutoff", "penalty_alpha", "repetition_penalty",
    "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "force_words_ids", "constraints", "sequence_bias",
    "guidance_scale", "min_length", "min_new_tokens", "max_new_tokens", "max_time", "stop_strings",
    "forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty", "renormalize_logits",
)  # fmt: skip
DROPPED: Final = (*NOT_FOLLOWED, "transformers_version", "_from_model_config")


def complete_generation(
    name: str, generation: GenerationConfig, config: WhisperConfig, vocabulary: WhisperVocabulary
) -> None:
    """Bring generation settings, in place, to what transformers makes of them, and warn of the rest.

    Args:
        name: Of the checkpoint, for messages.
        generation: As loaded; every token that is left open follows from the vocabulary.
        config: Of the model; its `eos_token_id`, too, becomes one token.
        vocabulary: Of the checkpoint's tokenizer.

    Raises:
        CheckpointError: A token, language or task is not one of the checkpoint's, or the tokenizer is of
            another checkpoint.
    """
    vocabulary.require_same_ids(generation)
    for settings in (config, generation):
        settings.eos_token_id = _one_end(name, settings.eos_token_id, config.vocab_size, vocabulary)
    for key in ("suppress_tokens", "begin_suppress_tokens"):
        stated = getattr(generation, key, None)
        if stated is not None:
            setattr(generation, key, _within(name, key, stated, config.vocab_size))
    vocabulary.complete_generation(generation, config)
    ignored = _verify_prompt(name, generation, config, vocabulary)
    default = GenerationConfig()
    for key in NOT_FOLLOWED:
        value = getattr(generation, key, None)
        if value is not None and value != getattr(default, key, None):
            ignored.append(f"{key}={json.dumps(value, default=str)[:40]}")
    if ignored:
        logger.warning(
            "%s: of its generation settings %s are not followed; beams and penalties are the caller's",
            name,
            ", ".join(ignored),
        )


def generation_json(generation: GenerationConfig) -> str:
    """Return the content of `generation_config.json`.

    Not `save_pretrained`, which refuses settings that only sampling follows.
    """
    content = {key: value for key, value in generation.to_diff_dict().items() if key not in DROPPED}
    return json.dumps(content, indent=2, sort_keys=True, default=str) + "\n"


def _one_end(name: str, stated: Any, vocab_size: int, vocabulary: WhisperVocabulary) -> int | None:
    """Return the token that ends a text; of several, Whisper's own or the first that the model has."""
    if stated is None or (isinstance(stated, int) and not isinstance(stated, bool)):
        return stated
    tokens = (
        [i for i in stated if isinstance(i, int) and 0 <= i < vocab_size] if isinstance(stated, list) else []
    )
    if not tokens:
        raise CheckpointError(
            f"{name}: eos_token_id is {stated!r}; expected a token id from 0 to {vocab_size - 1}, or a list, "
            "in config.json and generation_config.json"
        )
    own = vocabulary.token(END)
    return own if own in tokens else tokens[0]


def _within(name: str, key: str, stated: Any, vocab_size: int) -> list[int]:
    """Return the suppressed tokens that the model has; transformers passes over others, such as -1."""
    if not isinstance(stated, (list, tuple)) or not all(isinstance(i, int) for i in stated):
        raise CheckpointError(
            f"{name}: {key} is {str(stated)[:80]!r}; expected a list of token ids or null in "
            "generation_config.json"
        )
    return [i for i in stated if 0 <= i < vocab_size]


def _verify_prompt(
    name: str, generation: GenerationConfig, config: WhisperConfig, vocabulary: WhisperVocabulary
) -> list[str]:
    """Verify language, task and forced tokens; return what the runtime's prompts leave out of them."""
    forced = getattr(generation, "forced_decoder_ids", None) or getattr(config, "forced_decoder_ids", None)
    if not generation.is_multilingual:
        for key in ("language", "task"):
            if getattr(generation, key, None) is not None:
                delattr(generation, key)  # transformers has no place for them in an English prompt
    languages = {token[2:-2]: i for token, i in (getattr(generation, "lang_to_id", None) or {}).items()}
    tasks = vocabulary.tasks
    stated = {key: getattr(generation, key, None) for key in ("language", "task")}
    try:
        tokens = forced_tokens(forced)
        if generation.is_multilingual:
            read_prompt_defaults(stated, {"forced_decoder_ids": forced}, languages, tasks)
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}; correct it in generation_config.json") from error
    used = {None, *languages.values(), *tasks.values(), generation.no_timestamps_token_id}
    unknown = [token for token in tokens if token not in used] if not any(stated.values()) else []
    return [f"forced_decoder_ids={json.dumps(unknown)}"] if unknown else []
