"""The bytes of a recording: read at any place, searched, and given to decoders in pieces.

A file may hold several recordings one behind the other, and a header that says too little. Decoders get a
view of the bytes that are theirs, with the fields mended that a recorder left open.
"""

import bisect
import io
import itertools
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final, NamedTuple, NoReturn

from runtime.errors import AudioError

SEARCHED_AT_ONCE: Final = 1 << 20  # bytes
CONVERT: Final = "convert it, for example with: ffmpeg -i INPUT -ac 1 -ar 16000 OUTPUT.wav"
IGNORE_LENGTH: Final = "have its length ignored: ffmpeg -ignore_length 1 -i INPUT OUTPUT.wav"
SIZE_TOLERANCE: Final = 64  # bytes by which harmless writers miscount their own header

Piece = tuple[int, int] | bytes  # from one byte of the file to another (that one excluded), or given bytes


class Part(NamedTuple):
    """One recording in a file.

    Attributes:
        kind: The container, as messages call it.
        start: Its first byte.
        end: The byte behind its last one.
        pieces: What a decoder is to read, in order.
        av_format: The demuxer of FFmpeg; None where libsndfile decodes it.
        samples: How many samples of each channel it must have; None where only its decoder knows.
    """

    kind: str
    start: int
    end: int
    pieces: tuple[Piece, ...]
    av_format: str | None = None
    samples: int | None = None


class Source:
    """A seekable binary file and what messages call it."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.stream = stream
        self.name = name
        self.size = stream.seek(0, os.SEEK_END)

    def at(self, position: int, count: int) -> bytes:
        """Up to `count` bytes from a position."""
        self.stream.seek(position)
        return self.stream.read(count)

    def find(self, mark: bytes, start: int) -> int | None:
        """Where `mark` begins, at `start` or behind it."""
        while start < self.size:
            block = self.at(start, SEARCHED_AT_ONCE + len(mark) - 1)
            if (at := block.find(mark)) >= 0:
                return start + at
            start += SEARCHED_AT_ONCE
        return None

    def whole(self, kind: str, start: int, end: int, av_format: str | None = None) -> Part:
        """A part whose bytes are read as they are."""
        return Part(kind, start, end, ((start, end),), av_format)

    def require_none_within(self, mark: bytes, start: int, end: int) -> None:
        """Refuse a recording in whose sound another one begins: it was cut off before they were joined.

        Raises:
            AudioError: `mark` begins from `start` to `end`.
        """
        at = self.find(mark, start)
        if at is not None and at < end:
            self.fail_joined_too_early(at, end)

    def fail_joined_too_early(self, at: int, end: int) -> NoReturn:
        """Refuse a recording in whose sound another one begins.

        Raises:
            AudioError: Always.
        """
        self.fail_truncated(
            f"another recording begins at byte {at}, where its header promises sound to byte {end}"
        )

    def fail(self, reason: str) -> NoReturn:
        """Refuse the file.

        Raises:
            AudioError: Always.
        """
        raise AudioError(f"{self.name}: {reason}")

    def fail_damaged(self, kind: str, evidence: str) -> NoReturn:
        """Refuse a file whose structure is broken.

        Raises:
            AudioError: Always.
        """
        self.fail(f"{kind} cannot be decoded ({evidence}); damaged: copy it again, or {CONVERT}")

    def fail_truncated(self, evidence: str) -> NoReturn:
        """Refuse a file that is not whole.

        Raises:
            AudioError: Always.
        """
        self.fail(f"truncated: {evidence}. Copy or upload the whole file again")


def patched(start: int, end: int, patches: dict[int, bytes]) -> tuple[Piece, ...]:
    """The bytes from `start` to `end` with some of them exchanged.

    Args:
        start: The first byte.
        end: The byte behind the last one.
        patches: What stands at a position instead; none overlap.
    """
    pieces: list[Piece] = []
    for position in sorted(patches):
        pieces += [(start, position), patches[position]]
        start = position + len(patches[position])
    return (*pieces, (start, end))


class View(io.RawIOBase):
    """Pieces of a file as one binary stream.

    It has no `name`, from whose extension soundfile would infer raw audio.
    """

    def __init__(self, stream: BinaryIO, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self._stream = stream
        self._pieces = pieces
        lengths = (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)
        self._starts = [0, *itertools.accumulate(lengths)]
        self._position = 0
        self.interrupt: KeyboardInterrupt | None = None

    def raise_interrupt(self) -> None:
        """Raise the Ctrl-C that came within a callback, where it would be swallowed and the sound cut."""
        if self.interrupt is not None:
            raise self.interrupt

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; -1 and no move where there is none."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            return -1  # as C does; an exception would only be printed by the callback
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, fewer only at the end."""
        left = max(0, self._starts[-1] - self._position)
        buffer = bytearray(left if size is None or size < 0 else min(size, left))
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer: object) -> int:
        """Fill a buffer; return how many bytes there were."""
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        filled = 0
        try:
            while filled < len(target) and self._position < self._starts[-1]:
                count = self._read_piece(target[filled:])
                if count == 0:  # the file has become shorter
                    break
                filled += count
                self._position += count
        except KeyboardInterrupt as interrupt:
            self.interrupt = interrupt
            return 0
        return filled

    def _read_piece(self, target: memoryview) -> int:
        number = bisect.bisect_right(self._starts, self._position) - 1
        within, left = self._position - self._starts[number], self._starts[number + 1] - self._position
        piece = self._pieces[number]
        target = target[:left]
        if isinstance(piece, bytes):
            target[:] = piece[within : within + len(target)]
            return len(target)
        self._stream.seek(piece[0] + within)
        return self._stream.readinto(target)  # type: ignore[attr-defined, no-any-return]


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise a Ctrl-C after the call: the callbacks of a decoder would swallow it and cut the sound short."""
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
