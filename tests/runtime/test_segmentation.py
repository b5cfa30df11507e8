"""Splitting long recordings: nothing lost, cuts in the pauses, no sliver at the end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audio.segmentation import Splitter
from runtime.errors import AudioError, SettingsError

RATE = 16000


def split_at_quietest(waveform, rate, window_s, search_s=None, pause_s=float("inf"), block=7919):
    """Segments as (start, end) in samples; the waveform comes in blocks of an odd size."""
    blocks = (waveform[start : start + block] for start in range(0, waveform.size, block))
    return list(Splitter(rate, window_s, search_s, pause_s).split(blocks))


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
    paused = np.concatenate([noise(1.0), np.zeros(3 * RATE, np.float32), noise(2.0)])
    for waveform in (noise(6.0), paused, np.ones(1, np.float32)):
        (segment,) = split_at_quietest(waveform, RATE, 6.0, pause_s=1.0)
        assert (segment.start, segment.end) == (0, waveform.size)
        np.testing.assert_array_equal(segment.waveform, waveform)
    assert split_at_quietest(np.zeros(0, np.float32), RATE, 6.0) == []


@pytest.mark.parametrize("floor", [0.0, 1e-4, 5e-3])
@pytest.mark.parametrize("pause_s", [1.1, 1.7, 5.0, 20.0])
def test_segments_start_and_end_with_their_sound(pause_s, floor):
    lengths = np.random.default_rng(5).uniform(0.6, 4.9, 25)
    waveform, pauses = joined(lengths, pause_s, floor)
    segments = split_at_quietest(waveform, RATE, 6.0, pause_s=1.0)
    begins = [0, *(end for _, end in pauses[:-1])]
    for begin, (end, _) in zip(begins, pauses, strict=True):
        (own,) = [s for s in segments if s.start < begin + 0.3 * RATE < s.end]
        assert own.start == pytest.approx(begin, abs=0.1 * RATE)
        assert own.end - own.pause == pytest.approx(end, abs=0.02 * RATE)


def test_a_fading_end_belongs_to_the_sound():
    """Quieter than a fifth of the way from the pause to the loudest, and yet no pause."""
    parts = [noise(2.0), noise(0.6, 8e-4), noise(1.5, 3e-4), noise(3.0), noise(1.5, 3e-4), noise(2.0)]
    segments = split_at_quietest(np.concatenate(parts), RATE, 6.0, pause_s=1.0)
    ends = [(s.end - s.pause) / RATE for s in segments]
    assert ends == pytest.approx([2.6, 7.1, 10.6], abs=0.05)


@pytest.mark.parametrize("rest_s", [0.1, 0.3, 0.49, 0.7, 1.5])
def test_a_pause_at_the_end_that_the_window_cuts_is_told_from_the_sound(rest_s):
    """The last segment has to leave half a second to its successor, which may hold nothing but the pause."""
    waveform = np.concatenate([noise(4.5), noise(1.5 + rest_s, 1e-3)])
    first, last = split_at_quietest(waveform, RATE, 6.0, pause_s=1.0)
    assert (first.end - first.pause) / RATE == pytest.approx(4.5, abs=0.02)
    assert last.waveform.size >= 0.5 * RATE


def test_the_size_of_the_blocks_changes_nothing():
    waveform, _ = joined(np.random.default_rng(6).uniform(0.6, 4.0, 12), 1.2, 1e-3)
    expected = split_at_quietest(waveform, RATE, 6.0, pause_s=1.0, block=waveform.size)
    for block in (1000, 48000, 500_000):
        found = split_at_quietest(waveform, RATE, 6.0, pause_s=1.0, block=block)
        assert [(s.start, s.end) for s in found] == [(s.start, s.end) for s in expected]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.floats(0.02, 9), min_size=1, max_size=8),
    pause_s=st.floats(0.0, 9),
    floor=st.sampled_from([0.0, 1e-4, 1e-2]),
    threshold=st.floats(0.2, 3),
)
def test_pauses_lose_and_repeat_nothing(lengths, pause_s, floor, threshold):
    waveform, _ = joined(lengths, pause_s, floor)
    segments = split_at_quietest(waveform, RATE, 6.0, pause_s=threshold)
    np.testing.assert_array_equal(np.concatenate([s.waveform for s in segments]), waveform)
    assert all(0 < s.waveform.size <= 6 * RATE for s in segments)
    assert [s.start for s in segments] == [0, *(s.end for s in segments[:-1])]


@pytest.mark.parametrize("pause_s", [0, 0.1, -1, float("nan")])
def test_impossible_pauses(pause_s):
    with pytest.raises(SettingsError, match="pause_s"):
        Splitter(RATE, 6.0, pause_s=pause_s)


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
