"""Audio loading: files against arrays, one rate against another, then everything that people feed it."""

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audio.channels import mix_down
from runtime.audio.limits import AudioLimits
from runtime.audio.load import MAX_PEAK, level_dbfs, load_audio, stream_audio
from runtime.audio.mp3_frames import mp3_part, parse_frame
from runtime.audio.source import Source
from runtime.audio.tags import skip_tags
from runtime.errors import AudioError, AudioNotFoundError, AudioTooLongError, SettingsError
from tests.conftest import SHARED
from tests.fuzz.seeds import AUDIO_FORMATS, audio_file


def tone(samples: int = 16000, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


def without_xing(mp3: bytes) -> bytes:
    """Cut the first frame of an MP3, which states the true length."""
    return mp3[parse_frame(mp3[:4]).length :]


# -- parity: the same samples by every way ------------------------------------------------------------------


@pytest.mark.parametrize(("container", "subtype", "rate", "channels"), AUDIO_FORMATS)
def test_file_equals_its_samples_as_array(container, subtype, rate, channels):
    content = audio_file(container, subtype, rate, channels)
    samples, file_rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    assert file_rate == rate
    from_file = load_audio(content)
    from_array = load_audio(samples, rate)
    # Sums of channels in float32 depend on the order of addition: a few units in the last place.
    np.testing.assert_allclose(from_file, from_array, rtol=0, atol=1e-6)
    assert abs(from_file.size - samples.shape[0] * 16000 / rate) <= 1


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 44100, 48000, 96000, 192000])
def test_any_rate_gives_the_same_tone(rate):
    loaded = load_audio(tone(rate, rate), rate)
    assert loaded.dtype == np.float32
    assert abs(loaded.size - 16000) <= 1
    middle = slice(2000, 14000)  # away from the filter's onset and end
    # soxr "HQ" has a passband ripple and stopband below -120 dB; 1e-3 of 0.5 is -54 dB.
    np.testing.assert_allclose(loaded[middle], tone()[middle], rtol=0, atol=5e-4)


def test_streamed_resampling_equals_one_shot():
    recording = np.random.default_rng(0).standard_normal(44100 * 30).astype(np.float32) * 0.1
    whole = soxr.resample(recording, 44100, 16000)
    np.testing.assert_array_equal(load_audio(recording, 44100), whole)


@pytest.mark.parametrize("seconds", [3.0, 8.0])
def test_mp3_blocks_join_without_a_seam(seconds):
    # soundfile seeks after every block, which an MP3 decoder answers with a wrong frame: up to 0.07 off.
    content = audio_file("MP3", "MPEG_LAYER_III", 44100, 2, seconds)
    whole, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    np.testing.assert_allclose(load_audio(content), load_audio(whole, rate), rtol=0, atol=1e-6)


def samples_of_mp3(content):
    source = Source(io.BytesIO(content), "mp3")
    return mp3_part(source, skip_tags(source, 0)).samples


def test_mp3_without_a_length_is_never_cut_silently():
    # libsndfile estimates such a file's length from its first frame, here half of the truth, and stops there.
    content = without_xing(audio_file("MP3", "MPEG_LAYER_III", 16000, 1, 8.0))
    assert abs(samples_of_mp3(content) - 8 * 16000) < 4 * 576
    with pytest.raises(AudioError, match=r"4.13 of 8.* s could be decoded.*Xing.*ffmpeg"):
        load_audio(content)


def test_mp3_of_constant_bit_rate_needs_no_length():
    stream = io.BytesIO()
    options = {"subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.5}
    with soundfile.SoundFile(stream, "w", 16000, 1, format="MP3", **options) as sound:
        sound.write(tone(8 * 16000))
    loaded = load_audio(without_xing(stream.getvalue()))
    assert abs(loaded.size - 8 * 16000) < 4 * 576


@pytest.mark.parametrize("seconds", [0.5, 3.0])
@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\0\x0a" + bytes(10)], ids=["bare", "tagged"])
def test_mp3_frames_are_counted(seconds, tag):
    content = tag + audio_file("MP3", "MPEG_LAYER_III", 44100, 2, seconds)
    # One frame holds the Xing header, up to three the encoder's delay and padding.
    assert 0 <= samples_of_mp3(content) - seconds * 44100 <= 4 * 1152
    assert load_audio(content + b"TAG" + bytes(125)).size == pytest.approx(seconds * 16000, abs=1)


@pytest.mark.parametrize(
    ("dtype", "scale", "tolerance"),
    [
        (np.int8, 2**7, 2**-7),
        (np.int16, 2**15, 2**-15),
        (np.int32, 2**31, 1e-7),
        (np.float16, 1, 2**-11),
        (np.float32, 1, 0),
        (np.float64, 1, 1e-7),
        (np.dtype(">f4"), 1, 0),
        (np.dtype(">i2"), 2**15, 2**-15),
    ],
)
def test_every_dtype_is_the_same_tone(dtype, scale, tolerance):
    values = (tone() * scale).astype(dtype)
    np.testing.assert_allclose(load_audio(values), tone(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "half"), [(np.uint8, 2**7), (np.uint16, 2**15), (np.uint32, 2**31)])
def test_unsigned_integers_are_centred(dtype, half):
    values = (tone().astype(np.float64) * half + half).astype(dtype)
    np.testing.assert_allclose(load_audio(values), tone(), rtol=0, atol=1.1 / half + 1e-7)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
def test_channels_are_averaged(channels):
    samples = np.random.default_rng(0).uniform(-1, 1, (500, channels)).astype(np.float32)
    np.testing.assert_allclose(load_audio(samples), samples.mean(axis=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_channels_that_cancel_each_other_are_heard(share, tmp_path):
    """One of them is inverted: a balanced microphone in a stereo input."""
    speech = tone()
    stereo = np.stack([speech, -share * speech], axis=1)
    np.testing.assert_array_equal(load_audio(stereo), speech)
    soundfile.write(tmp_path / "a.wav", stereo, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), speech)
    # Not a channel that is silent; the mean where enough is left of it, and of silence.
    third = np.stack([0 * speech, speech, -speech], axis=1)
    np.testing.assert_array_equal(mix_down(third), speech)
    half = np.stack([speech, -0.5 * speech], axis=1)
    np.testing.assert_allclose(mix_down(half), 0.25 * speech, rtol=1e-6)
    np.testing.assert_array_equal(mix_down(np.zeros((8, 2), np.float32)), np.zeros(8))


def test_path_bytes_and_file_objects_are_the_same(tmp_path):
    content = audio_file("FLAC", "PCM_16", 16000, 1)
    path = tmp_path / "ton ü.flac"
    path.write_bytes(content)
    expected = load_audio(path)
    with path.open("rb") as file:
        np.testing.assert_array_equal(load_audio(file), expected)
    for source in (str(path), content, bytearray(content), memoryview(content), io.BytesIO(content)):
        np.testing.assert_array_equal(load_audio(source), expected)
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as pipe:  # cannot seek
        np.testing.assert_array_equal(load_audio(pipe.stdout), expected)


@pytest.mark.parametrize("name", ["x.mp3", "x.raw", "x.au", "x.vox", "x.gsm", "x.txt", "x"])
def test_wrong_extensions_do_not_matter(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(audio_file("WAV", "PCM_16", 16000, 1))
    assert load_audio(path).size == 8000


@pytest.mark.shared
@pytest.mark.skipif(
    not SHARED.exists(), reason="real recordings lie beside the checkout only on some machines"
)
def test_real_recordings_load():
    paths = [*(SHARED / "speech").glob("*.*"), *sorted((SHARED / "flickr8k-spoken" / "audio").iterdir())[:5]]
    for path in paths:
        if path.suffix == ".jsonl":
            continue
        info = soundfile.info(str(path))
        loaded = load_audio(path)
        assert loaded.size / 16000 == pytest.approx(info.duration, abs=0.05)
        assert -60 < level_dbfs(loaded) < -3


# -- properties ---------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    samples=st.integers(1, 3000),
    channels=st.integers(1, 8),
    rate=st.sampled_from([8000, 11025, 16000, 44100, 48000]),
)
def test_length_follows_duration(samples, channels, rate):
    array = np.random.default_rng(samples).uniform(-1, 1, (samples, channels))
    try:
        loaded = load_audio(array, rate)
    except AudioError:
        assert samples * 16000 / rate < 1
        return
    assert abs(loaded.size - samples * 16000 / rate) < 1
    assert np.isfinite(loaded).all()


def test_level_of_known_signals():
    assert level_dbfs(np.ones(100, np.float32)) == pytest.approx(0.0, abs=1e-9)
    full_sine = np.sin(2 * np.pi * np.arange(16000) / 100).astype(np.float32)
    assert level_dbfs(full_sine) == pytest.approx(-3.0103, abs=1e-3)
    assert level_dbfs(np.full(50, 0.1, np.float32)) == pytest.approx(-20.0, abs=1e-5)
    assert level_dbfs(np.zeros(10, np.float32)) == -math.inf
    assert level_dbfs(np.zeros(0, np.float32)) == -math.inf


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros(16000, np.float32), id="silence"),
        pytest.param(np.full(16000, 0.9, np.float32), id="direct current"),
        pytest.param(np.ones(1, np.float32), id="one sample"),
        pytest.param(np.clip(5 * tone(), -1, 1), id="clipped"),
        pytest.param(3 * tone(), id="above full scale"),
        pytest.param(np.full(16000, -32768, np.int16), id="lowest integer"),
    ],
)
def test_odd_but_sound_signals_are_accepted(samples):
    loaded = load_audio(samples)
    assert loaded.size == samples.size
    assert np.isfinite(loaded).all()


def test_memory_is_bounded_for_a_long_file(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 48000, 8, subtype="PCM_16") as sound:
        for _ in range(180):
            sound.write(np.zeros((48000, 8), np.int16))
    script = (
        "import sys; from bench.measure.system_info import peak_memory\n"
        "from runtime.audio.load import load_audio\n"
        "if len(sys.argv) > 1: load_audio(sys.argv[1])\n"
        "print(peak_memory() // 2**20)"
    )
    peaks = [
        int(subprocess.run([sys.executable, "-c", script, *files], check=True, capture_output=True).stdout)
        for files in ([], [str(path)])
    ]
    # The result takes 11 MB, twice while its parts are joined; the decoded file would take 276 MB.
    assert peaks[1] - peaks[0] < 60


# -- faults -------------------------------------------------------------------------------------------------


def test_missing_file_is_named(tmp_path):
    with pytest.raises(AudioNotFoundError, match="nowhere") as caught:
        load_audio(tmp_path / "nowhere.wav")
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("place", ["/dev/zero", "", "\0", "x" * 5000])
def test_places_that_are_no_file(place):
    with pytest.raises(AudioError):
        load_audio(place)


def test_folder_and_pipe_are_refused(tmp_path):
    with pytest.raises(AudioError, match="folder"):
        load_audio(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AudioError, match="device or pipe"):  # and does not wait for a writer
        load_audio(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"hello, this is a text", "no audio file"),
        (b"\0\0\0\x20ftypM4A " + bytes(100), "m4a.*moov"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "webm.*ffmpeg"),
        (b"#!AMR\n" + bytes(100), "middle of an AMR frame"),
        (b"RIFF" + bytes(4) + b"WAVE", "cannot be decoded"),
        (b"RIFF" + bytes(4) + b"AVI " + bytes(100), "no audio file"),
        (b"\xff\xfb" + bytes(500), "cannot be decoded|no samples"),
        (b"ID3" + bytes(500), "cannot be decoded|no samples"),
    ],
)
def test_what_is_no_audio_is_said(content, words):
    with pytest.raises(AudioError, match=words):
        load_audio(content)


def test_text_does_not_play_by_its_extension(tmp_path):
    path = tmp_path / "speech.au"  # libsndfile alone would play it as 8 kHz mu-law
    path.write_text("these are words, no sounds " * 100)
    with pytest.raises(AudioError, match="no audio file"):
        load_audio(path)


@pytest.mark.parametrize(("container", "subtype", "rate", "channels"), AUDIO_FORMATS)
@pytest.mark.parametrize("part", [0.4, 0.9])
def test_half_uploaded_files_are_refused(container, subtype, rate, channels, part):
    content = audio_file(container, subtype, rate, channels, seconds=2.0)
    with pytest.raises(AudioError, match=r"truncated|damaged|incomplete|no samples"):
        load_audio(content[: int(len(content) * part)])


def test_wav_written_into_a_pipe_is_accepted():
    content = bytearray(audio_file("WAV", "PCM_16", 16000, 1))
    at = content.find(b"data")
    content[4:8] = content[at + 4 : at + 8] = b"\xff\xff\xff\xff"  # as ffmpeg writes what it cannot know yet
    assert load_audio(bytes(content)).size == 8000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_samples_are_counted(value):
    samples = np.zeros((16000, 2), np.float32)
    samples[[3, 7, 9], 1] = value
    with pytest.raises(AudioError, match="3 of 16000 samples are not finite"):
        load_audio(samples)
    with pytest.raises(AudioError, match="3 of 16000 samples are not finite"):
        load_audio(samples, 44100)
    stream = io.BytesIO()
    soundfile.write(stream, samples, 44100, subtype="FLOAT", format="WAV")
    with pytest.raises(AudioError, match="3 of 16000 samples are not finite"):
        load_audio(stream.getvalue())


def test_float64_beyond_float32_is_not_finite():
    with pytest.raises(AudioError, match="2 of 10 samples are not finite"):
        load_audio(np.array([1e300, -1e300] + [0.0] * 8))


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros(0), "empty"),
        (np.zeros((0, 2)), "empty"),
        (np.zeros((5, 0)), "empty"),
        (np.array(3.0), "shape"),
        (np.zeros((2, 3, 4)), "shape"),
        (np.zeros((2, 16000)), "transpose"),
        (np.zeros(9, np.int64), "int16"),
        (np.zeros(9, complex), "dtype"),
        (np.zeros(9, bool), "dtype"),
        (np.array(["a"]), "dtype"),
        (np.array([None]), "dtype"),
        (np.full(9, 20000.0), "32768"),
    ],
)
def test_wrong_arrays_are_explained(samples, words):
    with pytest.raises(AudioError, match=words):
        load_audio(samples)


def test_loudest_float_that_is_taken():
    assert load_audio(np.full(9, MAX_PEAK)).max() == MAX_PEAK


@pytest.mark.parametrize("rate", [0, -16000, 999, 10**7, 16000.5, math.nan, math.inf, True, None, "16000"])
def test_absurd_rates(rate):
    with pytest.raises(AudioError, match="sampling rate"):
        load_audio(tone(), rate)


def test_absurd_rate_of_a_file():
    content = bytearray(audio_file("WAV", "PCM_16", 16000, 1))
    content[24:28] = (3).to_bytes(4, "little")
    with pytest.raises(AudioError, match="3 Hz"):
        load_audio(bytes(content))


def test_less_than_one_sample_after_resampling():
    with pytest.raises(AudioError, match="less than one sample"):
        load_audio(np.zeros(1), 192000)


def test_too_long_is_refused_while_it_is_decoded():
    minute = AudioLimits(seconds=60)
    content = audio_file("FLAC", "PCM_16", 8000, 1, 61.0)
    with pytest.raises(AudioTooLongError, match="longer than 60 s"):
        list(stream_audio(content, limits=minute))
    with pytest.raises(AudioTooLongError, match="at most 60 s"):
        list(stream_audio(np.zeros(8000 * 60 + 1, np.int8), 8000, limits=minute))


def test_what_is_as_long_as_is_allowed_is_read():
    # In blocks of 32.768 s, whose lengths add up to 600.0000000000001 s.
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(16_000 * 600, np.int16), 16_000, format="FLAC")
    assert load_audio(stream.getvalue(), limits=AudioLimits(seconds=600)).size == 16_000 * 600


def test_channels_count_while_it_is_decoded():
    content = audio_file("FLAC", "PCM_16", 8000, 4, 2.0)
    assert sum(block.size for block in stream_audio(content, limits=AudioLimits(values=64_000))) == 32_000
    with pytest.raises(AudioTooLongError, match="more than 63999 samples in all channels"):
        list(stream_audio(content, limits=AudioLimits(values=63_999)))


class Broken(io.RawIOBase):
    def read(self, size=-1):
        raise OSError("connection lost")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Broken(), "connection lost"),
        (io.StringIO("text"), "binary mode"),
        (42, "int"),
        ([0.0, 0.1], "list"),
        (None, "None"),
    ],
)
def test_sources_of_no_use(source, words):
    with pytest.raises(AudioError, match=words):
        load_audio(source)


def test_closed_file_object():
    stream = io.BytesIO(b"x")
    stream.close()
    with pytest.raises(AudioError, match="closed"):
        load_audio(stream)


@pytest.mark.parametrize("target", [0, 500, 10**6])
def test_target_rate_out_of_range(target):
    with pytest.raises(SettingsError, match="target_rate"):
        load_audio(tone(), 16000, target)


def test_no_file_stays_open(tmp_path):
    path = tmp_path / "x.wav"
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("counts open files through /proc")
    path.write_bytes(audio_file("WAV", "PCM_16", 16000, 1))
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        load_audio(path)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(AudioError):
            load_audio(tmp_path)
    path.write_bytes(b"RIFF....WAVE")
    for _ in range(20):
        with pytest.raises(AudioError):
            load_audio(path)
    assert len(list(descriptors.iterdir())) <= before
