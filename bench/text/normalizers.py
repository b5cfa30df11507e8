"""Text normalisers for scoring: what is done to reference and hypothesis before words are counted.

`words` sets case, punctuation and spacing aside in every script; it is the default of the command lines.
`notebook` strips and lower-cases, and stands beside every figure. `basic` and `english` are Whisper's own
(Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", appendix C); `english` is
the copy of it in the package whisper-normalizer, which brings OpenAI's table of British spellings.

Whichever is taken, any white space separates words: see `bench.text.scoring`.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from runtime.errors import SettingsError
from runtime.whisper.language_names import NAME_OF_CODE, language_hint
from runtime.whisper.language_names import language_code as runtime_code
from runtime.whisper.words import DOTLESS_I_LANGUAGES, word_text

NORMALIZER_NAMES: Final = ("words", "notebook", "basic", "english")
DEFAULT_NORMALIZER: Final = "words"
NOTEBOOK: Final = "notebook"

_BRACKETED = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\([^()]*\)")
_SPACES = re.compile(r"\s+")
_CURLY_APOSTROPHE: Final = "\u2019"


@dataclass(frozen=True, slots=True)
class Normalizer:
    """A text normaliser and the name under which results state it.

    Attributes:
        name: One of `NORMALIZER_NAMES`.
        description: What it does, to follow "Texts are".
        apply: Normalises one text.
        language: Code of the language whose rules it follows, None without any.
    """

    name: str
    description: str
    apply: Callable[[str], str]
    language: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {"name": self.name, "description": self.description, "language": self.language}


def notebook_text(text: str) -> str:
    """Strip and lower-case."""
    return text.strip().lower()


def basic_text(text: str) -> str:
    """Lower-case, drop what stands in brackets, turn marks, symbols and punctuation into spaces."""
    unbracketed = _BRACKETED.sub("", text.lower())
    kept = (
        " " if unicodedata.category(character)[0] in "MSP" else character
        for character in unicodedata.normalize("NFKC", unbracketed)
    )
    return _SPACES.sub(" ", "".join(kept)).strip()


def normalizer(name: str, language: str | None = None) -> Normalizer:
    """Return the normaliser of that name.

    Args:
        name: One of `NORMALIZER_NAMES`.
        language: Code, English name or Whisper token of the texts' language, None where unknown; only
            `words` has rules of a language.

    Raises:
        SettingsError: Unknown name or language, or `english` without whisper-normalizer.
    """
    code = None if language is None else checked_language(language)
    if name == "words":
        return _words(code)
    if name == NOTEBOOK:
        return Normalizer(name, "stripped and lower-cased", notebook_text)
    if name == "basic":
        description = (
            "put into lower case without brackets, punctuation and symbols, as by Whisper's basic "
            "normalizer, which splits words at combining marks (Hindi, Thai and others)"
        )
        return Normalizer(name, description, basic_text)
    if name == "english":
        return _english()
    raise SettingsError(f"normalizer is {name!r}; expected one of {', '.join(NORMALIZER_NAMES)}")


def language_code(language: object) -> str | None:
    """Return the code of a language's code, English name or Whisper token; None for all else."""
    if not isinstance(language, str):
        return None
    code = runtime_code(language)
    return code if code in NAME_OF_CODE else None


def checked_language(language: str) -> str:
    """Return the code of a language.

    Raises:
        SettingsError: It is none of Whisper's.
    """
    code = language_code(language)
    if code is None:
        raise SettingsError(
            f"language is {language!r}{language_hint(language)}; expected one that Whisper knows, as a "
            "code ('tr', 'pt-BR') or in English ('turkish')"
        )
    return code


def _words(code: str | None) -> Normalizer:
    rule = f" as in {NAME_OF_CODE[code].capitalize()}" if code in DOTLESS_I_LANGUAGES else ""
    description = (
        f"taken as words: case folded{rule}, punctuation, symbols and spacing set aside, combining marks and "
        f"digits kept (NFKC of Unicode {unicodedata.unidata_version})"
    )
    return Normalizer("words", description, lambda text: word_text(text, code), code)


def _english() -> Normalizer:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise SettingsError(
            "the normalizer 'english' is that of the package whisper-normalizer, which is not installed; "
            "install it with `pip install 'earsight[bench]'`, or choose 'words'"
        ) from error
    whisper = EnglishTextNormalizer()
    description = (
        f"put through Whisper's English normalizer (whisper-normalizer {version('whisper-normalizer')}, "
        "with OpenAI's table of British spellings)"
    )
    # It knows "don't", not "don’t".
    return Normalizer(
        "english", description, lambda text: str(whisper(text.replace(_CURLY_APOSTROPHE, "'"))).strip()
    )
