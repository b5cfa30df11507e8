"""What a Whisper's tokenizer says about its settings, where the checkpoint does not state them."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn

from tokenizers import Tokenizer
from transformers import GenerationConfig, WhisperConfig

from runtime.errors import CheckpointError
from runtime.whisper.language_names import LANGUAGE_TOKEN
from runtime.whisper.prompt_defaults import TASKS

END: Final = "<|endoftext|>"
START: Final = "<|startoftranscript|>"
ENGLISH_END: Final = 50256  # of the English-only checkpoints, which kept the vocabulary of GPT-2
NO_TIMESTAMPS: Final = "<|notimestamps|>"
# What ct2-transformers-converter never takes for a language.
NO_LANGUAGES: Final = (
    *(END, START, "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nocaptions|>"),
    NO_TIMESTAMPS,
)
RIGHT_TOKENIZER: Final = (
    "put the tokenizer files of this very checkpoint into its folder: "
    "`WhisperTokenizerFast.from_pretrained(base).save_pretrained(folder)`, base being the checkpoint that "
    "training began with"
)
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
        self._spellings = {i: token for token, i in self._ids.items()}
        self._name = name
        found = {token: i for token, i in self._ids.items() if LANGUAGE_TOKEN.fullmatch(token)}
        self.languages = dict(sorted(found.items(), key=lambda item: item[1]))
        self.tasks = {task: self._ids[f"<|{task}|>"] for task in TASKS if f"<|{task}|>" in self._ids}
        english = self._ids.get(END) == ENGLISH_END
        self.is_multilingual = not english and len(self.languages) > 1 and "transcribe" in self.tasks

    def token(self, spelling: str) -> int | None:
        """Return the id of a token, None where the model has none such."""
        return self._ids.get(spelling)

    def require_same_ids(self, generation: GenerationConfig) -> None:
        """Refuse a tokenizer that contradicts the ids that generation settings state.

        Prompts are made of these ids, and another Whisper has other tokens there: `<|transcribe|>` of
        large-v2 is `<|translate|>` of large-v3. A token that the tokenizer does not know contradicts nothing.

        Args:
            generation: As loaded.

        Raises:
            CheckpointError: Names the first id and the token.
        """
        for key, spelling, stated in self._stated_ids(generation):
            own = self._ids.get(spelling)
            if own is not None and own != stated:
                self._refuse(f"by the settings {key} is {stated!r}, by the tokenizer {spelling} is {own}")
            if own is None and isinstance(stated, int) and stated in self._spellings:
                found = self._spellings[stated]
                self._refuse(f"by the settings {key} is {stated}, by the tokenizer {stated} is {found!r}")

    def require_languages(self, stated: Sequence[int], path: str) -> None:
        """Refuse a tokenizer in which a language that the settings state is something else.

        Args:
            stated: Ids of the language tokens.
            path: Of the file that states them, for messages.

        Raises:
            CheckpointError: Names the first of them and the token.
        """
        for i in stated:
            if (found := self._spellings.get(i)) in NO_LANGUAGES:
                self._refuse(f"by {path} {i} is a language, by the tokenizer it is {found}")

    def _stated_ids(self, generation: GenerationConfig) -> Iterator[tuple[str, str, Any]]:
        """List key, spelling and id of the tokens that settings state and prompts or the search use."""
        for key, spelling in (
            ("decoder_start_token_id", START),
            ("eos_token_id", END),
            ("no_timestamps_token_id", NO_TIMESTAMPS),
        ):
            stated = getattr(generation, key, None)
            if stated is not None and not isinstance(stated, list):  # of several ends, one is chosen later
                yield key, spelling, stated
        if getattr(generation, "is_multilingual", None) is False:
            return  # no prompt names a language or task
        languages, tasks = (self._stated_object(generation, key) for key in ("lang_to_id", "task_to_id"))
        for name, stated in languages.items():
            if LANGUAGE_TOKEN.fullmatch(name):
                yield f"lang_to_id[{name!r}]", name, stated
        for task in TASKS:
            if task in tasks:
                yield f"task_to_id[{task!r}]", f"<|{task}|>", tasks[task]

    def _stated_object(self, generation: GenerationConfig, key: str) -> dict[str, Any]:
        ids = getattr(generation, key, None)
        if ids is not None and not isinstance(ids, dict):
            raise CheckpointError(
                f"{self._name}: {key} is {str(ids)[:80]!r}; expected an object of names and token ids in "
                "generation_config.json"
            )
        return ids or {}

    def _refuse(self, contradiction: str) -> NoReturn:
        raise CheckpointError(
            f"{self._name}: the tokenizer is of another Whisper: {contradiction}; {RIGHT_TOKENIZER}"
        )

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
            "no_timestamps_token_id": self._ids.get(NO_TIMESTAMPS),
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
