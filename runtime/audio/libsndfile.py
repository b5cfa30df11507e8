"""Decoding through libsndfile, fenced: nothing half-read unnoticed.

libsndfile is lenient: it shortens what is truncated, guesses headerless formats from a file's extension,
trusts the frame count of a header and stops at the end of the first of several joined recordings. Here a
recording is opened without a name, blocks are read until none is left, and what the header promised is
compared with what came.
"""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import soundfile

from runtime.audio.channels import mix_down
from runtime.audio.source import CONVERT, SIZE_TOLERANCE, Part, View, interrupts_kept
from runtime.errors import AudioError

BLOCK_VALUES: Final = 1 << 19  # samples × channels decoded at a time, 2 MiB
# Sizes that programs write when they cannot know the size yet (ffmpeg and sox into a pipe).
UNKNOWN_SIZE: Final = 0x7FFF_0000
UNSUPPORTED_ENCODING: Final = "unsupported encoding"  # libsndfile's words
AV_FORMATS: Final = ("wav", "caf", "aiff", "au", "w64")  # by the same name at FFmpeg
UNKNOWN_FRAMES: Final = 2**62  # libsndfile states 2^63 - 1

_DECLARED_SIZE = re.compile(r"(?:data|SSND|Data Size|Data size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)")
_NIST_SAMPLES = re.compile(rb"sample_count -i (\d+)")


class UnsupportedEncodingError(AudioError):
    """A container that libsndfile reads, with a codec that only FFmpeg does."""


class LibsndfileSound:
    """One recording, opened with libsndfile."""

    def __init__(self, view: View, part: Part, name: str) -> None:
        self.name = name
        self._part = part
        self._head = view.read(4096)
        view.seek(0)
        self._sound = _open_sound(view, part.kind, name)
        self.rate: int = self._sound.samplerate
        self.channels: int = self._sound.channels

    def close(self) -> None:
        """Close the decoder."""
        self._sound.close()

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
        """Decode from the start to the end.

        Yields:
            Mono blocks and their rate.

        Raises:
            AudioError: Undecodable or truncated.
        """
        frames_a_block = max(1, BLOCK_VALUES // self.channels)
        total = 0
        while (block := self._read(frames_a_block)).shape[0]:
            total += block.shape[0]
            yield mix_down(block), self.rate
        self._require_complete(total)

    def _read(self, frames: int) -> npt.NDArray[np.float32]:
        try:
            with interrupts_kept():
                block: npt.NDArray[np.float32] = self._sound.read(frames, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, MemoryError) as error:
            raise AudioError(
                f"{self.name}: decoding failed ({error}); the file is damaged or incomplete: copy it again"
            ) from error
        finally:
            self._sound.raise_interrupt()
        return block

    def _require_complete(self, frames: int) -> None:
        """Compare what was decoded with what the header promised."""
        log = self._sound.extra_info
        for declared, present in _DECLARED_SIZE.findall(log):
            if int(present) + SIZE_TOLERANCE < int(declared) < UNKNOWN_SIZE:
                self._raise_truncated(frames, f"its header promises {declared} bytes, {present} are there")
        promised = self._sound.frames if self._sound.format in ("FLAC", "NIST", "MP3") else 0
        if (match := _NIST_SAMPLES.search(self._head)) is not None and self._sound.format == "NIST":
            promised = int(match[1])
        if self._sound.format == "MP3":
            self._require_whole_mp3(frames, promised)
        elif frames < promised < UNKNOWN_FRAMES:
            self._raise_truncated(frames, f"its header promises {promised / self.rate:.2f} s")

    def _require_whole_mp3(self, frames: int, promised: int) -> None:
        # Encoder delay and padding make up two frames or so, which may or may not be counted, and the frame
        # that holds the Xing header is none of sound.
        slack = 4 * (1152 if self.rate >= 32_000 else 576)
        present = self._part.samples or 0
        if frames + slack < present:
            raise AudioError(
                f"{self.name}: {frames / self.rate:.2f} of {present / self.rate:.2f} s could be decoded: "
                f"an MP3 of variable bit rate without a Xing header, or damaged: {CONVERT}"
            )
        # Without that header the promise is an estimate from the first frame's bit rate.
        if frames + slack < promised < UNKNOWN_FRAMES and re.search(rb"Xing|Info", self._head) is not None:
            self._raise_truncated(frames, f"its header promises {promised / self.rate:.2f} s")

    def _raise_truncated(self, frames: int, evidence: str) -> None:
        raise AudioError(
            f"{self.name}: truncated: {evidence}; {frames / self.rate:.2f} s could be decoded. "
            "Copy or upload the whole file again"
        )


def _open_sound(view: View, kind: str, name: str) -> soundfile.SoundFile:
    try:
        try:
            with interrupts_kept():
                return _ForwardOnly(view)
        finally:
            view.raise_interrupt()
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        if UNSUPPORTED_ENCODING in reason and kind in AV_FORMATS:
            raise UnsupportedEncodingError(f"{name}: {reason}") from error
        raise AudioError(
            f"{name}: cannot be decoded ({reason}); damaged, incomplete, or of an unknown codec: "
            f"copy it again, or {CONVERT}"
        ) from error


class _ForwardOnly(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A decoder that never seeks.

    soundfile seeks to where it is after every block of a seekable file. In an MP3, whose frames overlap, that
    changes the samples after each seam audibly.
    """

    def seekable(self) -> bool:
        return False

    def raise_interrupt(self) -> None:
        """Raise the Ctrl-C that came within a callback."""
        self.name.raise_interrupt()  # soundfile's `name` is what it was opened with
