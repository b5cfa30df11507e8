"""Decoding of audio files, fenced: known containers only, within limits, all recordings of a file.

The recordings are found and measured first (`runtime.audio.parts`), then each is decoded by libsndfile
(`runtime.audio.libsndfile`); what that cannot read goes to FFmpeg (`runtime.audio.av_files`).
"""

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from runtime.audio.av_files import AvSound
from runtime.audio.libsndfile import LibsndfileSound, UnsupportedEncodingError
from runtime.audio.limits import MAX_RATE, MIN_RATE, NO_LIMITS, AudioLimits, Block
from runtime.audio.parts import find_parts
from runtime.audio.source import CONVERT, Part, Source, View
from runtime.errors import AudioError, AudioNotFoundError, AudioTooLongError
from runtime.files.closing import Closing
from runtime.files.given import open_file, read_object

MAX_FILE_BYTES: Final = 2**31  # of what is held in memory: bytes and file objects
ROUNDING_S: Final = 1e-6  # of the sum of the lengths of blocks: what is as long as is allowed is not longer


class AudioFile(Closing):
    """An opened audio file, which holds one recording or several joined ones; a context manager.

    Attributes:
        name: What messages call it: the path, or "audio bytes".
        rate: Sampling rate in Hz of its first recording.
        channels: Number of channels of its first recording.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self._stream = stream
        self._parts = find_parts(Source(stream, name))
        self._sound = self._open(0)
        self.rate: int = self._sound.rate
        self.channels: int = self._sound.channels

    def close(self) -> None:
        """Close the decoder and the file behind it."""
        self._sound.close()
        self._stream.close()

    def blocks(self, limits: AudioLimits = NO_LIMITS) -> Iterator[Block]:
        """Decode from the start to the end.

        Args:
            limits: How much at most.

        Yields:
            Mono blocks (mean of the channels); joined recordings may differ in their rates.

        Raises:
            AudioTooLongError: There is more than the limits allow.
            AudioError: Undecodable, truncated, or of an absurd rate.
        """
        seconds, values = 0.0, 0
        for number in range(len(self._parts)):
            if number > 0:
                self._sound.close()
                self._sound = self._open(number)
            for waveform, rate in self._sound.blocks():
                seconds += waveform.size / _checked_rate(rate, self.name)
                values += waveform.size * self._sound.channels
                if seconds > limits.seconds + ROUNDING_S:
                    raise AudioTooLongError(
                        f"{self.name}: longer than {limits.seconds:g} s; split the recording"
                    )
                if limits.values is not None and values > limits.values:
                    raise AudioTooLongError(
                        f"{self.name}: more than {limits.values} samples in all channels; split the "
                        f"recording, or {CONVERT}"
                    )
                yield Block(waveform, rate)

    def _open(self, number: int) -> LibsndfileSound | AvSound:
        part = self._parts[number]
        name = self.name if number == 0 else f"{self.name}, recording {number + 1} (from byte {part.start})"
        view = View(self._stream, part.pieces)
        sound = _open_recording(view, part, name)
        try:
            _checked_rate(sound.rate, name)
        except AudioError:
            sound.close()
            raise
        return sound


def _open_recording(view: View, part: Part, name: str) -> LibsndfileSound | AvSound:
    if part.av_format is not None:
        return AvSound(view, part, name)
    try:
        return LibsndfileSound(view, part, name)
    except UnsupportedEncodingError:
        view.seek(0)
        return AvSound(view, part._replace(av_format=part.kind), name)


def open_audio(source: str | os.PathLike[str] | bytes | BinaryIO) -> AudioFile:
    """Open a path, bytes or a binary file object for decoding.

    Raises:
        AudioNotFoundError: The path does not exist.
        AudioError: Not a regular file, unreadable, or of an unknown format.
    """
    if isinstance(source, (str, os.PathLike)):
        # Opened here: given a path, libsndfile guesses headerless formats from the extension (any text named
        # x.au would be played as telephone noise).
        return _fenced(open_file(source, "audio file", AudioError, AudioNotFoundError), str(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        # Through a file as well, which bounds its size.
        source = io.BytesIO(bytes(source))
    # Read here rather than by libsndfile, whose callbacks would swallow a file's exceptions.
    expected = "a path, bytes, a binary file or a numpy array"
    content = read_object(source, "audio", expected, MAX_FILE_BYTES, AudioError)
    return _fenced(io.BytesIO(content), "audio bytes")


def _fenced(stream: BinaryIO, name: str) -> AudioFile:
    try:
        return AudioFile(stream, name)
    except BaseException:
        stream.close()
        raise


def _checked_rate(rate: int, name: str) -> int:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name}: sampling rate {rate} Hz; expected {MIN_RATE} to {MAX_RATE} Hz")
    return rate
