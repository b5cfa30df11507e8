"""The words of a text: what counts is which words were said, not how they are written down.

Case, punctuation, symbols and spacing are set aside; letters, combining marks and digits are kept. Unlike
Whisper's basic normaliser it never splits a word at a combining mark, so words of Hindi, Thai or pointed
Arabic stay whole.

The Unicode form is NFKC, because full-width letters, ligatures, half-width kana and Arabic presentation
forms are other spellings of the same words. Where NFKC would change a word it is forestalled: a trade mark
sign does not become the letters "tm", 10² not 102, 3½ not 31⁄2, and an acute accent used as an apostrophe
no space.
"""

import re
import unicodedata
from typing import Final

# Languages in which I is the capital of ı, and İ that of i.
DOTLESS_I_LANGUAGES: Final = frozenset({"tr", "az"})

_SPACE: Final = " "
# Inside a word they belong to its spelling, and are left out of it: "don't", "п'ять", Hebrew gershayim,
# Catalan l·l, the Armenian marks of stress, exclamation and question. They never make two words of one.
_JOINERS: Final = (
    "'\"`\u00b4\u02b9\u02ba\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\u02ca\u02cb\u02f4\u2018\u2019\u201a\u201b"
    "\u2032\u2035\uff07\ua78b\ua78c\u0374\u0384\u1fbd\u1fbf\u1fef\u1ffd\u1ffe\u05f3\u05f4\u00b7\u2027"
    "\u055a\u055b\u055c\u055e"
)
_BETWEEN_DIGITS: Final = re.compile(rf"(?<=\d)[{re.escape(_JOINERS)}]+(?=\d)")  # 5'6 is not 56
# Superscripts, subscripts and fractions right after a digit.
_SMALL_DIGIT: Final = re.compile(
    r"(?<=\d)(?=[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070\u2074-\u2079\u2080-\u2089\u2150-\u215f\u2189])"
)
# Letters and marks without a meaning of their own: Arabic tatweel, combining grapheme joiner, Hangul fillers,
# inherent vowels of Khmer, Mongolian and general variation selectors.
_IGNORED: Final = re.compile(
    "[\u0640\u034f\u115f\u1160\u3164\uffa0\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
_TRADE_MARKS: Final = frozenset("™℠")
_ZERO_WIDTH_SPACE: Final = "\u200b"  # marks the boundary of words in Thai and Khmer
# Where emoji newer than this Python's Unicode data stand, which takes them for unassigned.
_PICTOGRAPHS: Final = ("\U0001f000", "\U0001faff")
_JOINER: Final = "'"
_DOTTED_I: Final = "i\u0307"
_MOST_PASSES: Final = 8  # two are the rule; a text that removal brings into another form needs one more


class _Replacements(dict[int, str]):
    """What a character is replaced by, worked out when it is first met; for `str.translate`."""

    def __init__(self, *, before_folding: bool) -> None:
        self.before_folding = before_folding

    def __missing__(self, code: int) -> str:
        character = chr(code)
        found = _before_folding(character) if self.before_folding else _after_folding(character)
        self[code] = found
        return found


def _before_folding(character: str) -> str:
    """Forestall what NFKC would do to signs, and drop what has no meaning of its own."""
    category = unicodedata.category(character)
    if character in _JOINERS:
        return _JOINER
    if character == _ZERO_WIDTH_SPACE or character in _TRADE_MARKS or category == "Sk":
        return _SPACE
    if category in {"Cf", "Me"} or _IGNORED.match(character):
        return ""
    if category[0] == "L":  # NFKC sets a space before the marks in Arabic presentation forms of marks alone
        return unicodedata.normalize("NFKC", character).lstrip()
    return character


def _after_folding(character: str) -> str:
    """Turn punctuation, symbols and white space into spaces."""
    category = unicodedata.category(character)
    if character in _JOINERS:
        return ""
    if category[0] in "PSZ" or category in {"Cc", "Cs", "Co"}:
        return _SPACE
    if category == "Cn" and _PICTOGRAPHS[0] <= character <= _PICTOGRAPHS[1]:
        return _SPACE
    return character


_BEFORE_FOLDING: Final = _Replacements(before_folding=True)
_AFTER_FOLDING: Final = _Replacements(before_folding=False)


def word_text(text: str, language: str | None = None) -> str:
    """Return the words of a text, case folded, joined by single spaces.

    Args:
        text: In any script.
        language: Code as in Whisper's tokens. "tr" and "az" pair I with ı; all others, and None, I with i.

    Returns:
        Idempotent: the words of the result are the result. Empty where the text holds no letter and no digit.
    """
    for _ in range(_MOST_PASSES):
        again = _one_pass(text, language)
        if again == text:
            break
        text = again
    return text


def letters(piece: str, language: str | None = None) -> str:
    """Return what is left of a piece of text without case, punctuation and spacing.

    Args:
        piece: Any part of a text, cut anywhere between two characters.
        language: As for `word_text`.

    Returns:
        Letters, marks and digits, marks apart from their letters (NFD), so that the letters of two pieces
        are those of the pieces joined. Texts of the same `word_text` have the same letters.
    """
    folded = _folded(piece.translate(_BEFORE_FOLDING), language).translate(_AFTER_FOLDING)
    return unicodedata.normalize("NFD", "".join(folded.split()))


def lower(text: str, language: str | None = None) -> str:
    """Return a text in lower case; in Turkish and Azerbaijani I becomes ı, and İ becomes i."""
    if language in DOTLESS_I_LANGUAGES:
        text = text.replace("I\u0307", "i").replace("İ", "i").replace("I", "ı")
    return text.lower()


def _one_pass(text: str, language: str | None) -> str:
    folded = _folded(_SMALL_DIGIT.sub(_SPACE, text).translate(_BEFORE_FOLDING), language)
    joined = _BETWEEN_DIGITS.sub(_SPACE, folded).translate(_AFTER_FOLDING)
    words = (_without_stray_marks(word) for word in joined.split())
    return _SPACE.join(word for word in words if word)


def _folded(text: str, language: str | None) -> str:
    folded = unicodedata.normalize("NFKC", text)
    if language in DOTLESS_I_LANGUAGES:
        folded = folded.replace("I", "ı")
    # İ, and i with the dot that lower-casing İ leaves behind, is i.
    return unicodedata.normalize("NFKC", folded.casefold().replace(_DOTTED_I, "i"))


def _without_stray_marks(word: str) -> str:
    """Drop marks at the beginning: what they belonged to was a symbol, such as an emoji."""
    begin = 0
    while begin < len(word) and unicodedata.category(word[begin])[0] == "M":
        begin += 1
    return word[begin:]
