"""Decoding of audio files through libsndfile, fenced: known containers only, nothing half-read unnoticed.

libsndfile is lenient: it shortens what is truncated, guesses headerless formats from a file's extension and
trusts the frame count of a header. Here the container is recognised from its first bytes before libsndfile
sees it, the file is opened without its name, blocks are read until none is left, and what the header
promised is compared with what came.
"""

import io
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt
import soundfile

from runtime.audio.mp3_frames import count_samples
from runtime.errors import AudioError, AudioNotFoundError

MIN_RATE: Final = 1_000  # Hz; telephones record at 8,000
MAX_RATE: Final = 768_000  # Hz; the fastest converters on sale
MAX_SECONDS: Final = (
    2 * 60 * 60
)  # two hours are 461 MB at 16 kHz; bounds what a small compressed file unfolds to
MAX_FILE_BYTES: Final = 2**31  # of what is held in memory: bytes and file objects
BLOCK_VALUES: Final = 1 << 19  # samples × channels decoded at a time, 2 MiB

# What libsndfile can read, by first bytes. (offset, bytes) pairs must all be there.
CONTAINERS: Final[dict[str, tuple[tuple[int, bytes], ...]]] = {
    "wav": ((0, b"RIFF"), (8, b"WAVE")),
    "wav, big-endian": ((0, b"RIFX"), (8, b"WAVE")),
    "rf64": ((0, b"RF64"), (8, b"WAVE")),
    "w64": ((0, b"riff\x2e\x91\xcf\x11"),),
    "flac": ((0, b"fLaC"),),
    "ogg": ((0, b"OggS"),),
    "aiff": ((0, b"FORM"), (8, b"AIF")),
    "au": ((0, b".snd"),),
    "au, little-endian": ((0, b"dns."),),
    "caf": ((0, b"caff"),),
    "nist": ((0, b"NIST_1A"),),
    "mp3 with tags": ((0, b"ID3"),),
}
# What people also record with, so that the message can name it.
UNREADABLE: Final[dict[str, tuple[int, bytes]]] = {
    "m4a/mp4/3gp (AAC)": (4, b"ftyp"),
    "webm/matroska": (0, b"\x1a\x45\xdf\xa3"),
    "wma/asf": (0, b"\x30\x26\xb2\x75"),
    "amr": (0, b"#!AMR"),
}
READABLE: Final = "wav, flac, ogg (vorbis, opus), mp3, aiff, au, caf, w64, rf64, nist"
CONVERT: Final = "convert it, for example with: ffmpeg -i INPUT -ac 1 -ar 16000 OUTPUT.wav"
# Sizes that programs write when they cannot know the size yet (ffmpeg and sox into a pipe).
UNKNOWN_SIZE: Final = 0x7FFF_0000
LONGEST_OGG_PAGE: Final = 27 + 255 + 255 * 255  # bytes: header, segment table, segments
UNKNOWN_FRAMES: Final = 2**62  # libsndfile states 2^63 - 1
SIZE_TOLERANCE: Final = 64  # bytes by which harmless writers miscount their own header

_DECLARED_SIZE = re.compile(r"(?:data|SSND|Data Size|Data size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)")
_NIST_SAMPLES = re.compile(rb"sample_count -i (\d+)")


class AudioFile:
    """An opened audio file; a context manager.

    Attributes:
        name: What messages call it: the path, or "audio bytes".
        rate: Sampling rate in Hz.
        channels: Number of channels.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self._stream = stream
        self._head = stream.read(4096)
        _require_known_container(self._head, name)
        stream.seek(0)
        self._sound = _open_sound(stream, name)
        self.rate: int = self._sound.samplerate
        self.channels: int = self._sound.channels
        if not MIN_RATE <= self.rate <= MAX_RATE:
            self.close()
            raise AudioError(f"{name}: sampling rate {self.rate} Hz; expected {MIN_RATE} to {MAX_RATE} Hz")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the decoder and the file behind it."""
        self._sound.close()
        self._stream.close()

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Decode from the start to the end.

        Yields:
            Mono blocks (mean of the channels), float32, shape (samples,).

        Raises:
            AudioError: Undecodable, truncated, or longer than two hours.
        """
        frames_a_block = max(1, BLOCK_VALUES // self.channels)
        total = 0
        while True:
            block = self._read(frames_a_block)
            if block.shape[0] == 0:
                break
            total += block.shape[0]
            if total > MAX_SECONDS * self.rate:
                raise AudioError(f"{self.name}: longer than {MAX_SECONDS} s; split the recording")
            with np.errstate(invalid="ignore", over="ignore"):  # not-finite values are counted by the caller
                yield block[:, 0] if self.channels == 1 else block.mean(axis=1, dtype=np.float32)
        self._require_complete(total)

    def _read(self, frames: int) -> npt.NDArray[np.float32]:
        try:
            with _interrupts_kept():
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
        if self._sound.format == "OGG" and _ends_within_a_page(self._stream):
            self._raise_truncated(frames, "it ends in the middle of an Ogg page")
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
        present = count_samples(self._stream)
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


def open_audio(source: str | os.PathLike[str] | bytes | BinaryIO) -> AudioFile:
    """Open a path, bytes or a binary file object for decoding.

    Raises:
        AudioNotFoundError: The path does not exist.
        AudioError: Not a regular file, unreadable, or of an unknown format.
    """
    if isinstance(source, (str, os.PathLike)):
        return _fenced(_open_path(source), str(source))
    return _fenced(io.BytesIO(read_bytes(source)), "audio bytes")


def read_bytes(source: bytes | BinaryIO) -> bytes:
    """All bytes of a bytes-like object or of a binary file object from its current position.

    File objects are read here rather than by libsndfile, whose callbacks would swallow their exceptions.

    Raises:
        AudioError: Neither bytes nor a binary file, or larger than 2 GiB.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    else:
        read = getattr(source, "read", None)
        if read is None:
            raise AudioError(
                f"audio of type {type(source).__name__}; "
                "expected a path, bytes, a binary file or a numpy array"
            )
        try:
            content = read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: read of a closed file
            raise AudioError(f"audio file object cannot be read: {error}") from error
        if not isinstance(content, bytes):
            raise AudioError(
                f"audio file object gives {type(content).__name__}, not bytes; open it in binary mode ('rb')"
            )
    if len(content) > MAX_FILE_BYTES:
        raise AudioError(f"audio of more than {MAX_FILE_BYTES} bytes in memory; pass a path instead")
    return content


def _fenced(stream: BinaryIO, name: str) -> AudioFile:
    try:
        return AudioFile(stream, name)
    except BaseException:
        stream.close()
        raise


def _open_path(path: str | os.PathLike[str]) -> BinaryIO:
    # Open by hand: given a path, libsndfile guesses headerless formats from the extension
    # (any text named x.au would be played as telephone noise), and a pipe or device would block.
    try:
        place = Path(path)
        if not place.exists():
            raise AudioNotFoundError(f"audio file not found: {place}")
        if not place.is_file():
            raise AudioError(
                f"{place} is a {'folder' if place.is_dir() else 'device or pipe'}, no audio file"
            )
        return place.open("rb")
    except (PermissionError, ValueError, OSError) as error:
        if isinstance(error, AudioError):
            raise
        # ValueError: a NUL inside the name. OSError: name too long, input/output faults.
        raise AudioError(f"audio file {os.fspath(path)!r} cannot be opened: {error}") from error


def _require_known_container(head: bytes, name: str) -> None:
    if not head:
        raise AudioError(f"{name}: empty file; expected {READABLE}")
    for marks in CONTAINERS.values():
        if all(head[offset : offset + len(mark)] == mark for offset, mark in marks):
            return
    if head[0] == 0xFF and len(head) > 1 and head[1] & 0xE0 == 0xE0:  # an MPEG frame's 11 sync bits
        return
    for kind, (offset, mark) in UNREADABLE.items():
        if head[offset : offset + len(mark)] == mark:
            raise AudioError(f"{name}: {kind} cannot be read; expected {READABLE}: {CONVERT}")
    raise AudioError(f"{name}: no audio file (starts with {head[:8]!r}); expected {READABLE}: {CONVERT}")


def _open_sound(stream: BinaryIO, name: str) -> soundfile.SoundFile:
    try:
        nameless = _Nameless(stream)
        try:
            with _interrupts_kept():
                return _ForwardOnly(nameless)
        finally:
            nameless.raise_interrupt()
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        raise AudioError(
            f"{name}: cannot be decoded ({reason}); damaged, incomplete, or of an unknown codec: "
            f"copy it again, or {CONVERT}"
        ) from error


def _ends_within_a_page(stream: BinaryIO) -> bool:
    """Whether the last Ogg page is longer than what is left of the file (RFC 3533, section 6)."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - LONGEST_OGG_PAGE))
    tail = stream.read(LONGEST_OGG_PAGE)
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:  # byte 26: number of segments, whose lengths follow
        return True
    return 27 + page[26] + sum(page[27 : 27 + page[26]]) > len(page)


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Raise a Ctrl-C after the call: soundfile's callbacks would swallow it and cut the sound short."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt


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


class _Nameless(io.RawIOBase):
    """A binary stream without its `name`, from whose extension soundfile would infer raw audio."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._interrupt: KeyboardInterrupt | None = None

    def raise_interrupt(self) -> None:
        """Raise the Ctrl-C that came within a callback, where it would be swallowed and the sound cut."""
        if self._interrupt is not None:
            raise self._interrupt

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset < 0:
            return -1  # as C does; an exception would only be printed by the callback
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except KeyboardInterrupt as interrupt:
            self._interrupt = interrupt
            return b""

    def readinto(self, buffer: object) -> int:
        try:
            return self._stream.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except KeyboardInterrupt as interrupt:
            self._interrupt = interrupt
            return 0
