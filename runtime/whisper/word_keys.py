"""What a half-written hypothesis has said so far, letter by letter, kept up to date token by token.

Whisper's tokens are pieces of UTF-8, so that a piece may end inside a character. A key is the letters of all
whole characters and the bytes of the unfinished one. Tokens that fine-tuning added are whole words, spelt
plainly. Two hypotheses of the same key have said the same, case,
punctuation, hyphens and spacing aside.
"""

import re
from functools import cached_property
from typing import Final, NamedTuple

from tokenizers import AddedToken, Tokenizer

from runtime.whisper.words import letters

TIMESTAMP: Final = re.compile(r"<\|\d+\.\d+\|>")
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class WordKey(NamedTuple):
    """What has been said.

    Attributes:
        said: Letters, marks and digits.
        rest: Bytes of a character that is not whole yet.
    """

    said: str = ""
    rest: bytes = b""


class WordKeys:
    """Extends keys by tokens.

    Args:
        tokenizer: The checkpoint's, of byte-level pieces and added tokens.
        end: End of text, which says nothing whatever its spelling.
        language: Code of the language, whose rules of case count; None for those of most languages.
    """

    def __init__(self, tokenizer: Tokenizer, end: int, language: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._end = end
        self._added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        self._language = language
        self._pieces: dict[int, tuple[bytes, str | None]] = {}

    def extend(self, key: WordKey, token: int) -> WordKey:
        """Return the key of a hypothesis that goes on with a token."""
        piece, whole = self._pieces.get(token) or self._read(token)
        if whole is not None and not key.rest:
            return WordKey(key.said + whole) if whole else key
        text, rest = _decoded(key.rest + piece)
        return WordKey(key.said + letters(text, self._language), rest)

    def _read(self, token: int) -> tuple[bytes, str | None]:
        """Look a token up: its bytes, and its letters where it is made of whole characters."""
        piece = self._bytes_of_token(token)
        text, rest = _decoded(piece)
        found = self._pieces[token] = (
            piece,
            None if rest or _REPLACEMENT in text else letters(text, self._language),
        )
        return found

    def _bytes_of_token(self, token: int) -> bytes:
        """Return what a token says: nothing if it is special or a timestamp, as in a decoded text."""
        if token == self._end:
            return b""
        if (added := self._added.get(token)) is not None:  # spelt plainly
            silent = added.special or TIMESTAMP.fullmatch(added.content)
            return b"" if silent else str(added.content).encode()
        spelling = self._tokenizer.id_to_token(token) or ""  # none: the embedding has more rows
        return b"".join(self._bytes_of(character) for character in spelling)

    def _bytes_of(self, character: str) -> bytes:
        byte = self._bytes.get(character)
        return character.encode() if byte is None else bytes([byte])

    @cached_property
    def _bytes(self) -> dict[str, int]:
        """The characters that stand for bytes (GPT-2's `bytes_to_unicode`).

        Printable Latin-1 stands for itself, the other bytes for the characters from 256 on, in order.
        """
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in set(printable)]
        return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _decoded(content: bytes) -> tuple[str, bytes]:
    """Return the whole characters, and the bytes of an unfinished one at the end; damage is replaced."""
    try:
        return content.decode(), b""
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return content[: error.start].decode(errors="replace"), content[error.start :]
        return content.decode(errors="replace"), b""
