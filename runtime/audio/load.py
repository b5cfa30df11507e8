"""Audio of any origin → the mono float32 waveform that the feature extractor takes.

Files are decoded block by block and resampled as a stream (soxr), so a long recording costs little more
than its 16 kHz result. Streamed and one-shot resampling give the same samples.
"""

import math
import os
from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import soxr

from runtime.audio.channels import mix_down
from runtime.audio.limits import MAX_RATE, MIN_RATE, NO_LIMITS, AudioLimits, Block
from runtime.errors import AudioError, AudioTooLongError, SettingsError

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray
Waveform = npt.NDArray[np.float32]

SAMPLING_RATE: Final = 16_000  # Hz, that of every Whisper checkpoint
MAX_CHANNELS: Final = 64  # of an array; more columns than that are samples laid the wrong way round
MAX_PEAK: Final = 64.0  # 36 dB over full scale; beyond it the values are integers that nobody scaled
RESAMPLING_BLOCK: Final = 1 << 19  # samples handed to soxr at a time, 2 MiB


def load_audio(
    source: AudioSource,
    sr: int = SAMPLING_RATE,
    target_rate: int = SAMPLING_RATE,
    limits: AudioLimits = NO_LIMITS,
) -> Waveform:
    """Decode, mix down and resample a recording.

    Args:
        source: A path, the bytes of a file, an open binary file, or an array of shape (samples,) or
            (samples, channels). Float arrays are taken as they are (full scale ±1), integer arrays of
            8, 16 or 32 bits are scaled by their range, unsigned ones centred.
        sr: Sampling rate of an array, in Hz. Files carry their own rate; it is not used for them.
        target_rate: Sampling rate of the result, in Hz.
        limits: How much is taken at most.

    Returns:
        Mono waveform, float32, shape (samples,), mean of the channels; samples = floor or ceiling of
        seconds × `target_rate`. It may share memory with an array that needed no change.

    Raises:
        AudioNotFoundError: The path does not exist.
        AudioTooLongError: There is more than the limits allow: two hours unless told.
        AudioError: The recording is empty, not finite, truncated, undecodable, of a wrong shape or of an
            absurd rate.
        SettingsError: `target_rate` is out of range.
    """
    parts = list(stream_audio(source, sr, target_rate, limits))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def stream_audio(
    source: AudioSource,
    sr: int = SAMPLING_RATE,
    target_rate: int = SAMPLING_RATE,
    limits: AudioLimits = NO_LIMITS,
) -> Iterator[Waveform]:
    """Decode, mix down and resample a recording block by block, so that memory does not grow with its length.

    Takes the arguments and raises the errors of `load_audio`; those that only the whole recording shows
    (truncated, nothing in it, not finite) come after its last block.

    Yields:
        Consecutive parts of what `load_audio` returns, none of them empty.
    """
    if not MIN_RATE <= target_rate <= MAX_RATE:
        raise SettingsError(f"target_rate is {target_rate} Hz; expected {MIN_RATE} to {MAX_RATE} Hz")
    if isinstance(source, np.ndarray):
        waveform = _mono_from_array(source)
        rate = _checked_rate(sr)
        if waveform.size > limits.seconds * rate:
            raise AudioTooLongError(
                f"audio array of {waveform.size / rate:.0f} s; at most {limits.seconds:g} s, so split it"
            )
        # What needs no resampling stays whole: it is in memory already.
        block = waveform.size if rate == target_rate else RESAMPLING_BLOCK
        starts = range(0, waveform.size, block)
        blocks = (Block(waveform[start : start + block], rate) for start in starts)
        yield from _resampled(blocks, target_rate, "audio array")
        return
    # The decoders take as long to import as a tenth of this package, and waveforms do not need them.
    from runtime.audio.files import open_audio

    with open_audio(source) as audio_file:
        yield from _resampled(audio_file.blocks(limits), target_rate, audio_file.name)


def level_dbfs(waveform: Waveform) -> float:
    """Root-mean-square level of a waveform.

    Args:
        waveform: Shape (samples,), full scale ±1.

    Returns:
        20·log10(RMS) in dB relative to full scale: 0 for a full-scale square wave, about -3 for a
        full-scale sine, -inf for digital silence and for no samples at all.
    """
    if waveform.size == 0:
        return -math.inf
    # einsum sums block-wise in float64 and makes no float64 copy of the waveform.
    power = float(np.einsum("i,i->", waveform, waveform, dtype=np.float64)) / waveform.size
    return 10.0 * math.log10(power) if power > 0.0 else -math.inf


def _resampled(blocks: Iterator[Block], target_rate: int, name: str) -> Iterator[Waveform]:
    """Resample mono blocks, those of one rate as one stream; verify the whole on the way."""
    samples, not_finite, peak, given, rate = 0, 0, 0.0, 0, 0
    resampler: soxr.ResampleStream | None = None
    for block in blocks:
        if block.rate != rate:
            if (part := _rest(resampler)).size:
                given += part.size
                yield part
            rate = block.rate
            resampler = (
                soxr.ResampleStream(rate, target_rate, 1, dtype="float32") if rate != target_rate else None
            )
        samples += block.waveform.size
        not_finite += _count_not_finite(block.waveform)
        peak = max(peak, _peak(block.waveform))
        part = block.waveform if resampler is None else resampler.resample_chunk(block.waveform)
        given += part.size
        if part.size:
            yield part
    _require_usable(samples, not_finite, peak, name)
    if (part := _rest(resampler)).size:
        given += part.size
        yield part
    if given == 0:
        raise AudioError(
            f"{name}: {samples} samples at {rate} Hz are less than one sample at {target_rate} Hz; "
            "record something longer"
        )


def _rest(resampler: soxr.ResampleStream | None) -> Waveform:
    """What a resampler still holds back."""
    nothing = np.zeros(0, np.float32)
    rest: Waveform = nothing if resampler is None else resampler.resample_chunk(nothing, last=True)
    return rest


def _mono_from_array(array: npt.NDArray[np.generic]) -> Waveform:
    """Verify shape and dtype; mix down and scale to ±1."""
    if array.ndim not in (1, 2):
        raise AudioError(f"audio array of shape {array.shape}; expected (samples,) or (samples, channels)")
    if array.size == 0:
        raise AudioError(f"audio array of shape {array.shape} is empty; expected at least one sample")
    if array.ndim == 2 and array.shape[1] > MAX_CHANNELS:
        raise AudioError(
            f"audio array of shape {array.shape} has {array.shape[1]} channels; "
            "expected (samples, channels): transpose it (audio.T) if it is (channels, samples)"
        )
    scaled = _scaled_to_float(array)
    if scaled.ndim == 1:
        return np.ascontiguousarray(scaled)
    return mix_down(scaled)


def _scaled_to_float(array: npt.NDArray[np.generic]) -> Waveform:
    dtype = array.dtype
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which is reported as such
            return array.astype(np.float32, copy=False)
    if dtype.kind in "iu" and dtype.itemsize <= 4:
        half_range = float(2 ** (8 * dtype.itemsize - 1))
        centre = half_range if dtype.kind == "u" else 0.0
        # float64 in between: float32 holds 24 bits and would lose the lowest of a 32-bit sample's.
        return ((array.astype(np.float64) - centre) / half_range).astype(np.float32)
    raise AudioError(
        f"audio array of dtype {dtype}; expected floats in ±1 or integers of 8, 16 or 32 bits "
        "(convert with audio.astype(np.int16) if that is the range of the values)"
    )


def _checked_rate(sr: float) -> int:
    if isinstance(sr, bool) or not isinstance(sr, (int, float, np.integer, np.floating)):
        raise AudioError(f"sampling rate {sr!r} is no number; expected Hz, for example 16000")
    if not math.isfinite(sr) or sr != int(sr) or not MIN_RATE <= sr <= MAX_RATE:
        raise AudioError(f"sampling rate {sr} Hz; expected a whole number from {MIN_RATE} to {MAX_RATE} Hz")
    return int(sr)


def _count_not_finite(block: Waveform) -> int:
    return int(block.size - np.count_nonzero(np.isfinite(block)))


def _peak(block: Waveform) -> float:
    """Largest finite magnitude; 0 for an empty block."""
    if block.size == 0:
        return 0.0
    peak = float(max(np.max(block), -np.min(block)))
    return peak if math.isfinite(peak) else 0.0


def _require_usable(samples: int, not_finite: int, peak: float, name: str) -> None:
    if samples == 0:
        raise AudioError(f"{name}: no samples; expected at least one")
    if not_finite:
        raise AudioError(
            f"{name}: {not_finite} of {samples} samples are not finite (NaN or infinite); "
            "expected finite values in ±1: find out where they come from, or set them to zero"
        )
    if peak > MAX_PEAK:
        raise AudioError(
            f"{name}: values up to {peak:.6g}; expected floats of full scale ±1: "
            "divide 16-bit values by 32768 or pass them as int16"
        )
