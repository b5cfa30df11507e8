"""Recordings longer than the window: split, recognised and rescored piece by piece, and never cut unasked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import runtime.commands.main
from bench.manifest import Utterance
from bench.nbest.recognition import PictureShelf, recognise, tasks_of
from bench.text.scoring import count_word_errors
from runtime.errors import SettingsError
from runtime.pipeline import MultimodalASR
from tests.conftest import ROOT
from tests.tools.long_recording import RATE, TEST_SET, joined_clips

PICTURE = TEST_SET / "images" / "test-0000.webp"


def pipeline(bundle, **options):
    return MultimodalASR(bundle, **{"precision": "int8", "providers": "cpu", "threads": 1, **options})


@pytest.fixture(scope="module")
def recording():
    return joined_clips(0.5, seed=3)


def test_segments_tell_what_was_said_when(pocket_asr, recording):
    waveform, clips = recording
    result = pocket_asr.transcribe(waveform)
    assert result.transcription == " ".join(s.transcription for s in result.segments if s.transcription)
    assert result.transcription == result.hypotheses[0].text
    assert len(result.hypotheses) == pocket_asr.search.num_beams
    assert len(result.segments) >= len(clips) > 5
    for before, after in zip(result.segments, result.segments[1:], strict=False):
        assert before.start_s < before.end_s <= after.start_s
    for segment in result.segments:
        assert bool(segment.transcription) == (segment.no_speech is None)
        if segment.no_speech is None or segment.no_speech.log_prob is not None:
            assert 0.0 < segment.no_speech_prob < 1.0
        else:  # silence, which is not decoded
            assert segment.no_speech_prob is None
    answer = result.to_dict()
    assert [row["start_s"] for row in answer["segments"]] == [round(s.start_s, 3) for s in result.segments]
    json.dumps(answer, allow_nan=False)


def test_every_segment_is_recognised_as_it_would_be_alone(pocket_asr, recording):
    waveform, clips = recording
    result = pocket_asr.transcribe(waveform)
    said = [segment for segment in result.segments if segment.transcription]
    assert len(said) == len(clips)
    alone = [pocket_asr.transcribe(clip.audio).transcription for clip in clips]
    assert sum(s.transcription == text for s, text in zip(said, alone, strict=True)) >= len(clips) - 2
    for segment, clip in zip(said, clips, strict=True):
        assert segment.start_s == pytest.approx(clip.start_s, abs=0.5)
        assert segment.end_s == pytest.approx(clip.end_s, abs=0.5)


def test_the_picture_rescores_every_segment(pocket_asr, recording):
    waveform, _ = recording
    embedding = pocket_asr.encode_images([PICTURE])[0]
    heard = pocket_asr.transcribe(waveform)
    seen = pocket_asr.transcribe(waveform, image_path=PICTURE, alpha=0.5)
    assert seen.mode == "multimodal"
    for plain, rescored in zip(heard.segments, seen.segments, strict=True):
        assert list(rescored.hypotheses) == pocket_asr.rescore(plain.hypotheses, embedding, 0.5)
    assert seen.transcription == seen.hypotheses[0].text


def test_file_bytes_and_waveform_give_one_answer(pocket_asr, recording, tmp_path):
    waveform, _ = recording
    path = tmp_path / "long.wav"
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    expected = pocket_asr.transcribe(waveform).to_dict()
    assert pocket_asr.transcribe(path).to_dict() == expected
    assert pocket_asr.transcribe(path.read_bytes()).to_dict() == expected


def test_truncation_is_asked_for_and_told(pocket_asr, recording):
    waveform, _ = recording
    window = pocket_asr.whisper.features.n_samples
    result = pocket_asr.transcribe(waveform, truncate=True)
    seconds = waveform.size / RATE
    assert f"the last {seconds - 6:.2f} of {seconds:.2f} s" in result.warning
    assert len(result.segments) == 1
    assert result.transcription == pocket_asr.transcribe(waveform[:window]).transcription
    assert pocket_asr.transcribe(waveform[:window], truncate=True).warning is None
    both = pocket_asr.transcribe(waveform, image_id="nowhere", truncate=True)
    assert "nowhere" in both.warning
    assert "Truncated" in both.warning


def test_nbest_of_a_long_recording_joins_those_of_its_segments(pocket_asr, recording):
    waveform, clips = recording
    short = waveform[: 2 * RATE]
    long, alone = pocket_asr.generate_nbest_batch([waveform, short], RATE)
    assert alone == pocket_asr.generate_nbest(short)
    assert long == pocket_asr.generate_nbest(waveform)
    assert 1 < len(long) <= pocket_asr.search.num_beams
    assert [h.score for h in long] == sorted((h.score for h in long), reverse=True)
    errors = count_word_errors([" ".join(clip.reference for clip in clips)], [long[0].text])
    assert errors.errors.sum() < 0.5 * errors.reference_length.sum()


def test_the_benchmarks_take_long_recordings_and_silence(pocket_asr, recording, tmp_path):
    waveform, _ = recording
    for name, samples in (("long", waveform), ("silent", np.zeros(RATE, np.float32))):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    rows = [
        Utterance(id=name, audio=tmp_path / f"{name}.wav", reference="", image=PICTURE, line=line)
        for line, name in enumerate(("long", "silent"), start=1)
    ]
    pictures = PictureShelf(pocket_asr)
    long, silent = (recognise(pocket_asr, task, pictures) for task in tasks_of(rows))
    assert long.duration_s == pytest.approx(waveform.size / RATE, abs=3.0)
    assert long.hypotheses[0].text == pocket_asr.transcribe(waveform).transcription
    assert all(h.clip_score is not None for h in long.hypotheses)
    assert silent.hypotheses == ()


@pytest.mark.parametrize("pause_s", [0, -1, float("nan"), 0.1])
def test_impossible_pauses_are_refused_when_opened(pocket_bundle, pause_s):
    with pytest.raises(SettingsError, match="pause_s"):
        pipeline(pocket_bundle, pause_s=pause_s)


def test_command_line(pocket_bundle, recording, tmp_path, capsys):
    waveform, _ = recording
    path = tmp_path / "long.wav"
    soundfile.write(path, waveform, RATE)
    command = ["transcribe", str(path), "--bundle", str(pocket_bundle.folder), "--threads", "1"]
    assert runtime.commands.main.main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["segments"]) > 5
    assert runtime.commands.main.main([*command, "--truncate"]) == 0
    captured = capsys.readouterr()
    assert "Truncated" in captured.err
    assert len(captured.out.split()) < 20
    soundfile.write(path, np.zeros(RATE), RATE)
    assert runtime.commands.main.main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == "\n"
    assert "silence" in captured.err
    assert runtime.commands.main.main([*command, "--keep-all-text", "--json"]) == 0
    assert "no_speech" not in json.loads(capsys.readouterr().out)
    assert runtime.commands.main.main([*command, "--no-speech-threshold", "2"]) == 2
    assert runtime.commands.main.main([*command, "--pause", "0"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_twelve_minutes(pocket_bundle, seed):
    """WER within 1 point of the clips one by one, times within 0.5 s (docs/research/robustness.md)."""
    asr = pipeline(pocket_bundle)
    waveform, clips = joined_clips(12, seed)
    references = [clip.reference for clip in clips]
    alone = count_word_errors(references, [asr.transcribe(clip.audio).transcription for clip in clips])
    result = asr.transcribe(waveform)
    joined = count_word_errors([" ".join(references)], [result.transcription])
    words = alone.reference_length.sum()
    said = [segment for segment in result.segments if segment.transcription]
    starts = [min(abs(s.start_s - clip.start_s) for s in said) for clip in clips]
    ends = [min(abs(s.end_s - clip.end_s) for s in said) for clip in clips]
    print(
        f"seed {seed}: {waveform.size / RATE:.0f} s, {len(clips)} clips, {len(said)} segments with text; "
        f"WER {alone.errors.sum() / words:.2%} one by one, {joined.errors.sum() / words:.2%} joined; "
        f"start off by at most {max(starts):.2f} s, end {max(ends):.2f} s"
    )
    assert abs(joined.errors.sum() - alone.errors.sum()) <= 0.01 * words
    assert max(starts) <= 0.5
    assert max(ends) <= 0.5


# The high-water mark of the process itself; getrusage would hand down that of the test run.
MEASURE = """
import re, sys
from pathlib import Path
from runtime import MultimodalASR
asr = MultimodalASR(sys.argv[1], precision="int8", providers="cpu", threads=1)
text = asr.transcribe(sys.argv[2]).transcription
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1], len(text.split()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_is_flat_in_the_length(pocket_bundle, tmp_path):
    """Largest resident set of a process each; the waveform alone would be 46 MB at 12 minutes (docs)."""
    waveform, _ = joined_clips(12)
    peaks = {}
    for minutes in (1, 3, 12, 36):
        path = tmp_path / "long.wav"
        soundfile.write(path, np.tile(waveform, 3)[: minutes * 60 * RATE], RATE)
        run = subprocess.run(
            [sys.executable, "-c", MEASURE, str(pocket_bundle.folder), str(path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        peaks[minutes] = int(run.stdout.split()[0]) / 1024
    print("peak MiB by minutes:", {minutes: round(peak, 1) for minutes, peak in peaks.items()})
    assert max(peaks.values()) - min(peaks.values()) < 16
