"""Log-mel spectrograms equal to `transformers.WhisperFeatureExtractor`, in numpy alone.

Recordings are much shorter than the window as a rule. The frames that lie wholly in the zero padding hold
one and the same value, so only those that touch the signal are transformed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from runtime.bundle.json_files import number_from, read_json_object, whole_number_from
from runtime.errors import AudioError, BundleError

CONFIG_FILE: Final = "preprocessor_config.json"
TOP_FREQUENCY: Final = 8000.0  # Hz, upper edge of Whisper's highest mel band, whatever the sampling rate
POWER_FLOOR: Final = 1e-10  # mel power below it is raised to it before the logarithm
DYNAMIC_RANGE: Final = 8.0  # decades below the utterance's maximum that are kept
LOWEST_LOG: Final = math.log10(POWER_FLOOR)
# Products of at most this many multiplications stay on the calling thread in OpenBLAS. Larger ones wake its
# threads, which then fight with onnxruntime's own for the cores: 16 ms instead of 3 ms for a short utterance.
SINGLE_THREADED_PRODUCT: Final = 4 * 65536
FRAMES_A_BLOCK: Final = 512  # transformed at a time: their spectra stay within the processor's cache

Waveform = npt.NDArray[np.float32]


class LogMelExtractor:
    """Waveforms → log-mel features of one checkpoint's window.

    Attributes:
        n_mels: Mel bands.
        sampling_rate: Hz of the waveforms that are accepted.
        n_samples: Samples of the window.
        n_frames: Frames of the window, n_samples // hop_length.
        window_s: Seconds of the window.
    """

    def __init__(
        self,
        n_mels: int = 80,
        sampling_rate: int = 16_000,
        hop_length: int = 160,
        n_fft: int = 400,
        n_samples: int = 480_000,
        padding_value: float = 0.0,
    ) -> None:
        self.n_mels = n_mels
        self.sampling_rate = sampling_rate
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.n_samples = n_samples
        self.n_frames = n_samples // hop_length
        self.window_s = n_samples / sampling_rate
        self._padding_value = padding_value
        self._hann = _periodic_hann(n_fft)
        self._filters = mel_filters(n_mels, n_fft, sampling_rate)

    @classmethod
    def from_folder(cls, folder: Path) -> "LogMelExtractor":
        """Read the settings of `folder/preprocessor_config.json`.

        As in transformers, the window is chunk_length × sampling_rate; `n_samples` and `nb_max_frames` of the
        file are not read.

        Raises:
            BundleNotFoundError: There is no such file.
            BundleError: A setting has the wrong type or an impossible value, or dither or padding on the
                left is asked for.
        """
        path = Path(folder) / CONFIG_FILE
        config = read_json_object(path)
        sampling_rate = whole_number_from(config, "sampling_rate", 16_000, 1_000, 192_000, path)
        chunk_length = number_from(config, "chunk_length", 30, 0.01, 600.0, path)
        dither = number_from(config, "dither", 0.0, 0.0, 1.0, path)
        if dither != 0.0:
            raise BundleError(
                f"{path}: dither is {dither}; only 0 is supported, since dither makes results random"
            )
        if (side := config.get("padding_side")) not in (None, "right"):
            raise BundleError(
                f"{path}: padding_side is {side!r}; only 'right' is supported, since Whisper's speech begins "
                "with the window"
            )
        n_fft = whole_number_from(config, "n_fft", 400, 2, 16_384, path)
        hop_length = whole_number_from(config, "hop_length", 160, 1, n_fft, path)
        n_samples = int(chunk_length * sampling_rate)
        if n_fft % 2:
            raise BundleError(f"{path}: n_fft is {n_fft}; expected an even number")
        if n_samples <= n_fft // 2 or n_samples < hop_length:
            raise BundleError(f"{path}: a window of {n_samples} samples is too short for n_fft {n_fft}")
        return cls(
            n_mels=whole_number_from(config, "feature_size", 80, 1, 1_024, path),
            sampling_rate=sampling_rate,
            hop_length=hop_length,
            n_fft=n_fft,
            n_samples=n_samples,
            padding_value=number_from(config, "padding_value", 0.0, -1.0, 1.0, path),
        )

    def __call__(self, waveforms: Sequence[Waveform], *, truncate: bool = False) -> npt.NDArray[np.float32]:
        """Extract features, each waveform padded to the window.

        Args:
            waveforms: Mono, float, shape (samples,), at `sampling_rate`, each of one sample at least.
            truncate: Cut what is longer than the window instead of raising.

        Returns:
            float32, shape (len(waveforms), n_mels, n_frames), values within 1e-4 of
            `WhisperFeatureExtractor`.

        Raises:
            AudioError: A waveform is empty, not one-dimensional, not finite, or longer than the window.
        """
        features = np.empty((len(waveforms), self.n_mels, self.n_frames), np.float32)
        for index, waveform in enumerate(waveforms):
            self._extract(self._fitted(waveform, truncate), features[index])
        return features

    def _fitted(self, waveform: Waveform, truncate: bool) -> Waveform:
        samples = np.asarray(waveform)
        if samples.ndim != 1 or samples.size == 0 or samples.dtype.kind != "f":
            raise AudioError(
                f"waveform of shape {samples.shape} and dtype {samples.dtype}; expected floats, (samples,)"
            )
        if samples.size > self.n_samples:
            if not truncate:
                raise AudioError(
                    f"waveform of {samples.size / self.sampling_rate:.2f} s, window of {self.window_s:g} s: "
                    "split it, or pass truncate=True to lose the rest"
                )
            samples = samples[: self.n_samples]
        if not np.isfinite(samples).all():
            raise AudioError("waveform holds values that are not finite (NaN or infinite)")
        return samples.astype(np.float32, copy=False)

    def _extract(self, waveform: Waveform, out: npt.NDArray[np.float32]) -> None:
        """Write the features of one waveform into `out`, shape (n_mels, n_frames)."""
        half = self.n_fft // 2
        # Frame t covers samples t·hop − n_fft/2 … t·hop + n_fft/2 of the padded waveform.
        touched = self.n_frames
        if self._padding_value == 0.0:
            touched = min(self.n_frames, (waveform.size - 1 + half) // self.hop_length + 1)
        frames = np.lib.stride_tricks.sliding_window_view(self._centred(waveform), self.n_fft)
        frames = frames[:: self.hop_length][:touched]
        highest = LOWEST_LOG if touched < self.n_frames else -math.inf
        for start in range(0, touched, FRAMES_A_BLOCK):
            block = frames[start : start + FRAMES_A_BLOCK]
            logs = self._log_mel(block)
            highest = max(highest, float(logs.max()))
            out[:, start : start + len(block)] = logs
        out[:, touched:] = LOWEST_LOG
        np.maximum(out, np.float32(highest - DYNAMIC_RANGE), out=out)
        out += 4.0
        out *= 0.25

    def _log_mel(self, frames: Waveform) -> npt.NDArray[np.float32]:
        """Return log10 of the floored mel power, shape (n_mels, frames)."""
        spectrum = np.fft.rfft(frames * self._hann, axis=-1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        mel = self._filtered(power.astype(np.float32, copy=False))
        np.maximum(mel, np.float32(POWER_FLOOR), out=mel)
        logs: npt.NDArray[np.float32] = np.log(
            mel, out=mel
        )  # numpy's natural logarithm is the vectorised one
        logs *= np.float32(1.0 / math.log(10.0))
        return logs

    def _filtered(self, power: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return mel power (n_mels, frames) of power spectra (frames, bins), as a stack of small products."""
        few = max(1, SINGLE_THREADED_PRODUCT // self._filters.size)
        whole = len(power) // few * few
        mel = np.empty((len(power), self.n_mels), np.float32)
        stacked = power[:whole].reshape(-1, few, power.shape[1])
        mel[:whole] = (stacked @ self._filters.T).reshape(whole, self.n_mels)
        mel[whole:] = power[whole:] @ self._filters.T
        return np.ascontiguousarray(mel.T)

    def _centred(self, waveform: Waveform) -> Waveform:
        """Return the padded window between n_fft/2 reflected samples (edges not repeated)."""
        half = self.n_fft // 2
        centred = np.full(half + self.n_samples + half, self._padding_value, np.float32)
        centred[half : half + waveform.size] = waveform
        centred[:half] = centred[2 * half : half : -1]
        centred[-half:] = centred[-half - 2 : -2 * half - 2 : -1]
        return centred


def mel_filters(n_mels: int, n_fft: int, sampling_rate: int) -> npt.NDArray[np.float32]:
    """Triangular filters on Slaney's mel scale, each of unit area (as in librosa and Whisper).

    Args:
        n_mels: Number of filters, from 0 to 8000 Hz.
        n_fft: Length of the Fourier transform.
        sampling_rate: Hz.

    Returns:
        float32, shape (n_mels, n_fft // 2 + 1).

    Source: M. Slaney, "Auditory Toolbox", Interval Research report 1998-010 (linear below 1 kHz with
    200/3 Hz a mel, above it 27 mels for a factor of 6.4).
    """
    bins = np.linspace(0.0, sampling_rate // 2, n_fft // 2 + 1)
    edges = _slaney_hertz(np.linspace(0.0, _slaney_mel(TOP_FREQUENCY), n_mels + 2))
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (upper - lower)), dtype=np.float32)


def _slaney_mel(hertz: float) -> float:
    """Mel of a frequency above 1 kHz."""
    return 15.0 + 27.0 * math.log(hertz / 1000.0) / math.log(6.4)


def _slaney_hertz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = mels * (200.0 / 3.0)
    logarithmic = 1000.0 * np.power(6.4, (mels - 15.0) / 27.0)
    return np.where(mels < 15.0, linear, logarithmic)


def _periodic_hann(length: int) -> npt.NDArray[np.float32]:
    angles = 2.0 * np.pi * np.arange(length) / length
    return np.asarray(0.5 - 0.5 * np.cos(angles), dtype=np.float32)
