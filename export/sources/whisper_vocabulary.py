"""What a Whisper's tokenizer says about its settings, where the checkpoint does not state them."""

from typing import Any, Final

from tokenizers import Tokenizer
from transformers import GenerationConfig, WhisperConfig

from runtime.errors import CheckpointError
from runtime.whisper.language_names import LANGUAGE_TOKEN
from runtime.whisper.prompt_defaults import TASKS

END: Final = "<|endoftext|>"
START: Final = "<|startoftranscript|>"
ENGLISH_END: Final = 50256  # of the English-only checkpoints, which kept the vocabulary of GPT-2
INITIAL_TIMESTAMP_INDEX: Final = 50  # one second: as in openai/whisper, `DecodingOptions`


class WhisperVocabulary:
    """The special tokens of one checkpoint.

    English-only checkpoints know the language tokens, too, so having them decides nothing: the vocabulary of
    GPT-2 does, and for vocabularies of other sizes, whether there is a language to choose.

    Attributes:
        languages: Language token, such as `<|en|>`, -> id.
        tasks: Task, such as "transcribe", -> id.
        is_multilingual: Whether prompts name language and task.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, name: str) -> None:
        """Read a tokenizer.

        Args:
            tokenizer: Of the checkpoint.
            vocab_size: Rows of the embedding; tokens beyond them are taken for unknown.
            name: Of the checkpoint, for messages.
        """
        self._ids: dict[str, int] = {
            t: i for t, i in tokenizer.get_vocab(with_added_tokens=True).items() if i < vocab_size
        }
        self._name = name
        found = {token: i for token, i in self._ids.items() if LANGUAGE_TOKEN.fullmatch(token)}
        self.languages = dict(sorted(found.items(), key=lambda item: item[1]))
        self.tasks = {task: self._ids[f"<|{task}|>"] for task in TASKS if f"<|{task}|>" in self._ids}
        english = self._ids.get(END) == ENGLISH_END
        self.is_multilingual = not english and len(self.languages) > 1 and "transcribe" in self.tasks

    def token(self, spelling: str) -> int | None:
        """Return the id of a token, None where the model has none such."""
        return self._ids.get(spelling)

    def complete_config(self, config: WhisperConfig) -> None:
        """Set the ids of a configuration that was made from weights alone.

        Raises:
            CheckpointError: The tokenizer lacks a token that no Whisper does without.
        """
        config.bos_token_id = config.eos_token_id = config.pad_token_id = self._required(END)
        config.decoder_start_token_id = self._required(START)

    def complete_generation(self, generation: GenerationConfig, config: WhisperConfig) -> None:
        """Set what generation settings leave open.

        Raises:
            CheckpointError: The tokenizer lacks a token that no Whisper does without.
        """
        if generation.eos_token_id is None:
            generation.eos_token_id = self._required(END)
        if generation.decoder_start_token_id is None:
            generation.decoder_start_token_id = self._required(START)
        derived: dict[str, Any] = {
            "bos_token_id": config.bos_token_id,
            "pad_token_id": config.pad_token_id,
            "no_timestamps_token_id": self._ids.get("<|notimestamps|>"),
            "prev_sot_token_id": self._ids.get("<|startofprev|>"),
            "max_initial_timestamp_index": INITIAL_TIMESTAMP_INDEX,
            "is_multilingual": bool(getattr(generation, "lang_to_id", None)) or self.is_multilingual,
        }
        for key, value in derived.items():
            if getattr(generation, key, None) is None and value is not None:
                setattr(generation, key, value)
        if generation.is_multilingual:
            for key, ids in (("lang_to_id", self.languages), ("task_to_id", self.tasks)):
                if not getattr(generation, key, None):
                    setattr(generation, key, ids)

    def _required(self, token: str) -> int:
        if token not in self._ids:
            raise CheckpointError(
                f"{self._name}: the tokenizer has no {token} within the model's vocabulary; expected the "
                "tokenizer of this Whisper checkpoint"
            )
        return self._ids[token]
