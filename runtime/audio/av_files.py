"""Decoding of what libsndfile cannot, through FFmpeg (PyAV), the optional extra `formats`.

The demuxer is named, never guessed: some of FFmpeg's follow names of other files and of servers.
"""

import logging
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.audio.channels import mix_down
from runtime.audio.source import CONVERT, Part, View, interrupts_kept
from runtime.errors import AudioError, AudioFormatError

logger = logging.getLogger(__name__)

INSTALL: Final = "pip install 'earsight[formats]'"
BLOCK_SAMPLES: Final = 1 << 16  # gathered from frames, which have a thousand or so
# Seconds by which containers misstate their own length: encoders' delay and padding, rounding.
SLACK_S: Final = 0.25
GAP_S: Final = 0.5  # between frames; shorter ones come from rounding
# Whose stated length is stated, not estimated from the bit rate.
STATES_LENGTH: Final = ("mov", "matroska", "caf", "asf", "ogg")


class AvSound:
    """One recording, opened with FFmpeg.

    Attributes:
        rate: Sampling rate in Hz, as the header states it.
        channels: Number of channels.
    """

    def __init__(self, view: View, part: Part, name: str) -> None:
        try:
            import av
        except ImportError as error:
            raise AudioFormatError(
                f"{name}: {part.kind} is read with the package av, which is not installed: "
                f"{INSTALL}, or {CONVERT}"
            ) from error
        self._errors = (av.error.FFmpegError, OSError, RuntimeError, ValueError, MemoryError, LookupError)
        self._view, self._part, self._name = view, part, name
        try:
            with interrupts_kept():
                self._container: Any = av.open(view, format=part.av_format, metadata_errors="replace")
        except self._errors as error:
            view.raise_interrupt()
            raise self._unreadable(error) from error
        if view.interrupt is not None:
            self.close()
            raise view.interrupt
        streams = self._container.streams.audio
        if not streams or streams[0].codec_context is None:
            self.close()
            raise AudioFormatError(f"{name}: {part.kind} without sound that can be decoded; {CONVERT}")
        if len(streams) > 1:
            logger.warning("%s: %d streams of sound, the first is heard", name, len(streams))
        self._stream: Any = streams[0]
        self.rate: int = self._stream.codec_context.sample_rate or 0
        self.channels: int = self._stream.codec_context.channels

    def close(self) -> None:
        """Close the decoder."""
        self._container.close()

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
        """Decode from the start to the end.

        Yields:
            Mono blocks and their sampling rate in Hz, which may differ from what the header states.

        Raises:
            AudioError: Undecodable or truncated.
        """
        gathered: list[npt.NDArray[np.float32]] = []
        rate, samples, seconds = self.rate, 0, 0.0
        for frame in self._frames():
            if gathered and (frame.sample_rate != rate or sum(map(len, gathered)) >= BLOCK_SAMPLES):
                yield np.concatenate(gathered), rate
                gathered = []
            rate = frame.sample_rate
            gathered.append(_mono(frame))
            samples += frame.samples
            seconds += frame.samples / rate
        if gathered:
            yield np.concatenate(gathered), rate
        self._require_complete(samples, seconds)

    def _frames(self) -> Iterator[Any]:
        frames = self._container.decode(self._stream)
        expected, gaps = None, 0.0
        while True:
            try:
                with interrupts_kept():
                    frame = next(frames)
            except StopIteration:
                break
            except self._errors as error:
                self._view.raise_interrupt()
                raise self._unreadable(error) from error
            self._view.raise_interrupt()
            if frame.sample_rate <= 0:
                raise AudioError(
                    f"{self._name}: sampling rate {frame.sample_rate} Hz; damaged: copy it again"
                )
            if frame.time is not None:
                if expected is not None and frame.time - expected > GAP_S:
                    gaps += frame.time - expected
                expected = frame.time + frame.samples / frame.sample_rate
            yield frame
        self._view.raise_interrupt()
        if gaps:
            logger.warning(
                "%s: %.2f s are missing between its packets: pauses of the recorder, or lost",
                self._name,
                gaps,
            )

    def _require_complete(self, samples: int, seconds: float) -> None:
        promised = self._promised_s()
        if self._part.samples is not None and samples < self._part.samples:
            promised = self._part.samples / self.rate if self.rate else promised
        elif seconds + SLACK_S >= promised:
            return
        raise AudioError(
            f"{self._name}: truncated: its header promises {promised:.2f} s; "
            f"{seconds:.2f} s could be decoded. Copy or upload the whole file again"
        )

    def _promised_s(self) -> float:
        """Length as the container states it, 0 where it does not."""
        if self._part.av_format not in STATES_LENGTH:
            return 0.0
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if self._container.duration is None or len(self._container.streams) > 1:
            return 0.0
        return float(self._container.duration) / 1e6

    def _unreadable(self, error: BaseException) -> AudioError:
        return AudioError(
            f"{self._name}: {self._part.kind} cannot be decoded ({error}); damaged, incomplete, "
            f"or of an unknown codec: copy it again, or {CONVERT}"
        )


def _mono(frame: Any) -> npt.NDArray[np.float32]:
    values: npt.NDArray[Any] = frame.to_ndarray()
    channels = frame.layout.nb_channels
    values = values if frame.format.is_planar else values.reshape(-1, channels).T
    if values.dtype.kind == "u":  # 8 bits, centred at 128
        scaled = (values.astype(np.float32) - 128.0) / 128.0
    elif values.dtype.kind == "i":
        scaled = (values / float(2 ** (8 * values.dtype.itemsize - 1))).astype(np.float32)
    else:
        with np.errstate(over="ignore"):  # beyond float32 becomes inf, which is counted by the caller
            scaled = values.astype(np.float32)
    return mix_down(scaled.T)
