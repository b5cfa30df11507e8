"""Recordings in chunks with a length each: WAV, RF64, BW64, W64, AIFF, CAF; and AU and NIST, which have one.

What is looked for: where the recording ends, since another may follow; and lengths that a recorder could not
know when it wrote the header and never came back to.
"""

import logging
import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from runtime.audio.source import IGNORE_LENGTH, SIZE_TOLERANCE, Part, Source, patched

logger = logging.getLogger(__name__)

# Lengths written for "not known yet" are 0, all ones, or round numbers far beyond the end: 2^31, 2^31 - 1,
# minus what the header takes or 128 KiB (0x7FFE0000), 10^9. So does one true length in a thousand.
ROUND_BINARY: Final = 1 << 28
ROUND_BINARY_EXACT: Final = 1 << 24
ROUND_DECIMAL: Final = 10**8
ROUNDED_BY: Final = 1 << 17
UNKNOWN: Final = 0xFFFF_FFFF
W64_ID: Final = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # behind four letters
# Chunks that may be cut off or miscount, since nothing of them is heard.
SILENT_CHUNKS: Final = frozenset(
    (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"fact", b"PEAK", b"iXML", b"_PMX", b"JUNK",
     b"junk", b"PAD ", b"FLLR", b"inst", b"afsp", b"acid", b"APPL", b"ANNO", b"NAME", b"AUTH", b"COMT",
     b"MARK", b"info", b"free", b"axml", b"chna", b"plst", b"adtl")
)  # fmt: skip
# What other recordings begin with that would pass for the name of a chunk.
OTHER_MARKS: Final = (b"OggS", b"fLaC", b".snd", b"dns.", b"NIST", b"wvpk", b"#!AM")
CAF_OF_LIBSNDFILE: Final = (b"lpcm", b"alac", b"ulaw", b"alaw")
AU_ENCODINGS: Final = range(1, 28)
LONGEST_AU_HEADER: Final = 4096
_NIST_FIELD = re.compile(rb"^(\w+) -(?:i|s\d+) (\S+)", re.MULTILINE)


class Layout(NamedTuple):
    """How a container writes its chunks.

    Attributes:
        kind: The container, as messages call it.
        first: Where the chunks begin.
        marks: What a recording begins with: pairs of an offset and bytes.
        data: The chunk of sound.
        id_bytes: Length of a chunk's name.
        size_bytes: Length of its length.
        order: Byte order of its length.
        align: What chunks are padded to.
        counts_header: Whether a length includes the chunk's own header.
        before_sound: Bytes of the chunk of sound that are none.
    """

    kind: str
    first: int
    marks: tuple[tuple[int, bytes], ...]
    data: bytes
    id_bytes: int = 4
    size_bytes: int = 4
    order: str = "little"
    align: int = 2
    counts_header: bool = False
    before_sound: int = 0

    @property
    def header(self) -> int:
        """Bytes before a chunk's content."""
        return self.id_bytes + self.size_bytes


class Chunk(NamedTuple):
    """A chunk: its name, where its content begins, and how long that is said to be."""

    name: bytes
    content: int
    size: int


WAV: Final = Layout("wav", 12, ((0, b"RIFF"), (8, b"WAVE")), b"data")
RIFX: Final = WAV._replace(kind="wav, big-endian", marks=((0, b"RIFX"), (8, b"WAVE")), order="big")
RF64: Final = WAV._replace(kind="rf64", marks=((0, b"RF64"), (8, b"WAVE")))
BW64: Final = WAV._replace(kind="bw64", marks=((0, b"BW64"), (8, b"WAVE")))
W64: Final = Layout(
    "w64", 40, ((0, b"riff\x2e\x91\xcf\x11"),), b"data" + W64_ID, 16, 8, align=8, counts_header=True
)
AIFF: Final = Layout("aiff", 12, ((0, b"FORM"), (8, b"AIF")), b"SSND", order="big", before_sound=8)
CAF: Final = Layout("caf", 8, ((0, b"caff"),), b"data", size_bytes=8, order="big", align=1, before_sound=4)
LAYOUTS: Final = (WAV, RIFX, RF64, BW64, W64, AIFF, CAF)


def is_placeholder(size: int) -> bool:
    """Whether a length that reaches beyond the end is one of those that are written before it is known."""
    for bits in (32, 64):
        if 2**bits - ROUNDED_BY <= size < 2**bits or 2 ** (bits - 1) - ROUNDED_BY <= size <= 2 ** (bits - 1):
            return True
    if size > 0 and (size % ROUND_DECIMAL == 0 or size % ROUND_BINARY_EXACT == 0):
        return True
    return size > ROUND_BINARY // 2 and min(size % ROUND_BINARY, -size % ROUND_BINARY) <= ROUNDED_BY


def chunked_part(source: Source, start: int, layout: Layout) -> Part:
    """The recording that begins at `start`, with its open lengths filled in.

    Raises:
        AudioError: Sound is missing at the end.
    """
    patches: dict[int, bytes] = {}
    end, long_sizes, codec = start + layout.first, None, b""
    for chunk in _chunks(source, start + layout.first, layout):
        end = _next(source, chunk, layout)
        if chunk.name == b"ds64" and layout in (RF64, BW64):
            long_sizes = chunk
        if chunk.name == b"desc" and layout is CAF:
            codec = source.at(chunk.content + 8, 4)
        if chunk.name != layout.data:
            continue
        true_end = _end_of_sound(source, chunk, layout, long_sizes)
        sound_end = end if true_end is None else true_end
        if (another := _next_recording(source, chunk.content, layout)) < sound_end:
            source.fail_joined_too_early(another, sound_end)
        if true_end is None:
            continue
        patches = _closed(source, start, chunk, layout, true_end, long_sizes)
        end = true_end
        if long_sizes is not None:
            end = _next(source, chunk._replace(size=true_end - chunk.content), layout)
        for behind in _chunks(source, end, layout):
            end = _next(source, behind, layout)
        break
    end = min(end, source.size)
    if layout is BW64:  # the same as RF64 by another name (ITU-R BS.2088), which libsndfile does not know
        patches[start] = b"RF64"
    part = Part(layout.kind, start, end, patched(start, end, patches))
    if layout is CAF and codec not in CAF_OF_LIBSNDFILE:
        return part._replace(kind=f"caf ({codec.decode('latin-1').strip()})", av_format="caf")
    return part


def au_part(source: Source, start: int, order: str) -> Part:
    """The AU recording that begins at `start`."""
    offset, size, _ = _au_fields(source, start, order)
    content = start + offset
    present = source.size - content
    open_ended = size in (0, UNKNOWN) or (size > present and is_placeholder(size))
    end = _next_au(source, content, order)
    if not open_ended:
        if end < content + size < source.size:
            source.fail_joined_too_early(end, content + size)
        if size <= present + SIZE_TOLERANCE:
            _warn_short(source, size, present)
        return source.whole("au", start, min(content + size, source.size))
    if end - content <= 0:
        return source.whole("au", start, source.size)
    if size != UNKNOWN:
        _warn_open(source, size, end - content)
    sound = (end - content).to_bytes(8, "big")[-4:] if end - content < UNKNOWN else bytes([0xFF] * 4)
    if order == "little":
        sound = sound[::-1]
    return Part("au", start, end, patched(start, end, {start + 8: sound}))


def nist_part(source: Source, start: int) -> Part:
    """The NIST SPHERE recording that begins at `start`."""
    head = source.at(start, 4096)
    fields = dict(_NIST_FIELD.findall(head))
    try:
        header = int(head[8:16])
        sound = int(fields[b"sample_count"]) * int(fields.get(b"channel_count", 1))
        sound *= int(fields[b"sample_n_bytes"])
    except (KeyError, ValueError):
        return source.whole("nist", start, source.size)
    end = start + header + sound
    source.require_none_within(b"NIST_1A\n", start + header, end)
    return source.whole("nist", start, end if start + header < end <= source.size else source.size)


def _chunks(source: Source, position: int, layout: Layout) -> Iterator[Chunk]:
    """Chunks one behind the other, up to what is none."""
    while position < source.size:
        chunk = _chunk(source, position, layout)
        if chunk is None:
            return
        yield chunk
        position = _next(source, chunk, layout)


def _chunk(source: Source, position: int, layout: Layout) -> Chunk | None:
    head = source.at(position, layout.header)
    name = head[: layout.id_bytes]
    if len(head) < layout.header or _begins_another(source, position):
        return None
    if not all(0x20 <= letter < 0x7F for letter in name[:4]) or name[4:] not in (b"", W64_ID):
        return None
    size = int.from_bytes(head[layout.id_bytes :], "big" if layout.order == "big" else "little")
    if layout.counts_header:
        size = max(0, size - layout.header)
    content = position + layout.header
    is_whole = content + size <= source.size + SIZE_TOLERANCE
    if name != layout.data and not is_whole and name not in SILENT_CHUNKS:
        return None
    return Chunk(name, content, size)


def _next(source: Source, chunk: Chunk, layout: Layout) -> int:
    """Where the chunk behind this one begins; some writers leave out the padding."""
    end = chunk.content + chunk.size
    padded = end + -chunk.size % layout.align
    if padded == end or end >= source.size:
        return min(end, source.size)
    if any(source.at(end, padded - end)) and (
        _begins_another(source, end) or _chunk(source, end, layout) is not None
    ):
        return end
    return min(padded, source.size)


def _begins_another(source: Source, position: int) -> bool:
    head = source.at(position, 16)
    if head.startswith(OTHER_MARKS):
        return True
    return any(all(head[at : at + len(mark)] == mark for at, mark in layout.marks) for layout in LAYOUTS)


def _end_of_sound(source: Source, chunk: Chunk, layout: Layout, long_sizes: Chunk | None) -> int | None:
    """Where the sound of an open length really ends; None where the length holds."""
    size, present = chunk.size, source.size - chunk.content
    if long_sizes is not None and size == UNKNOWN:
        size = int.from_bytes(source.at(long_sizes.content + 8, 8), "little")
    stated = size
    if layout is CAF and size == 2**64 - 1:
        pass
    elif size <= layout.before_sound:
        if present <= layout.before_sound or _is_all_chunks(source, chunk.content + size, layout):
            return None  # nothing was recorded
    elif size <= present + SIZE_TOLERANCE:
        _warn_short(source, size, present)
        return None if long_sizes is None else chunk.content + min(size, present)
    elif not is_placeholder(size):
        source.fail_truncated(
            f"its header promises {stated} bytes of sound, {present} are there "
            f"(if the recorder never closed it, {IGNORE_LENGTH})"
        )
    end = _next_recording(source, chunk.content, layout)
    if end - chunk.content > layout.before_sound and stated not in (UNKNOWN, 2**64 - 1):
        _warn_open(source, stated, end - chunk.content)
    return end


def _warn_short(source: Source, stated: int, present: int) -> None:
    if stated > present:
        logger.warning(
            "%s: its header states %d bytes of sound, %d are there: miscounted, or the last of it is missing",
            source.name, stated, present,
        )  # fmt: skip


def _warn_open(source: Source, stated: int, present: int) -> None:
    logger.warning(
        "%s: its header states %d bytes of sound, %d are there: the recorder did not close the file; "
        "it is read to its end",
        source.name, stated, present,
    )  # fmt: skip


def _is_all_chunks(source: Source, position: int, layout: Layout) -> bool:
    """Whether everything up to the end of the file or the next recording is made of chunks."""
    for chunk in _chunks(source, position, layout):
        position = _next(source, chunk, layout)
    return position >= source.size or _begins_another(source, position)


def _next_recording(source: Source, position: int, layout: Layout) -> int:
    """Where the next recording of the same container begins; the end of the file if none does."""
    offset, mark = {AIFF: (8, b"AIF"), CAF: (8, b"desc"), W64: (24, b"wave" + W64_ID)}.get(
        layout, (8, b"WAVE")
    )
    at = source.find(mark, position)
    while at is not None:
        if at - offset >= position and _begins_another(source, at - offset):
            return at - offset
        at = source.find(mark, at + 1)
    return source.size


def _closed(
    source: Source, start: int, data: Chunk, layout: Layout, end: int, long_sizes: Chunk | None
) -> dict[int, bytes]:
    """The fields of length as they ought to be, by their positions."""
    whole, sound = end - start - 8, end - data.content
    order: Literal["big", "little"] = "big" if layout.order == "big" else "little"
    if long_sizes is not None:
        return {
            long_sizes.content: whole.to_bytes(8, "little"),
            long_sizes.content + 8: sound.to_bytes(8, "little"),
        }
    if layout is W64:
        return {
            start + 16: (end - start).to_bytes(8, "little"),
            data.content - 8: (sound + layout.header).to_bytes(8, "little"),
        }
    if layout is CAF:
        return {data.content - 8: sound.to_bytes(8, "big")}
    fields = {start + 4: min(whole, UNKNOWN).to_bytes(4, order)}
    fields[data.content - 4] = min(sound, UNKNOWN).to_bytes(4, order)
    if layout is AIFF:
        fields |= _closed_aiff(source, start, sound - layout.before_sound)
    return fields


def _closed_aiff(source: Source, start: int, sound: int) -> dict[int, bytes]:
    """The number of frames, which an AIFF states besides the bytes."""
    for chunk in _chunks(source, start + AIFF.first, AIFF):
        if chunk.name == b"COMM":
            head = source.at(chunk.content, 8)
            frame = int.from_bytes(head[:2]) * -(-int.from_bytes(head[6:8]) // 8)
            return {chunk.content + 2: min(sound // frame, UNKNOWN).to_bytes(4)} if frame else {}
        if chunk.name == AIFF.data:
            return {}
    return {}


def _au_fields(source: Source, start: int, order: str) -> tuple[int, int, int]:
    head = source.at(start, 24)
    fields = [int.from_bytes(head[at : at + 4], "big" if order == "big" else "little") for at in (4, 8, 12)]
    return fields[0], fields[1], fields[2]


def _next_au(source: Source, position: int, order: str) -> int:
    mark = b".snd" if order == "big" else b"dns."
    at = source.find(mark, position)
    while at is not None:
        offset, _, encoding = _au_fields(source, at, order)
        if 24 <= offset <= LONGEST_AU_HEADER and encoding in AU_ENCODINGS:
            return at
        at = source.find(mark, at + 1)
    return source.size
