"""Rows that could not be used: how many a run bears, and the file that names them.

`NAME.errors.jsonl` lies beside the n-best file `NAME.jsonl`, one row a line. It belongs to that file: it is
written while that file is locked, and counts for nothing where that file is begun afresh.
"""

import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.manifest import Utterance
from runtime import errors
from runtime.bundle.json_files import parse_json
from runtime.errors import EarsightError, ManifestError, NBestFileError, OutputError
from runtime.files.write_whole import write_text


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that could not be used.

    Attributes:
        id: Its id.
        line: Its line of the manifest, from 1.
        audio: Its audio file.
        kind: Name of the class of `runtime.errors`.
        error: The message, which names the row.
    """

    id: str
    line: int
    audio: str
    kind: str
    error: str

    @classmethod
    def of(cls, utterance: Utterance, error: EarsightError) -> "Failure":
        """Return what an error says of a row."""
        return cls(utterance.id, utterance.line, str(utterance.audio), type(error).__name__, str(error))

    def to_dict(self) -> dict[str, Any]:
        """Return the line's keys."""
        return asdict(self)

    def to_error(self) -> EarsightError:
        """Return the error again, as the process that met it raised it."""
        kind = getattr(errors, self.kind, ManifestError)
        if not (isinstance(kind, type) and issubclass(kind, EarsightError)):
            kind = ManifestError
        return kind(self.error)


def failure_from(place: str, row: Any) -> Failure:
    """Restore what `Failure.to_dict` returned.

    Raises:
        NBestFileError: It is something else; the message starts with `place`.
    """
    kinds = {"id": str, "line": int, "audio": str, "kind": str, "error": str}
    if not isinstance(row, dict) or any(type(row.get(key)) is not kind for key, kind in kinds.items()):
        raise NBestFileError(f"{place}: expected an object with {', '.join(kinds)}; delete the file")
    return Failure(**{key: row[key] for key in kinds})


class FailureLog:
    """The errors file of an n-best file.

    Attributes:
        path: Where it lies.
        failed: What it holds, by id.
    """

    def __init__(self, nbest: Path, *, resume: bool) -> None:
        """Read the file, or delete it where the n-best file is begun afresh.

        Raises:
            NBestFileError: A line cannot be used.
            OutputError: The file cannot be read or deleted.
        """
        self.path = nbest.with_name(f"{nbest.stem}.errors.jsonl")
        self.failed: dict[str, Failure] = {}
        try:
            if not resume:
                self.path.unlink(missing_ok=True)
            elif self.path.exists():
                self._read()
        except OSError as error:
            raise self._unusable(error) from error

    def _read(self) -> None:
        data = self.path.read_bytes()
        keep = data.rfind(b"\n") + 1  # a torn last line is not kept
        for line, content in enumerate(data[:keep].splitlines(), start=1):
            place = f"{self.path}:{line}"
            try:
                row = parse_json(content.decode())
            except ValueError as error:
                raise NBestFileError(f"{place}: cannot be read as JSON: {error}") from error
            failure = failure_from(place, row)
            self.failed[failure.id] = failure
        if keep < len(data):
            with self.path.open("rb+") as file:
                file.truncate(keep)

    def add(self, failure: Failure) -> None:
        """Append a row.

        Raises:
            OutputError: The disk is full, or fails.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(failure))
        except OSError as error:
            raise self._unusable(error) from error
        self.failed[failure.id] = failure

    def settle(self, finished: Container[str], places: Mapping[str, int]) -> None:
        """Leave the rows that are still not in the n-best file, in the order of the manifest; or no file.

        Raises:
            OutputError: The file cannot be written.
        """
        left = [failure for key, failure in self.failed.items() if key not in finished and key in places]
        left.sort(key=lambda failure: places[failure.id])
        self.failed = {failure.id: failure for failure in left}
        if left:
            write_text(self.path, "".join(map(_line, left)))
        else:
            self.path.unlink(missing_ok=True)

    def _unusable(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path} cannot be used: {error.strerror or error}")


def _line(failure: Failure) -> str:
    return f"{json.dumps(failure.to_dict(), ensure_ascii=False)}\n"
