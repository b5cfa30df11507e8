"""Recordings of phones and browsers through FFmpeg: what is heard is what a second count says."""

import io
import logging
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.audio.limits import AudioLimits
from runtime.audio.load import load_audio, stream_audio
from runtime.errors import AudioError, AudioTooLongError
from tests.fuzz.seeds import AUDIO_FORMATS, AV_FORMATS, audio_file, av_file
from tests.runtime.test_joined_audio import ID3V1, ID3V2, heard, wav

av = pytest.importorskip("av")
IDS = [f"{container}-{codec}" for container, codec, *_ in AV_FORMATS]
# Kinds that state no length: a cut between two of their frames cannot be seen by anyone.
WITHOUT_LENGTH = ("adts", "amr", "mp2", "webm, live", "mp4, in fragments")
# Kinds of which FFmpeg itself gives more or less than was recorded: no trimming of Vorbis by its last page,
# a block less of GSM, the last packet of ALAC in CAF.
OTHERWISE_COUNTED = ("VORBIS", "GSM610", "ALAC_16")


def counted(content: bytes) -> int:
    """Samples of each channel that FFmpeg decodes, frame by frame."""
    with av.open(io.BytesIO(content)) as file:
        return sum(frame.samples for frame in file.decode(audio=0))


def total(content: bytes) -> int:
    return sum(samples for samples, _ in heard(content))


def clusters(webm: bytes) -> list[bytes]:
    """The head and the clusters of a live WebM."""
    first, *rest = webm.split(b"\x1f\x43\xb6\x75")
    return [first, *(b"\x1f\x43\xb6\x75" + cluster for cluster in rest)]


# -- what is heard ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", AV_FORMATS, ids=IDS)
def test_recordings_of_phones_and_browsers_are_heard(kind):
    content, rate = av_file(*kind, seconds=2.0), kind[2]
    assert heard(content) == [(counted(content), rate)]
    loaded = load_audio(content)
    # Encoders add their delay and fill up their last frame, at most 0.15 s. FFmpeg's of WMA loses 3 ms.
    assert 1.995 * 16000 <= loaded.size <= 2.15 * 16000
    spectrum = np.abs(np.fft.rfft(loaded[8000:24000] * np.hanning(16000)))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert 0.45 < np.abs(loaded[8000:24000]).max() < 0.56


@pytest.mark.parametrize("kind", AV_FORMATS, ids=IDS)
def test_joined_recordings_are_all_heard(kind):
    first, second = av_file(*kind, seconds=1.0), av_file(*kind, seconds=0.5)
    expected = 2 * counted(first) + counted(second)
    assert total(first + second + first) == expected
    if kind[0] != "amr":  # to which zeros are frames
        assert total(first + bytes(100) + second + first) == expected
    assert heard(wav() + first)[-1][0] == counted(first) + (16000 if kind[2] == 16000 else 0)


@pytest.mark.parametrize(
    ("container", "codec"), [("mov", "alac"), ("matroska", "pcm_s16le"), ("ogg", "flac")]
)
def test_lossless_recordings_are_exact(container, codec):
    content = av_file(container, codec, 16000, 1, 1.0)
    samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(load_audio(content), samples, rtol=0, atol=2**-14)


@pytest.mark.parametrize(
    ("codec", "tolerance"), [("pcm_u8", 2**-6), ("pcm_s32le", 1e-6), ("pcm_f32le", 1e-6), ("pcm_f64le", 1e-6)]
)
def test_every_sample_format_is_scaled(codec, tolerance):
    samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    content = av_file("matroska", codec, 16000, 2, 1.0)
    np.testing.assert_allclose(load_audio(content), samples, rtol=0, atol=tolerance)


@pytest.mark.parametrize("settings_", [each for each in AUDIO_FORMATS if each[1] not in OTHERWISE_COUNTED])
def test_libsndfile_and_ffmpeg_count_the_same(settings_):
    content = audio_file(*settings_)
    assert heard(content) == [(counted(content), settings_[2])]


def test_a_picture_beside_the_sound_is_no_matter():
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as file:
        film, track = file.add_stream("mpeg4", rate=10), file.add_stream("aac", rate=16000)
        film.width, film.height, film.pix_fmt = 32, 32, "yuv420p"
        track.codec_context.layout = "mono"
        for number in range(10):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8))
            file.mux(film.encode(picture))
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 16000, 1024 * number, Fraction(1, 16000)
            file.mux(track.encode(sound))
        file.mux(film.encode(None))
        file.mux(track.encode(None))
    assert total(stream.getvalue()) == counted(stream.getvalue()) >= 10 * 1024


def test_a_film_without_sound_is_refused():
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as file:
        film = file.add_stream("mpeg4", rate=10)
        film.width, film.height, film.pix_fmt = 32, 32, "yuv420p"
        file.mux(film.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        file.mux(film.encode(None))
    with pytest.raises(AudioError, match="m4a/mp4/3gp without sound"):
        load_audio(stream.getvalue())


# -- what is not there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [kind for kind in AV_FORMATS if kind[:2] not in (("ogg", "flac"), ("mp2", "mp2"))]
)
def test_without_the_package_the_command_is_named(kind, monkeypatch):
    content = av_file(*kind)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        AudioError, match=r"(m4a|webm|amr|aac|caf|wma|wavpack).*pip install 'earsight\[formats\]'"
    ):
        load_audio(content)


def test_reading_a_wav_does_not_load_the_package():
    code = (
        "import sys; from runtime.audio.load import load_audio; load_audio(sys.stdin.buffer); "
        "print('av' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=wav(), capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]


@pytest.mark.parametrize("kind", AV_FORMATS, ids=IDS)
@pytest.mark.parametrize("part", [0.4, 0.9])
def test_half_uploaded_recordings_are_refused(kind, part):
    content = av_file(*kind, seconds=2.0)
    with pytest.raises(AudioError, match=r"truncated|damaged|incomplete"):
        load_audio(content[: int(len(content) * part)])


@pytest.mark.parametrize("kind", AV_FORMATS, ids=IDS)
def test_a_recording_cut_off_and_joined_is_refused(kind):
    content = av_file(*kind, seconds=2.0)
    with pytest.raises(AudioError, match=r"truncated|damaged|incomplete"):
        load_audio(content[: len(content) // 2 + 10] + content)


def test_a_recorder_that_died_before_it_wrote_the_index():
    content = av_file("mp4", "aac", 16000, 1)
    with pytest.raises(AudioError, match="without the box 'moov'"):
        load_audio(content[: content.find(b"moov") - 4])


@pytest.mark.parametrize(
    "kind", [("mp4", "aac", 16000, 1), ("webm", "libopus", 48000, 1), ("adts", "aac", 16000, 1)]
)
def test_a_hole_of_zeros_is_refused(kind):
    content = bytearray(av_file(*kind, seconds=3.0))
    content[3000:6000] = bytes(3000)
    with pytest.raises(AudioError, match=r"truncated|damaged"):
        load_audio(bytes(content))


def test_a_chunk_of_a_live_recording_that_got_lost_is_told(caplog):
    parts = clusters(av_file("webm, live", "libopus", 48000, 1, 20.0))
    assert len(parts) > 10
    with caplog.at_level(logging.WARNING):
        assert total(b"".join(parts)) == 20 * 48000
        assert not caplog.records
        assert total(b"".join(parts[:4] + parts[5:])) == 19 * 48000
    assert "1.00 s are missing between its packets" in caplog.text


def test_too_long_is_refused_while_it_is_decoded():
    limits = AudioLimits(seconds=5)
    with pytest.raises(AudioTooLongError, match="longer than 5 s"):
        list(stream_audio(av_file("mp4", "aac", 16000, 1, 6.0), limits=limits))
    with pytest.raises(AudioTooLongError, match="longer than 5 s"):
        list(stream_audio(av_file("webm", "libopus", 48000, 1, 2.0) * 3, limits=limits))


def test_memory_is_bounded_for_a_long_recording(tmp_path):
    path = tmp_path / "long.mka"
    path.write_bytes(av_file("matroska", "flac", 48000, 2, 180.0))
    script = (
        "import sys, av; from bench.measure.system_info import peak_memory\n"
        "from runtime.audio.load import load_audio\n"
        "load_audio(sys.argv[1]); print(peak_memory() // 2**20)"
    )
    (tmp_path / "short.mka").write_bytes(av_file("matroska", "flac", 48000, 2, 1.0))
    peaks = [
        int(subprocess.run([sys.executable, "-c", script, str(file)], check=True, capture_output=True).stdout)
        for file in (tmp_path / "short.mka", path)
    ]
    # The result takes 11 MB, twice while its parts are joined; all decoded samples would take 69 MB.
    assert peaks[1] - peaks[0] < 50


def test_an_interrupt_within_a_callback_is_raised():
    from runtime.audio.files import AudioFile

    number = 0

    class Interrupted(io.BytesIO):
        calls = 0

        def readinto(self, buffer):
            Interrupted.calls += 1
            if Interrupted.calls == number:
                raise KeyboardInterrupt
            return super().readinto(buffer)

    content = av_file("matroska", "pcm_s16le", 16000, 1, 10.0)
    for number in (1, 2, 3):  # noqa: B007 - read by the class
        Interrupted.calls = 0
        with pytest.raises(KeyboardInterrupt), AudioFile(Interrupted(content), "audio") as audio:
            list(audio.blocks())


# -- properties ---------------------------------------------------------------------------------------------

SHORT = [av_file(*kind, seconds=0.4) for kind in AV_FORMATS]
COUNTS = [counted(content) for content in SHORT]


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(st.integers(0, len(SHORT) - 1), min_size=1, max_size=4),
    tag=st.sampled_from([b"", ID3V1, ID3V2, bytes(100)]),
)
def test_of_joined_recordings_every_sample_is_heard(numbers, tag):
    tag = ID3V1 if tag == bytes(100) and any(AV_FORMATS[number][0] == "amr" for number in numbers) else tag
    content = tag.join(SHORT[number] for number in numbers)
    assert total(content) == sum(COUNTS[number] for number in numbers)


@settings(max_examples=150, deadline=None)
@given(number=st.integers(0, len(SHORT) - 1), share=st.floats(0.01, 0.999))
@example(number=14, share=0.048828125)
def test_of_a_cut_recording_nothing_is_taken_for_the_whole(number, share):
    content = SHORT[number][: int(len(SHORT[number]) * share)]
    try:
        found = total(content)
    except AudioError:
        return
    if found == 0:  # cut behind its headers, where not even a length is stated
        with pytest.raises(AudioError, match="no samples"):
            load_audio(content)
    elif AV_FORMATS[number][0] in WITHOUT_LENGTH:
        assert found == counted(content)
    else:
        assert found == COUNTS[number]


@settings(max_examples=100, deadline=None)
@given(
    settings_=st.sampled_from([each for each in AUDIO_FORMATS if each[1] not in OTHERWISE_COUNTED]),
    seconds=st.floats(0.02, 0.6),
)
def test_every_length_is_counted_the_same_by_both(settings_, seconds):
    content = audio_file(*settings_, seconds)
    assert total(content) == counted(content) == len(soundfile.read(io.BytesIO(content))[0])
