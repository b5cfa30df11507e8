"""The recordings in a file: what containers they are, where they begin and end.

Files are joined with `cat` or by recorders that go on in the same file. Each container has its walker, which
knows where a recording of it ends; what lies behind must be tags, padding or another recording.
"""

import functools
import logging
from collections.abc import Callable
from typing import Final

from runtime.audio import chunks
from runtime.audio.av_containers import AV_PARTS, adts_part, flac_end
from runtime.audio.mp3_frames import mp3_part
from runtime.audio.ogg_pages import ogg_part
from runtime.audio.source import CONVERT, IGNORE_LENGTH, SIZE_TOLERANCE, Part, Source
from runtime.audio.tags import before_tags, skip_tags
from runtime.errors import AudioFormatError

logger = logging.getLogger(__name__)

Walker = Callable[[Source, int], Part]

READABLE: Final = (
    "wav, flac, ogg (vorbis, opus), mp3, aiff, au, caf, w64, rf64, nist; "
    "with earsight[formats] also m4a, mp4, 3gp, webm, mka, aac, amr, wma"
)
MAX_PARTS: Final = 10_000  # no recording; bounds what a file of nothing but headers costs


def find_parts(source: Source) -> list[Part]:
    """All recordings of a file, in order.

    Raises:
        AudioError: No audio file, not whole, or with bytes that would not be heard.
    """
    if source.size == 0:
        source.fail(f"empty file; expected {READABLE}")
    parts: list[Part] = []
    position = skip_tags(source, 0) if source.at(0, 1) != b"\0" else 0
    while position < source.size:
        walker = _walker(source.at(position, 16))
        if walker is None:
            _require_silent_rest(source, position, parts)
            break
        if len(parts) == MAX_PARTS:
            source.fail(f"more than {MAX_PARTS} recordings in one file; split it")
        part = walker(source, position)
        parts.append(part)
        position = skip_tags(source, max(part.end, position + 1))
    if not parts:
        source.fail(f"no samples, nothing but tags; expected {READABLE}")
    if len(parts) > 1:
        logger.info("%s: %d recordings in one file, heard one after the other", source.name, len(parts))
    return parts


def _walker(head: bytes) -> Walker | None:
    """What walks a container that begins with these bytes."""
    for layout in chunks.LAYOUTS:
        if all(head[at : at + len(mark)] == mark for at, mark in layout.marks):
            return functools.partial(chunks.chunked_part, layout=layout)
    for mark, walker in SIMPLE.items():
        if head.startswith(mark):
            return walker
    for at, mark, av_walker in AV_PARTS:
        if head[at : at + len(mark)] == mark:
            return av_walker
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # an MPEG frame's 11 sync bits
        return adts_part if head[1] & 0xF6 == 0xF0 else mp3_part
    return None


def _flac_part(source: Source, start: int) -> Part:
    end = flac_end(source, start)
    return source.whole("flac", start, before_tags(source, start, end))


def _require_silent_rest(source: Source, position: int, parts: list[Part]) -> None:
    """Refuse bytes that would not be heard."""
    head, left = source.at(position, 8), source.size - position
    if not parts:
        raise AudioFormatError(
            f"{source.name}: no audio file (starts with {head!r}); expected {READABLE}: {CONVERT}"
        )
    if left > (SIZE_TOLERANCE if parts[-1].av_format is None else 0):
        hint = IGNORE_LENGTH if parts[-1].kind == "wav" else CONVERT
        source.fail(
            f"damaged: its {parts[-1].kind} recording ends at byte {position}, and {left} bytes follow "
            f"that are neither sound of it nor another recording (they start with {head!r}); "
            f"cut the file there if they are no sound, or {hint}"
        )


SIMPLE: Final[dict[bytes, Walker]] = {
    b"fLaC": _flac_part,
    b"OggS": ogg_part,
    b".snd": functools.partial(chunks.au_part, order="big"),
    b"dns.": functools.partial(chunks.au_part, order="little"),
    b"NIST_1A": chunks.nist_part,
}
