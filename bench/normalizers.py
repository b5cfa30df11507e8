"""Text normalisers for scoring: what is done to reference and hypothesis before words are counted.

`notebook` strips and lower-cases and is the default. `basic` and `english` follow Whisper's own
normalisers (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision",
appendix C); `english` is the implementation that ships with transformers and needs that package.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from runtime.errors import SettingsError

NORMALIZER_NAMES: Final = ("notebook", "basic", "english")

_BRACKETED = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\([^()]*\)")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Normalizer:
    """A text normaliser and the name under which results state it."""

    name: str
    description: str
    apply: Callable[[str], str]


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


def normalizer(name: str) -> Normalizer:
    """Return the normaliser of that name.

    Raises:
        SettingsError: Unknown name, or `english` without transformers.
    """
    if name == "notebook":
        return Normalizer(name, "stripped and lower-cased", notebook_text)
    if name == "basic":
        return Normalizer(name, "lower case without brackets, punctuation and symbols", basic_text)
    if name == "english":
        return _english()
    raise SettingsError(f"normalizer is {name!r}; expected one of {', '.join(NORMALIZER_NAMES)}")


def _english() -> Normalizer:
    try:
        import transformers
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    except ImportError as error:
        raise SettingsError(
            "the normalizer 'english' is part of transformers, which is not installed; "
            "install it with `pip install 'earsight[export]'`, or choose 'notebook' or 'basic'"
        ) from error
    # The table of British spellings belongs to OpenAI's checkpoints, not to transformers: it is left out,
    # so "colour" and "color" stay two words.
    whisper = EnglishTextNormalizer({})
    description = f"Whisper's English normalizer, transformers {transformers.__version__}, no spelling table"
    return Normalizer("english", description, lambda text: str(whisper(text)).strip())
