"""Made-up speech: sound that an encoder takes for somebody talking, without a recording of anybody.

Voiced syllables are harmonics of a wandering pitch under three formants, fricatives are noise around one
frequency, and there are pauses. What the speech says does not matter, and nothing: only that it resembles
speech in its spectrum and its rhythm.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.whisper.log_mel import LogMelExtractor

SYLLABLE_S = (0.06, 0.2)
VOICED, FRICATIVE = 0.65, 0.2  # shares of the pieces; the rest are pauses
PITCH_HZ = (90.0, 240.0)
FORMANTS_HZ = ((250.0, 850.0), (850.0, 2400.0), (2300.0, 3300.0))
FORMANT_WIDTHS_HZ = np.array([80.0, 120.0, 200.0])
FORMANT_LEVELS = np.array([1.0, 0.5, 0.25])
HIGHEST_HARMONIC_HZ = 4000.0
OVERLAP = 0.1  # of a piece with the next one
SHORTEST_S, LONGEST_S = 0.5, 9.0  # of an example
QUIETEST, LOUDEST = 1.0, 1.8  # level of an example: the largest log10 of its mel power

# Log-mel features (1, mels, frames), and the first position of the padding.
Example = tuple[torch.Tensor, int]


def babble(samples: int, sampling_rate: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Make speech up.

    Args:
        samples: Length.
        sampling_rate: Hz.
        random: Source of all choices.

    Returns:
        (samples,) float32, full scale 1.
    """
    sound = np.zeros(samples)
    pitch = random.uniform(*PITCH_HZ)
    start = 0
    while start < samples:
        length = int(random.uniform(*SYLLABLE_S) * sampling_rate)
        piece = _piece(length, pitch, sampling_rate, random)
        piece *= np.sqrt(np.hanning(length)) * np.exp(random.normal() * 0.4)
        kept = min(length, samples - start)
        sound[start : start + kept] += piece[:kept]
        start += int(length * (1 - OVERLAP))
    sound += random.normal(size=samples) * 1e-3 * np.abs(sound).max()
    scaled: NDArray[np.float32] = (sound / np.abs(sound).max()).astype(np.float32)
    return scaled


def examples(extractor: LogMelExtractor, count: int, seed: int) -> Iterator[Example]:
    """Yield made-up utterances from short to long."""
    random = np.random.default_rng(seed)
    positions = extractor.n_frames // 2
    longest = min(LONGEST_S, extractor.window_s / 2)
    for seconds in np.linspace(SHORTEST_S, longest, count):
        samples = int(seconds * extractor.sampling_rate)
        features = extractor([babble(samples, extractor.sampling_rate, random)])[0]
        # A gain adds one number to all of log-mel: features are (log10 of the power + 4) / 4.
        features += np.float32((random.uniform(QUIETEST, LOUDEST) + 4.0) / 4.0) - features.max()
        yield torch.from_numpy(features)[None], -(-samples * positions // extractor.n_samples)


def _piece(length: int, pitch: float, sampling_rate: int, random: np.random.Generator) -> NDArray[np.float64]:
    kind = random.random()
    if kind < VOICED:
        return _voiced(length, pitch, sampling_rate, random)
    if kind < VOICED + FRICATIVE:
        return _fricative(length, sampling_rate, random)
    return random.normal(size=length) * 1e-3


def _voiced(
    length: int, pitch: float, sampling_rate: int, random: np.random.Generator
) -> NDArray[np.float64]:
    times = np.arange(length) / sampling_rate
    glide = 1 + random.normal() * 0.1 * times / times[-1]
    phase = 2 * np.pi * np.cumsum(pitch * np.exp(random.normal() * 0.1) * glide) / sampling_rate
    formants = np.array([random.uniform(*limits) for limits in FORMANTS_HZ])
    harmonics = np.arange(1, int(HIGHEST_HARMONIC_HZ / pitch))
    distances = (harmonics[:, None] * pitch - formants) / FORMANT_WIDTHS_HZ
    levels = (FORMANT_LEVELS / (1 + distances**2)).sum(axis=1) + 0.01
    offsets = random.uniform(0, 2 * np.pi, harmonics.size)
    partials = levels[:, None] * np.cos(harmonics[:, None] * phase + offsets[:, None])
    return 0.5 * np.asarray(partials.sum(axis=0))


def _fricative(length: int, sampling_rate: int, random: np.random.Generator) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(random.normal(size=length))
    frequencies = np.fft.rfftfreq(length, 1 / sampling_rate)
    spectrum /= 1 + ((frequencies - random.uniform(2000, 6000)) / 1000) ** 2
    return 2 * random.uniform(0.1, 0.5) * np.fft.irfft(spectrum, length)
