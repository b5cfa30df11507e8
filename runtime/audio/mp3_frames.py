"""How long an MP3 is, by walking from frame to frame.

An MP3 of variable bit rate without a Xing header does not state its length. libsndfile then estimates it from
the bit rate of the first frame and stops decoding there, even if that is halfway through the recording. Where
two files were joined, it stops where the header of the first one says.
"""

import logging
from typing import Final, NamedTuple

from runtime.audio.source import Part, Source

logger = logging.getLogger(__name__)

# kbit/s by index: Layer I, II and III of MPEG-1, then Layer I and the two others of MPEG-2 and 2.5
# (ISO 11172-3, 2.4.2.3; ISO 13818-3, 2.4.2.3).
KILOBITS: Final = {
    (3, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by the version bits (2.5 as 2) and the layer bits
RATES: Final = {
    3: (44_100, 48_000, 32_000),
    2: (22_050, 24_000, 16_000),
    0: (11_025, 12_000, 8_000),
}  # by version
MPEG_1: Final = 3  # the version bits
LAYER_I: Final = 3  # the layer bits
LAYER_III: Final = 1
MONO: Final = 3  # the mode bits
STATED_TOO_LOW: Final = 4  # frames by which encoders miscount their own; more belong to another recording


class Frame(NamedTuple):
    """One MPEG audio frame.

    Attributes:
        length: Bytes, header included.
        samples: Samples of each channel.
        kind: What all frames of a recording have in common: version, layer, rate, mono or not.
    """

    length: int
    samples: int
    kind: tuple[int, int, int, bool] = (MPEG_1, LAYER_III, 44_100, False)


def parse_frame(header: bytes) -> Frame | None:
    """Read a frame header of four bytes; None if it is none or of free bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bit_rate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version not in RATES or layer == 0 or bit_rate in (0, 15) or rate == 3:
        return None
    hertz = RATES[version][rate]
    kilobits = KILOBITS[MPEG_1 if version == MPEG_1 else 2, layer][bit_rate]
    padding = header[2] >> 1 & 1
    kind = (version, layer, hertz, header[3] >> 6 == MONO)
    if layer == LAYER_I:
        return Frame((12 * kilobits * 1000 // hertz + padding) * 4, 384, kind)
    samples = 576 if layer == LAYER_III and version != MPEG_1 else 1152
    return Frame(samples // 8 * kilobits * 1000 // hertz + padding, samples, kind)


def mp3_part(source: Source, start: int) -> Part:
    """The recording that begins at `start`: frames of one kind up to where another header begins.

    Raises:
        AudioError: No frame begins there, or the file ends within a frame.
    """
    position, samples, number, kind = start, 0, 0, None
    stated = _stated_frames(source, start)
    behind_stated = start
    while (frame := parse_frame(source.at(position, 4))) is not None:
        if kind is not None and (
            frame.kind != kind or (frame.kind[1] == LAYER_III and _info_at(source, position) is not None)
        ):
            break
        if position + frame.length > source.size:
            source.fail_truncated(
                f"it ends in the middle of an MP3 frame, after {samples / frame.kind[2]:.2f} s"
            )
        if stated is not None and number == stated + 1:  # the frame of the header itself is not stated
            behind_stated, samples_stated = position, samples
        if stated is not None and number == stated + 1 + STATED_TOO_LOW:
            position, samples = behind_stated, samples_stated
            break
        kind, number = frame.kind, number + 1
        samples += frame.samples
        position += frame.length
    if stated is not None and number < stated:
        source.fail_truncated(f"its header promises {stated} MP3 frames, {number} are there")
    if stated is not None and number == stated:
        logger.warning(
            "%s: its header counts itself among the MP3 frames, or the last one is missing", source.name
        )
    if kind is None:
        source.fail("cannot be decoded: no MP3, or an MP3 of free bit rate")
    return Part("mp3", start, position, ((start, position),), samples=samples)


def _stated_frames(source: Source, position: int) -> int | None:
    """How many frames a Xing or Info header states; None without one or where it leaves that open."""
    at = _info_at(source, position)
    field = b"" if at is None else source.at(at, 12)
    if len(field) < 12 or field[:4] == b"VBRI" or not field[7] & 1:  # flag 1: the number of frames is there
        return None
    return int.from_bytes(field[8:12]) or None


def _info_at(source: Source, position: int) -> int | None:
    """Where the Xing, Info or VBRI header of a frame lies."""
    header = source.at(position, 64)
    frame = parse_frame(header)
    if frame is None:
        return None
    is_mono = frame.kind[3]
    side = (17 if is_mono else 32) if frame.kind[0] == MPEG_1 else (9 if is_mono else 17)
    for offset in (4 + side, 6 + side):  # 6: with a checksum
        if header[offset : offset + 4] in (b"Xing", b"Info"):
            return position + offset
    return position + 36 if header[36:40] == b"VBRI" else None
