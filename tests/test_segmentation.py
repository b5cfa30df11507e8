"""Splitting long recordings: nothing lost, cuts in the pauses, no sliver at the end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import AudioError, SettingsError
from runtime.segmentation import Segment, split_at_quietest

RATE = 16000


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def joined(lengths, pause_s, floor=0.0):
    """Bursts with pauses; the waveform and the (start, end) of each pause in samples."""
    parts, pauses, position = [], [], 0
    for index, seconds in enumerate(lengths):
        parts.append(noise(seconds, seed=index))
        position += parts[-1].size
        parts.append(noise(pause_s, floor, seed=1000 + index))
        pauses.append((position, position + parts[-1].size))
        position += parts[-1].size
    return np.concatenate(parts), pauses


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(0, 60000),
    rate=st.sampled_from([1000, 8000, 16000]),
    window_s=st.floats(0.05, 10),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 9),
)
def test_every_sample_is_covered_once(samples, rate, window_s, share, seed):
    waveform = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    segments = split_at_quietest(waveform, rate, window_s, window_s * share)
    position = 0
    for segment in segments:
        assert segment.start == position
        assert 0 < segment.end - segment.start <= int(window_s * rate)
        position = segment.end
    assert position == samples


@pytest.mark.parametrize("floor", [0.0, 1e-4, 5e-3])
@pytest.mark.parametrize("pause_s", [0.25, 0.4, 1.0])
def test_cuts_lie_in_the_pauses(pause_s, floor):
    lengths = np.random.default_rng(3).uniform(1.0, 2.4, 40)
    waveform, pauses = joined(lengths, pause_s, floor)
    segments = split_at_quietest(waveform, RATE, 6.0)
    assert len(segments) > 8
    for segment in segments[:-1]:
        assert any(start <= segment.end <= end for start, end in pauses), segment


def test_the_middle_of_the_latest_pause_is_taken():
    waveform, pauses = joined([1.5, 1.0, 1.0, 1.5, 3.0], 0.5)
    first = split_at_quietest(waveform, RATE, 6.0)[0]
    # Pauses end at 2.0, 3.5, 5.0 and 7.0 s; of those within 3 … 6 s, the one at 4.5 … 5.0 is the latest.
    assert first.end / RATE == pytest.approx(4.75, abs=0.05)
    assert pauses[2] == (int(4.5 * RATE), 5 * RATE)


def test_quieter_beats_later():
    waveform = noise(10.0)
    waveform[int(3.4 * RATE) : int(3.8 * RATE)] *= 0.01
    waveform[int(5.0 * RATE) : int(5.4 * RATE)] *= 0.3
    assert split_at_quietest(waveform, RATE, 6.0)[0].end / RATE == pytest.approx(3.6, abs=0.06)


def test_short_recordings_stay_whole():
    assert split_at_quietest(noise(6.0), RATE, 6.0) == [Segment(0, 6 * RATE)]
    assert split_at_quietest(np.ones(1, np.float32), RATE, 6.0) == [Segment(0, 1)]
    assert split_at_quietest(np.zeros(0, np.float32), RATE, 6.0) == []


@pytest.mark.parametrize("rest_s", [0.0001, 0.05, 0.3, 0.49])
def test_no_sliver_is_left_at_the_end(rest_s):
    segments = split_at_quietest(noise(6.0 + rest_s), RATE, 6.0)
    assert len(segments) == 2
    assert segments[-1].end - segments[-1].start >= 0.5 * RATE


def test_silence_needs_no_more_segments_than_windows_and_a_half():
    segments = split_at_quietest(np.zeros(60 * RATE, np.float32), RATE, 6.0)
    assert len(segments) <= 15


def test_direct_current_and_offsets_do_not_matter_much():
    waveform, _ = joined([2.0] * 10, 0.5)
    cuts = [segment.end for segment in split_at_quietest(waveform, RATE, 6.0)]
    shifted = [segment.end for segment in split_at_quietest(waveform + np.float32(0.02), RATE, 6.0)]
    assert cuts == shifted


@pytest.mark.parametrize(
    ("window_s", "search_s"),
    [(0, None), (-1, None), (6, 0), (6, 7), (float("nan"), None), (float("inf"), 1), (1e-5, None)],
)
def test_impossible_windows(window_s, search_s):
    with pytest.raises(SettingsError):
        split_at_quietest(noise(1.0), RATE, window_s, search_s)


def test_stereo_is_refused():
    with pytest.raises(AudioError, match="mono"):
        split_at_quietest(np.zeros((5, 2), np.float32), RATE, 6.0)
