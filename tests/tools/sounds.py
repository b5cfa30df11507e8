"""Sounds without a word in them: silence, coloured noise, hum, and synthetic music."""

import numpy as np

RATE = 16_000


def _coloured(rng, samples, exponent):
    """Noise whose power falls with frequency to the `exponent`: 0 white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20.0)
    return np.fft.irfft(spectrum * frequency ** (-exponent / 2), samples)


def _note(rng, hertz, samples, decay):
    """Eight partials with a soft attack, a slight vibrato and an exponential decay."""
    time = np.arange(samples) / RATE
    partials = np.arange(1, 9)[np.arange(1, 9) * hertz < 7500]
    vibrato = 0.004 * rng.random() * np.sin(2 * np.pi * rng.uniform(4, 7) * time) / (10 * np.pi)
    sound = np.zeros(samples)
    for partial, level in zip(partials, rng.uniform(0.3, 1, partials.size), strict=True):
        phase = 2 * np.pi * (partial * hertz * (time + vibrato) + rng.random())
        sound += level / partial ** rng.uniform(0.7, 1.6) * np.sin(phase)
    attack = np.minimum(1, time / rng.uniform(0.005, 0.05))
    release = np.minimum(1, (samples / RATE - time) / 0.02)
    return sound * attack * release * np.exp(-decay * time)


def _hum(rng, samples):
    time, mains = np.arange(samples) / RATE, rng.choice([50, 60])
    hum = sum(np.sin(2 * np.pi * (mains * k * time + rng.random())) / k for k in range(1, 12))
    return hum + 0.05 * rng.standard_normal(samples)


def _chord(rng, samples):
    root = rng.uniform(90, 350)
    steps = rng.choice([0, 3, 4, 7, 10, 12, 14], 3, replace=False)
    return sum(_note(rng, root * 2 ** (step / 12), samples, rng.uniform(0, 0.2)) for step in steps)


def _arpeggio(rng, samples):
    sound, step, root = np.zeros(samples), int(RATE * rng.uniform(0.12, 0.6)), rng.uniform(110, 440)
    for start in range(0, samples, step):
        length = min(2 * step, samples - start)
        hertz = root * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12, 14, 16]) / 12)
        sound[start : start + length] += _note(rng, hertz, length, rng.uniform(1, 6))
    return sound


def _melody(rng, samples):
    sound, start = np.zeros(samples), 0
    while start < samples:
        length = min(int(RATE * rng.uniform(0.15, 0.8)), samples - start)
        sound[start : start + length] = _note(rng, rng.uniform(150, 600), length, rng.uniform(0, 2))
        start += length
    return sound


def _drums(rng, samples):
    sound, step = np.zeros(samples), int(RATE * rng.uniform(0.1, 0.3))
    for start in range(0, samples, step):
        length = min(RATE // 4, samples - start)
        time, noise = np.arange(length) / RATE, rng.standard_normal(length + 1)
        sound[start : start + length] += (
            rng.uniform(0.4, 1)
            * (
                2 * np.sin(2 * np.pi * (50 * time + 8 * (1 - np.exp(-20 * time)))) * np.exp(-14 * time),
                noise[1:] * np.exp(-20 * time) + 0.5 * np.sin(380 * np.pi * time) * np.exp(-18 * time),
                0.5 * np.diff(noise) * np.exp(-60 * time),
            )[rng.integers(3)]
        )
    return sound


def _band(rng, samples):
    parts = (_arpeggio(rng, samples), _drums(rng, samples), _chord(rng, samples))
    return sum(w * part / np.std(part) for w, part in zip((1, rng.uniform(0.3, 1), 0.4), parts, strict=True))


KINDS = {
    "silence": lambda rng, samples: np.zeros(samples),
    "white noise": lambda rng, samples: rng.standard_normal(samples),
    "pink noise": lambda rng, samples: _coloured(rng, samples, 1),
    "brown noise": lambda rng, samples: _coloured(rng, samples, 2),
    "hum": _hum,
    "chord": _chord,
    "arpeggio": _arpeggio,
    "melody": _melody,
    "drums": _drums,
    "band": _band,
}


def sound(kind, seed, seconds=None):
    """One recording of 5 to 30 s at -60 to -12 dBFS; silence is digital zero."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    samples = int(RATE * (rng.uniform(5, 30) if seconds is None else seconds))
    level = 10 ** (rng.uniform(-60, -12) / 20)
    waveform = KINDS[kind](rng, samples)
    power = np.sqrt(np.mean(np.square(waveform)))
    return (waveform * (level / power if power else 0.0)).astype(np.float32)
