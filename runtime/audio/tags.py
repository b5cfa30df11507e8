"""Tags and padding around recordings: ID3v1, ID3v2, APE, Lyrics3. None of them is sound."""

from typing import Final

from runtime.audio.source import Source

ID3V1_BYTES: Final = 128
ID3V1_MORE_BYTES: Final = 227  # "TAG+", which stands before "TAG"
APE_MARK_BYTES: Final = 32  # of the header, and of the footer
LONGEST_SEARCHED: Final = 1 << 20  # bytes; of tags whose length stands at their end


def skip_tags(source: Source, position: int) -> int:
    """The byte behind all tags and zero bytes that begin at `position`."""
    while position < source.size:
        head = source.at(position, APE_MARK_BYTES)
        end = _tag_end(source, position, head)
        if end is None:
            end = position + _leading_zeros(source, position)
        if end == position:
            break
        position = end
    return min(position, source.size)


def before_tags(source: Source, start: int, end: int) -> int:
    """The first byte of the tags that end at `end`; `end` if none does."""
    while True:
        tail = source.at(max(start, end - ID3V1_BYTES), min(ID3V1_BYTES, end - start))
        footer = tail[-APE_MARK_BYTES:]
        if len(tail) == ID3V1_BYTES and tail[:3] == b"TAG":
            end -= ID3V1_BYTES
        elif footer[:8] == b"APETAGEX":
            has_header = footer[23] & 0x80
            size = int.from_bytes(footer[12:16], "little") + (APE_MARK_BYTES if has_header else 0)
            if not APE_MARK_BYTES <= size <= end - start:
                return end
            end -= size
        elif (at := _id3_that_ends_at(source, start, end)) is not None:
            end = at
        else:
            return end


def id3_size(head: bytes) -> int | None:
    """Length of the ID3v2 tag that these bytes begin; None if they begin none."""
    if head[:3] != b"ID3" or len(head) < 10 or head[3] == 0xFF or max(head[6:10]) >= 0x80:
        return None
    size = 0
    for byte in head[6:10]:  # seven bits a byte (ID3v2.4, section 3.1)
        size = size << 7 | byte
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _tag_end(source: Source, position: int, head: bytes) -> int | None:
    if (size := id3_size(head)) is not None:
        return position + size
    if head[:4] == b"TAG+":
        return position + ID3V1_MORE_BYTES
    if head[:3] == b"TAG" and source.size - position >= ID3V1_BYTES:
        return position + ID3V1_BYTES
    if head[:8] == b"APETAGEX" and len(head) == APE_MARK_BYTES:
        is_header = head[23] & 0x20
        return position + APE_MARK_BYTES + (int.from_bytes(head[12:16], "little") if is_header else 0)
    if head[:11] == b"LYRICSBEGIN":
        text = source.at(position, LONGEST_SEARCHED)
        ends = [at for at in (text.find(b"LYRICS200"), text.find(b"LYRICSEND")) if at >= 0]
        return position + min(ends) + 9 if ends else None
    # The first APE tags had a footer only, whose size counts from the first byte of the tag.
    text = source.at(position, 1 << 13)
    at = text.find(b"APETAGEX")
    if at >= 0 and int.from_bytes(text[at + 12 : at + 16], "little") == at + APE_MARK_BYTES:
        return position + at + APE_MARK_BYTES
    return None


def _id3_that_ends_at(source: Source, start: int, end: int) -> int | None:
    begin = max(start, end - LONGEST_SEARCHED)
    text = source.at(begin, end - begin)
    at = text.rfind(b"ID3")
    while at >= 0:
        if id3_size(text[at : at + 10]) == len(text) - at:
            return begin + at
        at = text.rfind(b"ID3", 0, at)
    return None


def _leading_zeros(source: Source, position: int) -> int:
    count = 0
    while block := source.at(position + count, 1 << 16):
        zeros = len(block) - len(block.lstrip(b"\0"))
        count += zeros
        if zeros < len(block):
            break
    # An MP4 begins with the length of its first box, whose upper bytes are zero.
    for own in (3, 2):
        if count >= own and source.at(position + count - own + 4, 4) == b"ftyp":
            return count - own
    return count
