"""Where recordings of browsers and phones end, and whether they are whole, before FFmpeg decodes them.

FFmpeg reads what there is: of two joined MP4 files the first, of a file cut in two its beginning, without a
word. So the containers are walked here, which takes their lengths and no codec.
"""

from collections.abc import Callable
from typing import Final

from runtime.audio.source import Part, Source

EBML: Final = 0x1A45DFA3
SEGMENT: Final = 0x18538067
CLUSTER: Final = 0x1F43B675
MATROSKA_PARTS: Final = frozenset(
    (SEGMENT, CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367,
     0xEC, 0xBF, 0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF)
)  # fmt: skip
AMR: Final = b"#!AMR\n"
AMR_WB: Final = b"#!AMR-WB\n"
# Bytes of a frame of 20 ms by its mode, the mode's own byte included; 0 for none
# (RFC 4867, section 5.3; 3GPP TS 26.101 and TS 26.201).
AMR_FRAMES: Final = (13, 14, 16, 18, 20, 21, 27, 32, 6, 0, 0, 0, 0, 0, 0, 1)
AMR_WB_FRAMES: Final = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 0, 0, 0, 0, 1, 1)
AAC_SAMPLES: Final = 1024  # of a raw data block; twice that where a decoder doubles the rate (HE-AAC)
ASF_HEADER: Final = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_BROADCAST: Final = 1  # flag of a live stream, which states no length
WAVPACK_INITIAL: Final = 0x800  # flag of a block: its channels are the first ones
UNKNOWN_SAMPLES: Final = 0xFFFF_FFFF


def mp4_part(source: Source, start: int) -> Part:
    """Boxes up to the next `ftyp` (ISO 14496-12, section 4.2).

    Raises:
        AudioError: A box is cut off, or the box that describes the sound was never written.
    """
    position, names = start, set()
    while position < source.size:
        head = source.at(position, 16)
        name, size = head[4:8], int.from_bytes(head[:4])
        if (name == b"ftyp" and position > start) or not all(0x20 <= letter < 0x7F for letter in name):
            break
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:16])
        elif size == 0:  # to the end of the file
            size = source.size - position
        if size < 8:
            break
        if position + size > source.size:
            source.fail_truncated(
                f"its m4a/mp4/3gp box {name.decode('ascii')!r} has {size} bytes, "
                f"{source.size - position} are there"
            )
        names.add(name)
        position += size
    if b"moov" not in names:
        source.fail_truncated(
            "m4a/mp4/3gp without the box 'moov' that describes its sound; recorders write it last"
        )
    return source.whole("m4a/mp4/3gp", start, position, "mov")


def matroska_part(source: Source, start: int) -> Part:
    """Elements up to the next EBML header (RFC 8794); browsers leave the lengths of the outer ones open.

    Raises:
        AudioError: An element is cut off, or is none.
    """
    position = start
    while position < source.size:
        head = source.at(position, 12)
        id_bytes = _vint_bytes(head[0])
        size_bytes = _vint_bytes(head[id_bytes]) if len(head) > id_bytes else 1
        number = int.from_bytes(head[:id_bytes])
        if number == EBML and position > start:
            break
        if number != EBML and number not in MATROSKA_PARTS:  # tags, another recording, or damage
            break
        if size_bytes > 8:
            source.fail_damaged("webm/matroska", f"byte {position} begins no element")
        if len(head) < id_bytes + size_bytes:
            source.fail_truncated(f"it ends in the middle of a webm/matroska element, at byte {position}")
        size = int.from_bytes(head[id_bytes : id_bytes + size_bytes]) - (1 << 7 * size_bytes)
        is_open = size == (1 << 7 * size_bytes) - 1
        position += id_bytes + size_bytes
        if not is_open and position + size > source.size:
            source.fail_truncated(
                f"an element of {size} bytes begins at byte {position}, {source.size - position} are there"
            )
        if number == SEGMENT:
            continue
        if is_open and number != CLUSTER:
            source.fail_damaged("webm/matroska", f"the element before byte {position} has no length")
        position += 0 if is_open else size
    return source.whole("webm/matroska", start, position, "matroska")


def amr_part(source: Source, start: int) -> Part:
    """Frames up to what is none: the next header, or the end.

    Raises:
        AudioError: The last frame is cut off.
    """
    is_wide = source.at(start, len(AMR_WB)) == AMR_WB
    lengths, samples_a_frame = (AMR_WB_FRAMES, 320) if is_wide else (AMR_FRAMES, 160)
    position, frames = start + len(AMR_WB if is_wide else AMR), 0
    while (head := source.at(position, 16)) and not _begins_mp4_or_asf(head):
        # The highest bit of a mode's byte and the two lowest are zero; "#" of another header is no such byte.
        length = 0 if head[0] & 0x83 else lengths[head[0] >> 3]
        if length == 0:
            break
        if position + length > source.size:
            source.fail_truncated(f"it ends in the middle of an AMR frame, after {frames / 50:.2f} s")
        position, frames = position + length, frames + 1
    source.require_none_within(AMR[:5], start + len(AMR), position)
    part = source.whole("amr", start, position, "amr")
    return part._replace(samples=frames * samples_a_frame)


def _begins_mp4_or_asf(head: bytes) -> bool:
    """Whether these are other recordings, whose first byte would pass for a mode."""
    return head[4:8] == b"ftyp" or head == ASF_HEADER


def adts_part(source: Source, start: int) -> Part:
    """AAC frames up to what is none (ISO 14496-3, 1.A.2.2).

    Raises:
        AudioError: The last frame is cut off, or there is none.
    """
    position, kind, units = start, None, 0
    while (head := source.at(position, 7))[:1] == b"\xff" and len(head) > 6 and head[1] & 0xF6 == 0xF0:
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        found = (head[1] & 8, head[2] & 0xFD, head[3] & 0xC0)  # version, profile, rate, channels
        if length < 7 or (kind is not None and found != kind):
            break
        if position + length > source.size:
            source.fail_truncated("it ends in the middle of an AAC frame")
        kind, position, units = found, position + length, units + 1 + (head[6] & 3)
    if kind is None:
        source.fail_damaged("aac", "no frame begins it")
    part = source.whole("aac", start, position, "aac")
    return part._replace(samples=units * AAC_SAMPLES)


def asf_part(source: Source, start: int) -> Part:
    """A header that states the length of the file.

    Raises:
        AudioError: There is less than that.
    """
    size = int.from_bytes(source.at(start + 16, 8), "little")
    head = source.at(start, min(size, 1 << 20))
    at = head.find(ASF_FILE)
    stated = int.from_bytes(head[at + 40 : at + 48], "little") if at >= 0 else 0
    is_live = at >= 0 and len(head) > at + 88 and head[at + 88] & ASF_BROADCAST
    if stated == 0 or is_live:
        end = source.find(ASF_HEADER, start + 16)
        return source.whole("wma/asf", start, source.size if end is None else end, "asf")
    if start + stated > source.size:
        source.fail_truncated(f"its header promises {stated} bytes, {source.size - start} are there")
    source.require_none_within(ASF_HEADER, start + 16, start + stated)
    return source.whole("wma/asf", start, start + stated, "asf")


def wavpack_part(source: Source, start: int) -> Part:
    """Blocks up to one that counts from zero again.

    Raises:
        AudioError: A block is cut off, or blocks are missing at the end.
    """
    position, heard, stated = start, 0, UNKNOWN_SAMPLES
    while (head := source.at(position, 32))[:4] == b"wvpk" and len(head) == 32:
        size, _, total, index, samples, flags = (
            int.from_bytes(head[at : at + 4], "little") for at in (4, 8, 12, 16, 20, 24)
        )
        if samples and flags & WAVPACK_INITIAL:
            if index == 0 and heard:
                break
            stated = total if heard == 0 else stated
            heard += samples
        if position + size + 8 > source.size:
            source.fail_truncated("it ends in the middle of a WavPack block")
        position += size + 8
    if stated not in (UNKNOWN_SAMPLES, heard):
        source.fail_truncated(f"its header promises {stated} samples, {heard} are there")
    part = source.whole("wavpack", start, position, "wv")
    return part._replace(samples=heard)


def flac_end(source: Source, start: int) -> int:
    """Where the next FLAC recording begins, or the file ends; a FLAC frame does not tell its length."""
    ends = [source.find(b"fLaC" + first + b"\0\0\x22", start + 4) for first in (b"\0", b"\x80")]
    return min((end for end in ends if end is not None), default=source.size)


def _vint_bytes(first: int) -> int:
    """Length of a number by its first byte: its leading zeros tell (RFC 8794, section 4)."""
    return 9 - first.bit_length()


AV_PARTS: Final[tuple[tuple[int, bytes, Callable[[Source, int], Part]], ...]] = (
    (4, b"ftyp", mp4_part),
    (4, b"moov", mp4_part),
    (4, b"mdat", mp4_part),
    (4, b"wide", mp4_part),
    (0, b"\x1a\x45\xdf\xa3", matroska_part),
    (0, AMR, amr_part),
    (0, AMR_WB, amr_part),
    (0, ASF_HEADER[:4], asf_part),
    (0, b"wvpk", wavpack_part),
)
