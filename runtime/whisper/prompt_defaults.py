"""What a checkpoint's settings say about language and task, as transformers reads them.

`language` and `task` of the generation settings come first. Where neither is stated, `forced_decoder_ids` of
the generation settings or, failing that, of an old `config.json` says the same in tokens: `[[1, language],
[2, task]]`, the language null where it is to be detected. They yield to a language that the caller asks for,
task included (`_retrieve_init_tokens` in transformers/models/whisper/generation_whisper.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.whisper.language_names import language_code

TASKS: Final = ("transcribe", "translate")


@dataclass(frozen=True, slots=True)
class PromptDefaults:
    """What prompts name where the caller does not say.

    Attributes:
        language: Language code; None detects it.
        task: Of prompts in the default language or a detected one.
        task_of_asked: Of prompts in a language that the caller asks for.
    """

    language: str | None = None
    task: str = "transcribe"
    task_of_asked: str = "transcribe"


def read_prompt_defaults(
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    languages: Mapping[str, int],
    tasks: Mapping[str, int],
) -> PromptDefaults:
    """Read the defaults of a multilingual checkpoint.

    Args:
        generation: Content of `generation_config.json`.
        config: Content of `config.json`.
        languages: Language code -> token.
        tasks: Task -> token.

    Raises:
        ValueError: A setting is not one of the checkpoint's; the message names it.
    """
    language, task = generation.get("language"), generation.get("task")
    if language is None and task is None:
        return _forced(
            generation.get("forced_decoder_ids") or config.get("forced_decoder_ids"), languages, tasks
        )
    if language is not None:
        code = language_code(language) if isinstance(language, str) else None
        if code not in languages:
            raise ValueError(f"language is {language!r}; expected one of {', '.join(sorted(languages))}")
        language = code
    if task is not None and (not isinstance(task, str) or task not in tasks):
        raise ValueError(f"task is {task!r}; expected one of {', '.join(tasks)}")
    return PromptDefaults(language, task or "transcribe", task or "transcribe")


def forced_tokens(forced: Any) -> list[int | None]:
    """Return the tokens that follow the first of the prompt, position by position.

    None where they begin later, which transformers passes over.

    Raises:
        ValueError: They are no list of position and token that counts from 1.
    """
    if not forced:
        return []
    fits = isinstance(forced, list) and all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and isinstance(pair[0], int)
        and (pair[1] is None or (isinstance(pair[1], int) and not isinstance(pair[1], bool)))
        for pair in forced
    )
    if fits and forced[0][0] != 1:
        return []
    if not fits or [place for place, _ in forced] != list(range(1, len(forced) + 1)):
        raise ValueError(
            f"forced_decoder_ids is {forced!r}; expected pairs of position and token, counted from 1"
        )
    return [token for _, token in forced]


def _forced(forced: Any, languages: Mapping[str, int], tasks: Mapping[str, int]) -> PromptDefaults:
    tokens = forced_tokens(forced)
    spoken = [code for code, token in languages.items() if token in tokens]
    wanted = [task for task, token in tasks.items() if token in tokens]
    return PromptDefaults(spoken[0] if spoken else None, wanted[0] if wanted else "transcribe")
