"""Token ids of a Whisper checkpoint, its prompts, and text from tokens.

Every id is read from the checkpoint's own `config.json`, `generation_config.json` and `tokenizer.json`;
only the *spelling* of Whisper's special tokens is known here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tokenizers import Tokenizer

from runtime.bundle.json_files import read_json_object
from runtime.bundle.tokenizer_files import clean_up, load_tokenizer, tokenizer_faults
from runtime.errors import BundleError, SettingsError
from runtime.whisper.language_names import LANGUAGE_TOKEN, NAME_OF_CODE, language_code, language_hint
from runtime.whisper.prompt_defaults import TASKS, PromptDefaults, read_prompt_defaults
from runtime.whisper.word_keys import TIMESTAMP, WordKeys

MAX_POSITIONS = 1 << 16  # of the decoder; Whisper's published checkpoints have 448

_NO_SPEECH_TOKENS = ("<|nospeech|>", "<|nocaptions|>")  # the latter in checkpoints of 2022


@dataclass(frozen=True, slots=True)
class WhisperTokens:
    """The vocabulary of one checkpoint.

    Attributes:
        vocab_size: Rows of the embedding, V; the tokenizer may know fewer.
        eos_token_id: End of text.
        start_token_id: `<|startoftranscript|>`, the first token of every prompt.
        is_multilingual: Whether prompts name language and task.
        languages: Language code -> token id; empty for English-only checkpoints.
        tasks: Task -> token id; empty for English-only checkpoints.
        no_timestamps_id: `<|notimestamps|>`, None where the checkpoint has none.
        no_speech_id: `<|nospeech|>` (older name: `<|nocaptions|>`), or None.
        timestamp_begin: First timestamp token, `<|0.00|>`, or None.
        max_initial_timestamp_index: Latest first timestamp in steps of 0.02 s, or None.
        suppress_tokens: Never generated.
        begin_suppress_tokens: Not generated at the first position.
        max_target_positions: Positions of the decoder, prompt included.
        max_length: Most tokens to decode by default, prompt included; at most `max_target_positions`.
        defaults: Language and task of prompts that name none.
    """

    vocab_size: int
    eos_token_id: int
    start_token_id: int
    is_multilingual: bool
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    no_timestamps_id: int | None
    no_speech_id: int | None
    timestamp_begin: int | None
    max_initial_timestamp_index: int | None
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    max_target_positions: int
    max_length: int
    defaults: PromptDefaults
    _tokenizer: Tokenizer = field(repr=False, compare=False)
    _clean_up: bool = field(repr=False)

    @classmethod
    def from_folder(cls, folder: Path) -> "WhisperTokens":
        """Read `config.json`, `generation_config.json` and `tokenizer.json` of a checkpoint or bundle.

        `tokenizer_config.json` is optional: only its `clean_up_tokenization_spaces` is of use, and
        transformers, too, takes that as false where it is not stated.

        Raises:
            BundleNotFoundError: One of the first three files is missing.
            BundleError: A file is malformed, or the files contradict each other.
        """
        return _Reader(folder).tokens()

    @property
    def detects_language(self) -> bool:
        """Whether a prompt without a language needs one detected first."""
        return self.is_multilingual and self.defaults.language is None

    def prompt(self, language: str | None, task: str | None = None, timestamps: bool = False) -> list[int]:
        """Return the decoder's prompt.

        Args:
            language: Code ("en"), English name ("english") or token ("<|en|>"); None for the checkpoint's
                own. A multilingual checkpoint without one needs it (detect it first); an English-only one
                takes None or English.
            task: "transcribe" or "translate" (into English); None for the checkpoint's own.
            timestamps: Whether the model shall generate timestamps.

        Returns:
            Multilingual: start, language, task[, no timestamps]; English-only: start[, no timestamps].

        Raises:
            SettingsError: The checkpoint has no such language or task, or no timestamps.
        """
        if language is None:
            language, task = self.defaults.language, task or self.defaults.task
        task = task or self.defaults.task_of_asked
        if task not in TASKS:
            raise SettingsError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
        ids = [self.start_token_id]
        if self.is_multilingual:
            ids += [self._language_id(language), self._task_id(task)]
        elif task != "transcribe":
            raise SettingsError(
                "task is 'translate', but this checkpoint is English-only; expected 'transcribe'"
            )
        elif language is not None and language_code(language) != "en":
            raise SettingsError(
                f"language is {language!r}, but this checkpoint is English-only; expected 'en' or none"
            )
        if timestamps and self.timestamp_begin is None:
            raise SettingsError("timestamps were asked for, but this checkpoint has no timestamp tokens")
        if not timestamps and self.no_timestamps_id is not None:
            ids.append(self.no_timestamps_id)
        return ids

    def _language_id(self, language: str | None) -> int:
        available = ", ".join(f"{code} ({NAME_OF_CODE.get(code, '?')})" for code in sorted(self.languages))
        if language is None:
            raise SettingsError(f"this checkpoint is multilingual and needs a language: one of {available}")
        code = language_code(language)
        if code not in self.languages:
            raise SettingsError(
                f"language is {language!r}, which this checkpoint does not have"
                f"{language_hint(language)}; it has {available}"
            )
        return self.languages[code]

    def _task_id(self, task: str) -> int:
        if task not in self.tasks:
            raise SettingsError(
                f"task is {task!r}, but this checkpoint has {', '.join(self.tasks) or 'no task tokens'}"
            )
        return self.tasks[task]

    def language_of(self, token: int) -> str:
        """Return the code of a language token.

        Raises:
            SettingsError: `token` is no language token of this checkpoint.
        """
        for code, language_token in self.languages.items():
            if language_token == token:
                return code
        raise SettingsError(f"token {token} is no language of this checkpoint")

    def word_keys(self, language: str | None = None) -> WordKeys:
        """Return what tells which hypotheses say the same.

        Args:
            language: Code of the language that is spoken; None for the rules of case of most languages.
        """
        return WordKeys(self._tokenizer, self.eos_token_id, language)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens, without special tokens and timestamps, otherwise as generated.

        Equals `WhisperTokenizer.decode(tokens, skip_special_tokens=True)` of transformers.
        """
        with tokenizer_faults("whisper/tokenizer.json cannot decode tokens"):
            text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        if self._clean_up:
            text = clean_up(text)
        return TIMESTAMP.sub("", text)


class _Reader:
    """Reads one checkpoint folder; every message names the file at fault."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = read_json_object(folder / "config.json")
        self._generation = read_json_object(folder / "generation_config.json")
        self._tokenizer = load_tokenizer(folder / "tokenizer.json")
        self._vocab_size = self._integer(self._config, "config.json", "vocab_size", below=None)

    def tokens(self) -> WhisperTokens:
        multilingual = self._is_multilingual()
        no_timestamps = self._generation_id("no_timestamps_token_id", "<|notimestamps|>")
        begin = None if no_timestamps is None or no_timestamps + 1 >= self._vocab_size else no_timestamps + 1
        positions = self._integer(self._config, "config.json", "max_target_positions", below=None)
        if positions > MAX_POSITIONS:
            self._fail(
                "config.json", f"max_target_positions is {positions}; expected at most {MAX_POSITIONS}"
            )
        max_length = self._optional_integer("max_length")
        first = None if begin is None else self._optional_integer("max_initial_timestamp_index")
        languages = self._languages() if multilingual else {}
        tasks = self._tasks() if multilingual else {}
        return WhisperTokens(
            vocab_size=self._vocab_size,
            eos_token_id=self._required_id("eos_token_id"),
            start_token_id=self._required_id("decoder_start_token_id"),
            is_multilingual=multilingual,
            languages=languages,
            tasks=tasks,
            no_timestamps_id=no_timestamps,
            no_speech_id=next(
                (i for name in _NO_SPEECH_TOKENS if (i := self._id_of(name)) is not None), None
            ),
            timestamp_begin=begin,
            max_initial_timestamp_index=first,
            suppress_tokens=self._id_list("suppress_tokens"),
            begin_suppress_tokens=self._id_list("begin_suppress_tokens"),
            max_target_positions=positions,
            max_length=positions if max_length is None else min(max_length, positions),
            defaults=self._defaults(languages, tasks) if multilingual else PromptDefaults(),
            _tokenizer=self._tokenizer,
            _clean_up=self._clean_up(),
        )

    def _is_multilingual(self) -> bool:
        stated = self._generation.get("is_multilingual")
        if stated is None:
            return bool(self._generation.get("lang_to_id"))
        if not isinstance(stated, bool):
            self._fail("generation_config.json", f"is_multilingual is {stated!r}; expected true or false")
        return stated

    def _languages(self) -> dict[str, int]:
        stated = self._generation.get("lang_to_id")
        if stated is None:
            added = self._tokenizer.get_added_tokens_decoder()
            stated = {str(token.content): token_id for token_id, token in sorted(added.items())}
            stated = {name: token_id for name, token_id in stated.items() if LANGUAGE_TOKEN.fullmatch(name)}
        if not isinstance(stated, dict) or not stated:
            self._fail(
                "generation_config.json", f"lang_to_id is {stated!r}; expected token -> id for each language"
            )
        languages = {}
        for name, token in stated.items():
            match = LANGUAGE_TOKEN.fullmatch(name)
            if match is None:
                self._fail(
                    "generation_config.json", f"lang_to_id names {name!r}; expected tokens such as <|en|>"
                )
            languages[match[1]] = self._checked(token, "generation_config.json", f"lang_to_id[{name!r}]")
        return languages

    def _tasks(self) -> dict[str, int]:
        found = {task: self._id_of(f"<|{task}|>") for task in TASKS}
        return {task: token for task, token in found.items() if token is not None}

    def _defaults(self, languages: Mapping[str, int], tasks: Mapping[str, int]) -> PromptDefaults:
        try:
            return read_prompt_defaults(self._generation, self._config, languages, tasks)
        except ValueError as error:
            self._fail("generation_config.json", str(error))

    def _required_id(self, key: str) -> int:
        """Return an id that `generation_config.json` or, failing that, `config.json` must state."""
        name = "generation_config.json" if self._generation.get(key) is not None else "config.json"
        value = self._generation.get(key) if self._generation.get(key) is not None else self._config.get(key)
        if (
            isinstance(value, list) and value
        ):  # the search ends at one token: at Whisper's own, if it is there
            own = self._tokenizer.token_to_id("<|endoftext|>")
            value = own if key == "eos_token_id" and own in value else value[0]
        return self._checked(value, name, key)

    def _generation_id(self, key: str, token: str) -> int | None:
        value = self._generation.get(key)
        return self._id_of(token) if value is None else self._checked(value, "generation_config.json", key)

    def _id_of(self, token: str) -> int | None:
        token_id: int | None = self._tokenizer.token_to_id(token)
        return None if token_id is None else self._checked(token_id, "tokenizer.json", token)

    def _id_list(self, key: str) -> tuple[int, ...]:
        values = self._generation.get(key)
        if values is None:
            return ()
        if not isinstance(values, list):
            self._fail("generation_config.json", f"{key} is {values!r}; expected a list of token ids")
        # transformers takes -1 for no token
        return tuple(self._checked(value, "generation_config.json", key) for value in values if value != -1)

    def _optional_integer(self, key: str) -> int | None:
        if self._generation.get(key) is None:
            return None
        return self._integer(self._generation, "generation_config.json", key, below=None)

    def _checked(self, value: object, name: str, key: str) -> int:
        return self._integer({key: value}, name, key, below=self._vocab_size)

    def _integer(self, source: Mapping[str, Any], name: str, key: str, *, below: int | None) -> int:
        value = source.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (below and value >= below):
            expected = f"a token id from 0 to {below - 1}" if below else "a whole number of at least 0"
            self._fail(name, f"{key} is {value!r}; expected {expected}")
        return value

    def _clean_up(self) -> bool:
        path = self._folder / "tokenizer_config.json"
        return path.exists() and bool(read_json_object(path).get("clean_up_tokenization_spaces", False))

    def _fail(self, name: str, fault: str) -> NoReturn:
        raise BundleError(
            f"{self._folder / name}: {fault}; export the bundle again from an intact checkpoint"
        )
