"""How long an MP3 is, by walking from frame to frame.

An MP3 of variable bit rate without a Xing header does not state its length. libsndfile then estimates it from
the bit rate of the first frame and stops decoding there, even if that is halfway through the recording.
"""

import os
from typing import BinaryIO, Final, NamedTuple

# kbit/s by index, Layer III: MPEG-1, then MPEG-2 and 2.5 (ISO 11172-3, 2.4.2.3; ISO 13818-3, 2.4.2.3).
KILOBITS: Final = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
RATES: Final = {
    3: (44_100, 48_000, 32_000),
    2: (22_050, 24_000, 16_000),
    0: (11_025, 12_000, 8_000),
}  # by version
MPEG_1: Final = 3  # the version bits
LAYER_III: Final = 1  # the layer bits


class Frame(NamedTuple):
    """One MPEG audio frame of Layer III.

    Attributes:
        length: Bytes, header included.
        samples: Samples of each channel.
    """

    length: int
    samples: int


def parse_frame(header: bytes) -> Frame | None:
    """Read a frame header of four bytes; None if it is none of Layer III or of free bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bit_rate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version not in RATES or layer != LAYER_III or bit_rate in (0, 15) or rate == 3:
        return None
    samples = 1152 if version == MPEG_1 else 576
    kilobits = KILOBITS[0 if version == MPEG_1 else 1][bit_rate]
    padding = header[2] >> 1 & 1
    return Frame(samples // 8 * kilobits * 1000 // RATES[version][rate] + padding, samples)


def count_samples(stream: BinaryIO) -> int:
    """Samples of each channel in consecutive frames from the start of an MP3.

    Args:
        stream: A seekable binary file; an ID3v2 tag is skipped. Its position changes.

    Returns:
        The count up to where the chain of frames breaks, so never more than there is; 0 if it never starts.
    """
    stream.seek(0)
    head = stream.read(10)
    position = 0
    if head[:3] == b"ID3" and len(head) == 10:
        size = 0
        for byte in head[6:10]:  # seven bits a byte (ID3v2.4, section 3.1)
            size = size << 7 | byte & 0x7F
        position = 10 + size + (10 if head[5] & 0x10 else 0)
    end = stream.seek(0, os.SEEK_END)
    samples = 0
    while position + 4 <= end:
        stream.seek(position)
        frame = parse_frame(stream.read(4))
        if frame is None:
            break
        if position + frame.length <= end:
            samples += frame.samples
        position += frame.length
    return samples
