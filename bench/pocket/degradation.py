"""What stands in for impaired speech and bad rooms: slow and slurred stretches, lost sounds, noise, echo."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.pocket.speech import SAMPLE_RATE

Wave = NDArray[np.float32]
GRAIN: Final = 480  # samples, 30 ms: the grain of the slowing


@dataclass(frozen=True)
class Severity:
    """How badly one group is off; pairs are ranges that a value is drawn from."""

    filler: float  # probability of a filler
    repeat: float  # probability of a repeated word
    slow: tuple[int, int]  # number of slowed stretches
    slow_factor: tuple[float, float]  # how many times longer
    lost: tuple[float, float]  # weakened sounds per second
    lost_db: tuple[float, float]  # by how much, dB
    band: tuple[float, float]  # upper band limit, Hz
    echo: tuple[float, float]  # reverberation time (60 dB), s
    snr: tuple[float, float]  # speech to noise, dB


SEVERITIES: Final = {
    "clean": Severity(0, 0, (0, 0), (1, 1), (0, 0), (0, 0), (7600, 7900), (0, 0), (45, 60)),
    "mild": Severity(0.15, 0.1, (0, 1), (1.1, 1.4), (0, 0.5), (6, 15), (4500, 7900), (0, 0.15), (18, 30)),
    "moderate": Severity(
        0.35, 0.25, (1, 2), (1.2, 1.6), (0.4, 1.2), (10, 25), (3000, 6000), (0.1, 0.35), (8, 18)
    ),
    "severe": Severity(
        0.5, 0.35, (1, 3), (1.2, 1.8), (0.8, 2.0), (15, 35), (2200, 4500), (0.15, 0.5), (2, 11)
    ),
}
# Dev and test go further than what was trained on: weaker sounds, more noise, narrower bands.
HARDER: Final = {
    "clean": SEVERITIES["clean"],
    "mild": Severity(0.2, 0.15, (0, 1), (1.1, 1.5), (0.3, 1.0), (10, 25), (3500, 7000), (0, 0.2), (12, 24)),
    "moderate": Severity(
        0.4, 0.25, (1, 2), (1.2, 1.6), (0.8, 2.0), (15, 35), (2600, 5000), (0.1, 0.4), (6, 15)
    ),
    "severe": Severity(
        0.5, 0.35, (1, 3), (1.2, 1.8), (1.2, 2.8), (20, 40), (2000, 4000), (0.15, 0.5), (1, 9)
    ),
}
GROUPS: Final = ("mild", "moderate", "severe")


def _fast_length(length: int) -> int:
    """The power of two that holds `length`: a Fourier transform of a prime length is slow."""
    return 1 << (length - 1).bit_length()


def _stretch(wave: Wave, factor: float) -> Wave:
    """`wave` made `factor` times longer by overlapping grains; the smeared phases sound slurred."""
    hop = GRAIN // 2
    count = max(1, int((len(wave) * factor - GRAIN) // hop))
    window = np.hanning(GRAIN + 1)[:-1].astype(np.float32)
    padded = np.pad(wave, (0, GRAIN))
    longer = np.zeros(count * hop + GRAIN, np.float32)
    for i in range(count):
        start = int(i * hop / factor)
        longer[i * hop : i * hop + GRAIN] += padded[start : start + GRAIN] * window
    return longer


def slow_down(wave: Wave, factor: float, start: int, stop: int) -> Wave:
    """`wave` with the samples from `start` to `stop` stretched `factor` times."""
    return np.concatenate([wave[:start], _stretch(wave[start:stop], factor), wave[stop:]])


def weaken(wave: Wave, centre: int, length: int, decibels: float) -> Wave:
    """`wave` with `length` samples around `centre` made weaker, faded in and out."""
    gain = np.ones(len(wave), np.float32)
    start, stop = max(0, centre - length // 2), min(len(wave), centre + length // 2)
    dip = np.hanning(stop - start) ** 0.25
    gain[start:stop] = 10.0 ** (-decibels * dip / 20.0)
    return wave * gain


def band_limit(wave: Wave, hertz: float) -> Wave:
    """`wave` without what lies above `hertz` (a soft edge of about a tenth of it)."""
    size = _fast_length(len(wave))
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = 1.0 / (1.0 + np.exp(np.clip((frequency - hertz) / (0.05 * hertz), -50, 50)))
    return np.fft.irfft(np.fft.rfft(wave, size) * gain, size)[: len(wave)].astype(np.float32)


def echo(wave: Wave, seconds: float, rng: np.random.Generator) -> Wave:
    """`wave` in a room of this reverberation time: convolved with decaying noise after the direct sound."""
    length = int(seconds * SAMPLE_RATE)
    if length < 16:
        return wave
    time = np.arange(length) / SAMPLE_RATE
    tail = rng.normal(0, 1, length) * 10.0 ** (-3.0 * time / seconds)
    tail *= 0.7 / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    size = _fast_length(len(wave) + length)
    return np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(tail, size), size)[: len(wave)].astype(
        np.float32
    )


def noise(length: int, rng: np.random.Generator) -> Wave:
    """Coloured noise whose strength wavers; unit power, shape (length,)."""
    size = _fast_length(length)
    spectrum = np.fft.rfft(rng.normal(0, 1, size))
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 50.0)
    coloured = np.fft.irfft(spectrum * frequency ** -rng.uniform(0.0, 0.9), size)[:length]
    knots = rng.uniform(0.4, 1.6, max(2, length // 4000))
    coloured *= np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(knots)), knots)
    return np.asarray(coloured / np.sqrt(np.mean(coloured**2)), np.float32)


def degrade(wave: Wave, severity: Severity, rng: np.random.Generator) -> Wave:
    """Worsen a clean waveform.

    Args:
        wave: shape (samples,), at `SAMPLE_RATE`.
        severity: how much of everything.
        rng: source of chance.

    Returns:
        The worsened waveform, a little silence before and after, peak 0.5, shape (more samples,).
    """
    for _ in range(int(rng.integers(severity.slow[0], severity.slow[1] + 1))):
        length = min(len(wave), int(rng.uniform(0.25, 0.6) * SAMPLE_RATE))
        start = int(rng.integers(0, len(wave) - length + 1))
        wave = slow_down(wave, rng.uniform(*severity.slow_factor), start, start + length)
    for _ in range(round(rng.uniform(*severity.lost) * len(wave) / SAMPLE_RATE)):
        length = int(rng.uniform(0.06, 0.16) * SAMPLE_RATE)
        wave = weaken(wave, int(rng.integers(len(wave))), length, rng.uniform(*severity.lost_db))
    before, after = (int(rng.uniform(0.05, 0.3) * SAMPLE_RATE) for _ in range(2))
    wave = np.pad(wave, (before, after))
    wave = echo(wave, rng.uniform(*severity.echo), rng)
    wave = band_limit(wave, rng.uniform(*severity.band))
    power = float(np.mean(wave**2))
    wave = wave + noise(len(wave), rng) * np.float32(
        np.sqrt(power * 10.0 ** (-rng.uniform(*severity.snr) / 10.0))
    )
    return np.asarray(wave * (0.5 / np.abs(wave).max()), np.float32)


def not_speech(rng: np.random.Generator, seconds: float) -> Wave:
    """Silence, noise or a chord: what has no words in it. Shape (samples,)."""
    length = int(seconds * SAMPLE_RATE)
    kind = rng.integers(3)
    if kind == 0:
        return np.zeros(length, np.float32) + np.float32(1e-4) * noise(length, rng) * np.float32(
            rng.random() < 0.5
        )
    if kind == 1:
        return noise(length, rng) * np.float32(rng.uniform(0.01, 0.2))
    time = np.arange(length) / SAMPLE_RATE
    chord = np.zeros(length)
    for tone in rng.uniform(100, 1500, rng.integers(1, 5)):
        chord += np.sin(2 * np.pi * tone * time) * (1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.5, 4) * time))
    return (chord * 0.1 + 0.01 * noise(length, rng)).astype(np.float32)
