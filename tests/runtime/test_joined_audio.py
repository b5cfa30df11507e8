"""Files of several recordings, with tags, with open and wrong lengths: all is heard, or it is said."""

import io
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audio.files import open_audio
from runtime.audio.load import load_audio
from runtime.audio.mp3_frames import parse_frame
from runtime.audio.ogg_pages import checksum
from runtime.audio.source import View, patched
from runtime.errors import AudioError
from tests.fuzz.seeds import AUDIO_FORMATS, audio_file

ID3V1 = b"TAG" + bytes(125)
ID3V2 = b"ID3\4\0\0\0\0\1\0" + b"title" + bytes(123)
APE_HEAD = struct.pack("<8sIIIIQ", b"APETAGEX", 2000, 32 + 40, 1, 0xA0000000, 0)
APE = APE_HEAD + b"k" * 40 + struct.pack("<8sIIIIQ", b"APETAGEX", 2000, 32 + 40, 1, 0x80000000, 0)
OLD_APE = b"k" * 40 + struct.pack("<8sIIIIQ", b"APETAGEX", 1000, 32 + 40, 1, 0, 0)  # a footer alone
LYRICS = b"LYRICSBEGININD00002000000020LYRICS200" + ID3V1
TAGS = {
    "none": b"", "id3v1": ID3V1, "id3v2": ID3V2, "both": ID3V1 + ID3V2, "ape": APE,
    "ape and id3v1": APE + ID3V1, "ape of the first version": OLD_APE, "lyrics": LYRICS, "zeros": bytes(700),
}  # fmt: skip


def heard(content: bytes) -> list[tuple[int, int]]:
    """Samples and rate of every run of one rate."""
    runs: list[tuple[int, int]] = []
    with open_audio(content) as file:
        for block in file.blocks():
            before = runs.pop() if runs and runs[-1][1] == block.rate else (0, block.rate)
            runs.append((before[0] + block.waveform.size, block.rate))
    return runs


@contextmanager
def notices() -> Iterator[list[str]]:
    """What the audio modules log meanwhile."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())
    logger = logging.getLogger("runtime.audio")
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


def frames(content: bytes) -> int:
    """What libsndfile alone counts in a file of one recording."""
    return len(soundfile.read(io.BytesIO(content), always_2d=True)[0])


def wav(seconds: float = 1.0) -> bytes:
    return audio_file("WAV", "PCM_16", 16000, 1, seconds)


def with_size(content: bytes, size: int) -> bytes:
    """Exchange the length of a WAV's sound, and its own."""
    edited = bytearray(content)
    at = edited.find(b"data") + 4
    edited[at : at + 4] = size.to_bytes(4, "little")
    edited[4:8] = min(size + at - 4, 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(edited)


def ogg_page(serial: int, number: int, flags: int, packet: bytes, granule: int = 0) -> bytes:
    """One page that holds one packet."""
    lengths = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
    head = struct.pack("<4sBBqII", b"OggS", 0, flags, granule, serial, number)
    page = head + bytes(4) + bytes([len(lengths)]) + lengths + packet
    return head + checksum(page).to_bytes(4, "little") + page[26:]


def flac_in_ogg(flac: bytes) -> bytes:
    """Wrap a FLAC file: its settings in the first page, the rest in pages as it comes."""
    first, rest = flac[:42], flac[42:]
    bodies = [rest[at : at + 20_000] for at in range(0, len(rest), 20_000)]
    pages = [ogg_page(7, 0, 2, b"\x7fFLAC\1\0\0\1" + first)]
    for number, body in enumerate(bodies, 1):
        pages.append(ogg_page(7, number, 4 if number == len(bodies) else 0, body))
    return b"".join(pages)


# -- joined recordings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("container", "subtype", "rate", "channels"), AUDIO_FORMATS)
def test_all_joined_recordings_are_heard(container, subtype, rate, channels):
    first, second = (audio_file(container, subtype, rate, channels, seconds) for seconds in (1.0, 0.5))
    assert heard(first + second + first) == [(2 * frames(first) + frames(second), rate)]
    samples = [soundfile.read(io.BytesIO(part), dtype="float32")[0] for part in (first, second)]
    expected = load_audio(np.concatenate(samples), rate)
    np.testing.assert_allclose(load_audio(first + second), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS.keys())
@pytest.mark.parametrize("settings_", [AUDIO_FORMATS[12], AUDIO_FORMATS[16]], ids=["flac", "mp3"])
def test_tags_between_and_around_recordings(settings_, tag):
    first, second = audio_file(*settings_, 1.0), audio_file(*settings_, 0.5)
    around = first + tag + second + (b"" if tag == bytes(700) else tag)
    if settings_[0] == "FLAC" and tag in (LYRICS, bytes(700)):
        with pytest.raises(AudioError, match="lost sync"):  # no such tags are known at a FLAC's end
            load_audio(around)
        return
    assert heard(around) == [(24000, 16000)]
    assert heard(ID3V2 + around) == [(24000, 16000)]


def test_joined_recordings_of_other_rates_channels_and_containers():
    parts = [
        audio_file("MP3", "MPEG_LAYER_III", 44100, 2, 1.0),
        audio_file("MP3", "MPEG_LAYER_III", 16000, 1, 1.0),
        wav(), audio_file("OGG", "OPUS", 48000, 1, 1.0), audio_file("FLAC", "PCM_24", 96000, 2, 1.0),
    ]  # fmt: skip
    content = b"".join(parts)
    assert heard(content) == [(44100, 44100), (32000, 16000), (48000, 48000), (96000, 96000)]
    joined = load_audio(content)
    np.testing.assert_allclose(joined, np.concatenate([load_audio(part) for part in parts]), atol=1e-6)
    assert abs(joined.size - 5 * 16000) <= 5


def test_flac_in_ogg_is_heard_joined_and_alone():
    flac = audio_file("FLAC", "PCM_16", 16000, 1, 1.0)
    np.testing.assert_array_equal(load_audio(flac_in_ogg(flac)), load_audio(flac))
    assert heard(flac_in_ogg(flac) * 3) == [(48000, 16000)]


def test_streams_that_share_an_ogg_file_are_one_recording():
    # A text track beside the sound: both begin before either goes on.
    pages, sound = [], audio_file("OGG", "VORBIS", 16000, 1, 1.0)
    while sound:
        end = 27 + sound[26] + sum(sound[27 : 27 + sound[26]])
        pages.append(sound[:end])
        sound = sound[end:]
    text = [ogg_page(99, 0, 2, b"\x80kate\0\0\0"), ogg_page(99, 1, 4, b"words")]
    content = b"".join([pages[0], text[0], *pages[1:3], text[1], *pages[3:]])
    assert heard(content) == [(16000, 16000)]


def test_mp3_of_layer_two_and_its_joints():
    av = pytest.importorskip("av")
    assert av
    from tests.fuzz.seeds import av_file

    first, second = av_file("mp2", "mp2", 44100, 2, 1.0), av_file("mp2", "mp2", 44100, 2, 0.5)
    assert heard(first + ID3V1 + second) == [(frames(first) + frames(second), 44100)]


@pytest.mark.parametrize(("container", "subtype", "rate", "channels"), AUDIO_FORMATS)
def test_a_recording_cut_off_and_joined_is_refused(container, subtype, rate, channels):
    content = audio_file(container, subtype, rate, channels, 2.0)
    with pytest.raises(AudioError, match=r"truncated|damaged|incomplete"):
        load_audio(content[: len(content) // 2] + content)
    with pytest.raises(AudioError, match=r"truncated|damaged|incomplete"):
        load_audio(content + content[: len(content) // 2])


def test_the_refusal_names_the_recording():
    with pytest.raises(AudioError, match=r"recording 2 \(from byte 32044\): decoding failed"):
        load_audio(wav() + audio_file("FLAC", "PCM_16", 16000, 1)[:-500])


# -- lengths that were never filled in ----------------------------------------------------------------------

OPEN = [
    0,
    0x7FFFFFFF,
    0x7FFE0000,
    10**9,
    0x80000000,
    0x7FFFF000,
    0xFFFFFFDB,
    0xFFFFFFFE,
    0x7F000000,
    2 * 10**9,
]


@pytest.mark.parametrize("size", OPEN, ids=hex)
def test_wav_that_was_never_closed_is_read_to_its_end(size, caplog):
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(load_audio(with_size(wav(), size)), load_audio(wav()))
    assert f"states {size} bytes of sound, 32000 are there" in caplog.text


@pytest.mark.parametrize("size", OPEN, ids=hex)
def test_open_wav_before_another_recording(size):
    assert heard(with_size(wav(), size) + wav(0.5)) == [(24000, 16000)]


def test_wav_of_unknown_length_needs_no_warning(caplog):
    assert load_audio(with_size(wav(), 0xFFFFFFFF)).size == 16000
    assert not caplog.records


def test_empty_wav_stays_empty():
    head = with_size(wav()[:44], 0)
    for content in (head, head + b"LIST" + struct.pack("<I", 4) + b"INFO"):
        with pytest.raises(AudioError, match="no samples"):
            load_audio(content)
    assert heard(head + wav()) == [(16000, 16000)]


@pytest.mark.parametrize("size", [64000, 33000, 3_000_000_001, 123_456_789])
def test_length_beyond_the_end_that_is_no_placeholder_is_truncation(size):
    with pytest.raises(
        AudioError, match=f"truncated: its header promises {size} bytes of sound, 32000 are there"
    ):
        load_audio(with_size(wav(), size))


def test_length_that_was_not_brought_up_to_date_is_refused():
    with pytest.raises(AudioError, match=r"ends at byte 20044, and 12000 bytes follow.*ignore_length"):
        load_audio(with_size(wav(), 20000))


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF])
@pytest.mark.parametrize("container", ["AIFF", "AU", "CAF", "W64", "RF64"])
def test_other_containers_that_were_never_closed(container, size, caplog):
    content = bytearray(audio_file(container, "PCM_16", 16000, 1, 1.0))
    places = {
        "AIFF": [(content.find(b"SSND") + 4, 4, "big"), (content.find(b"COMM") + 10, 4, "big")],
        "AU": [(8, 4, "big")],
        "CAF": [(content.find(b"data") + 4, 8, "big")],
        "W64": [(content.find(b"data") + 16, 8, "little")],
        "RF64": [(content.find(b"ds64") + 16, 8, "little"), (content.find(b"ds64") + 24, 8, "little")],
    }
    for at, width, order in places[container]:
        content[at : at + width] = size.to_bytes(width, order)
    with caplog.at_level(logging.WARNING):
        assert heard(bytes(content)) == [(16000, 16000)]
    assert f"states {size - 24 if container == 'W64' and size else size} bytes" in caplog.text
    if container != "RF64":
        assert heard(bytes(content) + audio_file(container, "PCM_16", 16000, 1, 0.5)) == [(24000, 16000)]


def test_sound_that_is_short_by_a_few_bytes_is_told(caplog):
    # A byte less is a block less of ADPCM, which is 1,012 samples.
    content = audio_file("WAV", "MS_ADPCM", 16000, 1, 1.0)
    assert heard(content[:-1]) == [(heard(content)[0][0] - 1012, 16000)]
    assert "the last of it is missing" in caplog.text


def test_mp3_that_lacks_its_last_frames_is_told(caplog):
    content, ends = audio_file("MP3", "MPEG_LAYER_III", 44100, 2, 1.0), [0]
    while ends[-1] < len(content):
        ends.append(ends[-1] + parse_frame(content[ends[-1] : ends[-1] + 4]).length)
    for lacking in (2, 3, 10):
        with pytest.raises(AudioError, match=r"truncated: its header promises 40 MP3 frames"):
            load_audio(content[: ends[-1 - lacking]])
    assert not caplog.records
    load_audio(content[: ends[-2]])
    assert "the last one is missing" in caplog.text


# -- other kinds --------------------------------------------------------------------------------------------


def test_bw64_is_heard():
    content = audio_file("RF64", "PCM_16", 16000, 1, 1.0)
    np.testing.assert_array_equal(load_audio(b"BW64" + content[4:]), load_audio(content))


def test_chunks_behind_the_sound_are_no_sound():
    for chunk in (b"LIST", b"id3 ", b"xyz "):
        content = wav() + chunk + struct.pack("<I", 10) + b"INFO123456"
        assert heard(content) == [(16000, 16000)]
        assert heard(content + wav()) == [(32000, 16000)]


def test_bytes_that_would_not_be_heard_are_told():
    noise = np.random.default_rng(0).bytes(500)
    for content in (wav(), audio_file("OGG", "VORBIS", 16000, 1), audio_file("AU", "PCM_16", 16000, 1)):
        with pytest.raises(AudioError, match="500 bytes follow that are neither sound of it nor another"):
            load_audio(content + noise)


def ogg_pages(content: bytes) -> list[bytes]:
    return [b"OggS" + page for page in content.split(b"OggS")[1:]]


def test_ogg_pages_that_are_missing_or_damaged_are_told(caplog):
    pages = ogg_pages(audio_file("OGG", "OPUS", 48000, 1, 10.0))
    assert len(pages) > 6
    with pytest.raises(AudioError, match=r"page 3 is followed by page 5.*missing"):
        load_audio(b"".join(pages[:4] + pages[5:]))
    damaged = pages[4][:300] + bytes([pages[4][300] ^ 1]) + pages[4][301:]
    with pytest.raises(AudioError, match="checksum of the Ogg page"):
        load_audio(b"".join([*pages[:4], damaged, *pages[5:]]))
    with pytest.raises(AudioError, match="no Ogg page, amid others"):
        load_audio(b"".join([*pages[:4], b"x" * 100, *pages[4:]]))
    assert not caplog.records
    load_audio(b"".join(pages[:-1]))
    assert "may have gone on" in caplog.text


# -- properties ---------------------------------------------------------------------------------------------

SHORT = [audio_file(*settings_, 0.3) for settings_ in AUDIO_FORMATS]
COUNTS = [frames(content) for content in SHORT]
# What has no end of its own takes nothing behind it but its own kind and the tags that it is known to have.
ANY_END = [number for number, settings_ in enumerate(AUDIO_FORMATS) if settings_[0] != "FLAC"]


@pytest.mark.parametrize("first", ANY_END)
def test_every_pair_of_recordings_is_heard(first):
    """A recording may begin at an odd byte behind another one."""
    for second in ANY_END:
        for third in (ANY_END[0], ANY_END[-1]):
            runs = heard(SHORT[first] + SHORT[second] + SHORT[third])
            assert sum(samples for samples, _ in runs) == COUNTS[first] + COUNTS[second] + COUNTS[third]


@settings(max_examples=150, deadline=None)
@given(
    numbers=st.lists(st.sampled_from(ANY_END), min_size=1, max_size=4),
    tag=st.sampled_from([b"", ID3V2, bytes(100)]),
    cut=st.one_of(st.just(0), st.integers(1, 3000)),
)
def test_what_is_accepted_is_heard_whole(numbers, tag, cut):
    content = tag.join(SHORT[number] for number in numbers)
    with notices() as told:
        try:
            runs = heard(content[: len(content) - cut])
        except AudioError:
            assert cut > 0
            return
    missing = sum(COUNTS[number] for number in numbers) - sum(samples for samples, _ in runs)
    # Nothing tells that a recording behind the others was there.
    assert missing == 0 or told or cut >= len(SHORT[numbers[-1]])


@given(
    content=st.binary(min_size=1, max_size=60),
    patches=st.lists(st.tuples(st.integers(0, 59), st.binary(min_size=1, max_size=4)), max_size=3),
    reads=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 20)), max_size=6),
)
def test_a_view_reads_as_its_bytes(content, patches, reads):
    edited, taken = bytearray(content), {}
    for at, value in patches:
        if at + len(value) <= len(content) and all(
            at + len(value) <= other or at >= other + len(taken[other]) for other in taken
        ):
            edited[at : at + len(value)] = value
            taken[at] = value
    view, expected = View(io.BytesIO(content), patched(0, len(content), taken)), io.BytesIO(bytes(edited))
    assert view.read() == bytes(edited)
    for at, count in reads:
        assert view.seek(at) == expected.seek(at)
        assert view.read(count) == expected.read(count)
    assert view.seek(-1) == -1
