"""Ogg recordings: where one ends and the next begins, and whether every page is there (RFC 3533).

libogg jumps over damaged and missing pages and libsndfile stops at the end of the first of several joined
recordings, both without a word.
"""

import logging
import zlib
from typing import Final, NamedTuple

from runtime.audio.source import Part, Piece, Source

logger = logging.getLogger(__name__)

HEADER_BYTES: Final = 27
FIRST: Final = 2  # flags of a page
LAST: Final = 4
CODECS: Final = {
    b"\x01vorbis": "vorbis",
    b"OpusHead": "opus",
    b"\x7fFLAC": "flac",
    b"Speex   ": "speex",
}  # by the first bytes of a stream
OGG_FLAC_BYTES: Final = 9  # before what a FLAC file begins with, in the first page of FLAC in Ogg
_REVERSED: Final = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


class Page(NamedTuple):
    """One page: a piece of one of the streams that share the file.

    Attributes:
        flags: `FIRST`, `LAST`.
        serial: The stream.
        number: Its place in the stream.
        body: Where its content begins.
        end: The byte behind it.
    """

    flags: int
    serial: int
    number: int
    body: int
    end: int


def checksum(page: bytes) -> int:
    """The checksum of a page whose own field is zero: polynomial 04C11DB7, from the highest bit on.

    That is zlib's of the same bits in reverse, which is in C.
    """
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def ogg_part(source: Source, start: int) -> Part:
    """The recording that begins at `start`, up to the next one or to what is no page.

    Raises:
        AudioError: Pages are damaged, missing or cut off, or the file holds no sound.
    """
    position, has_begun, is_ended = start, False, False
    streams: dict[int, bytes] = {}
    numbers: dict[int, int] = {}
    content: list[Piece] = []
    heard: int | None = None
    while (page := _page(source, position)) is not None:
        if page.flags & FIRST:
            if has_begun:
                break
            streams[page.serial] = source.at(page.body, 8)
        elif not has_begun:
            has_begun, heard = True, _audible(source, streams)
        number = numbers.get(page.serial)
        if number is not None and page.number != (number + 1) & 0xFFFFFFFF:
            source.fail(
                f"damaged: Ogg page {number} is followed by page {page.number} at byte {position}, "
                "what lay between is missing: copy it again"
            )
        numbers[page.serial] = page.number
        if page.serial == heard or (heard is None and page.flags & FIRST):
            content.append((page.body, page.end))
        is_ended = is_ended or (page.serial == heard and bool(page.flags & LAST))
        position = page.end
    if (damage := source.find(b"OggS", position)) is not None and damage > position:
        page = _page(source, damage)
        if page is not None and not page.flags & FIRST:
            source.fail(f"damaged: bytes {position} to {damage} are no Ogg page, amid others: copy it again")
    if not is_ended:
        logger.warning(
            "%s: its last Ogg page is not marked as such; the recording may have gone on", source.name
        )
    return _part(source, start, position, streams, heard, content)


def _page(source: Source, position: int) -> Page | None:
    header = source.at(position, HEADER_BYTES)
    if header[:4] != b"OggS":
        return None
    lengths = source.at(position + HEADER_BYTES, header[26]) if len(header) == HEADER_BYTES else b""
    body = position + HEADER_BYTES + (header[26] if len(header) == HEADER_BYTES else 0)
    end = body + sum(lengths)
    if len(header) < HEADER_BYTES or body > source.size or end > source.size:
        source.fail_truncated("it ends in the middle of an Ogg page")
    page = header[:22] + bytes(4) + header[26:] + lengths + source.at(body, end - body)
    if checksum(page) != int.from_bytes(header[22:26], "little"):
        source.fail(f"damaged: the checksum of the Ogg page at byte {position} is wrong: copy it again")
    serial, number = (int.from_bytes(header[at : at + 4], "little") for at in (14, 18))
    return Page(header[5], serial, number, body, end)


def _codec(mark: bytes) -> str | None:
    return next((codec for begin, codec in CODECS.items() if mark.startswith(begin)), None)


def _audible(source: Source, streams: dict[int, bytes]) -> int | None:
    """The stream that is heard: the first one of sound."""
    audible = [serial for serial, mark in streams.items() if _codec(mark) is not None]
    if len(audible) > 1:
        logger.warning("%s: %d streams of sound, the first is heard", source.name, len(audible))
    return audible[0] if audible else None


def _part(
    source: Source, start: int, end: int, streams: dict[int, bytes], heard: int | None, content: list[Piece]
) -> Part:
    codec = None if heard is None else _codec(streams[heard])
    if codec == "speex":
        return source.whole("ogg (speex)", start, end, "ogg")
    if codec == "flac":  # libsndfile takes it without its pages
        first = content[0]
        assert not isinstance(first, bytes)
        return Part("ogg (flac)", start, end, ((first[0] + OGG_FLAC_BYTES, first[1]), *content[1:]))
    return source.whole("ogg", start, end)
