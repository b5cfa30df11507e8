"""Writes the n-best file, and goes on where an earlier run stopped.

Each line is written and flushed on its own: a torn last line is cut off, the rest is kept.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.nbest.file import header_from, utterance_from
from bench.nbest.records import NBestHeader, NBestUtterance
from runtime.bundle.json_files import parse_row
from runtime.errors import NBestFileError, OutputError
from runtime.files.closing import Closing
from runtime.files.write_whole import lock, write_whole

Revise = Callable[[NBestUtterance], NBestUtterance | None]


def _as_it_is(utterance: NBestUtterance) -> NBestUtterance:
    return utterance


class NBestWriter(Closing):
    """Writes an n-best file line by line, each flushed, and goes on where an earlier run stopped.

    Use as a context manager:

        with NBestWriter(path, header, resume=True) as writer:
            for utterance in utterances:
                if utterance.id not in writer.finished:
                    writer.write(recognise(utterance))

    Attributes:
        path: The file.
        finished: The ids that are in it, in its order.
        resumed: Whether an earlier run had begun it.
    """

    def __init__(
        self, path: str | Path, header: NBestHeader, *, resume: bool = False, revise: Revise = _as_it_is
    ) -> None:
        """Open the file.

        Args:
            path: Where to write; missing folders are made.
            header: Bundle and settings of this run.
            resume: Keep the utterances that a file of the same header already holds. Without it an
                existing file is overwritten.
            revise: Given each utterance that the file holds, returns what it is to hold in its place; None
                for nothing.

        Raises:
            NBestFileError: `resume` on a file of another header, or with an unusable line; without it, on a
                file that is no n-best file.
            OutputError: The file cannot be written, or another run is writing it.
        """
        self.path = Path(path)
        self.finished: dict[str, None] = {}
        self.resumed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line that fails is not tried again when the file is closed.
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._begin(header, resume, revise)
        except BaseException:
            self.close()
            raise

    def _begin(self, header: NBestHeader, resume: bool, revise: Revise) -> None:
        self._lock()
        keep = 0
        if resume:
            there = _read(self.path, header, revise)
            self.finished, keep = there.finished, there.keep
            self.resumed = keep > 0
            if there.changes:
                keep = self._replace_lines(there)
        else:
            _refuse_foreign(self.path)
        try:
            self._file.truncate(keep)
        except OSError as error:
            raise self._unwritable(error) from error
        if not keep:
            self._write_line(header.to_dict())

    def _lock(self) -> None:
        if not lock(self._file, wait=False):
            raise OutputError(f"{self.path}: another run is writing it; wait for it, or stop it")

    def _replace_lines(self, there: "_Contents") -> int:
        """Write the file anew with its changed lines, whole or not at all; return its size."""
        with (
            self.path.open("rb") as file,
            write_whole(self.path) as beside,
            beside.open("wb") as revised,
        ):
            begins = 0
            for line in file:
                if begins < there.keep:
                    revised.write(there.changes.get(begins, line))
                begins += len(line)
        self._file.close()
        self._file = self.path.open("ab", buffering=0)
        self._lock()
        return self.path.stat().st_size

    def write(self, utterance: NBestUtterance) -> None:
        """Append one utterance and flush it.

        Raises:
            NBestFileError: The id was written before, or a score is not finite.
            OutputError: The disk is full, or fails.
        """
        if utterance.id in self.finished:
            raise NBestFileError(f"{self.path}: id {utterance.id!r} is in the file already")
        row = utterance.to_dict()
        utterance_from(f"{self.path}: {utterance.id}", row)
        self._write_line(row)
        self.finished[utterance.id] = None

    def arrange(self, places: Mapping[str, int]) -> None:
        """Put the lines in the order of the manifest, where they are not, and close the file.

        They are in another order where rows failed and were recognised later, or where the manifest changed.
        Ids that it does not have go to the end.

        Args:
            places: The place of every id in the manifest.

        Raises:
            OutputError: The file cannot be written; it is as it was.
        """
        order = [places.get(key, len(places)) for key in self.finished]
        if order != sorted(order):
            with (
                self.path.open("rb") as file,
                write_whole(self.path) as beside,
                beside.open("wb") as arranged,
            ):
                arranged.write(file.readline())
                begins, lines = file.tell(), []
                for line in file:
                    if line.strip():
                        lines.append((begins, len(line)))
                    begins += len(line)
                for _, (begins, length) in sorted(zip(order, lines, strict=True)):
                    file.seek(begins)
                    arranged.write(file.read(length))
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_line(self, row: Mapping[str, Any]) -> None:
        rest = memoryview(_line(row))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: cannot be written: {error.strerror}; the utterances that are in it stay, and the "
            "next run goes on from there"
        )


@dataclass(slots=True)
class _Contents:
    """What an unfinished file holds.

    Attributes:
        finished: The ids that stay in it.
        keep: Bytes of its whole lines; a torn last line is not kept.
        changes: New lines, empty for those that go, by where the old ones begin.
    """

    finished: dict[str, None] = field(default_factory=dict)
    keep: int = 0
    changes: dict[int, bytes] = field(default_factory=dict)


def _read(path: Path, header: NBestHeader, revise: Revise) -> _Contents:
    there = _Contents()
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            if not data.endswith(b"\n"):
                break
            content = data.decode("utf-8", errors="replace")
            if line == 1:
                _refuse_other(path, header_from(path, 1, content), header)
            elif content.strip():
                place = f"{path}:{line}"
                utterance = utterance_from(place, parse_row(place, content, NBestFileError))
                revised = revise(utterance)
                if revised is not utterance:
                    there.changes[there.keep] = b"" if revised is None else _line(revised.to_dict())
                if revised is not None:
                    there.finished[utterance.id] = None
            there.keep += len(data)
    return there


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _refuse_foreign(path: Path) -> None:
    """Refuse to begin a file afresh that is something else, such as the manifest."""
    with path.open("rb") as file:
        first = file.readline()
    if first.endswith(b"\n"):
        try:
            header_from(path, 1, first.decode("utf-8", errors="replace"))
        except NBestFileError as error:
            raise NBestFileError(f"{path} is no n-best file and is not overwritten; name another") from error


def _refuse_other(path: Path, header: NBestHeader, wanted: NBestHeader) -> None:
    there, expected = header.to_dict(), json.loads(json.dumps(wanted.to_dict()))
    if there != expected:
        changed = [
            f"{key} {there[part].get(key, 'unset')!r}, not {expected[part].get(key, 'unset')!r}"
            for part in ("bundle", "settings")
            for key in {**there[part], **expected[part]}
            if there[part].get(key, "unset") != expected[part].get(key, "unset")
        ]
        raise NBestFileError(
            f"{path}:1: was written with {'; '.join(changed)}: "
            "delete the file, or choose another output, to start afresh"
        )
