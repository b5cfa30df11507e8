"""The n-best file: hypotheses with their scores, one utterance a line, so that tuning needs no model.

The first line is a header, `{"schema": "earsight.nbest/1", "bundle": {…}, "settings": {…}}`; every
further line is one utterance. Each line is written and flushed on its own, so an interrupted run can
go on where it stopped: a torn last line is cut off, the rest is kept.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.nbest.records import SCHEMA, NBestFile, NBestHeader, NBestHypothesis, NBestUtterance
from runtime.bundle.json_files import parse_json
from runtime.errors import NBestFileError, OutputError
from runtime.write_whole import lock

LARGEST_NUMBER: Final = 1e6  # of scores, cosines and seconds; what is larger is damaged, and overflows sums

__all__ = [
    "SCHEMA",
    "NBestFile",
    "NBestHeader",
    "NBestHypothesis",
    "NBestUtterance",
    "NBestWriter",
    "read_nbest",
]


def read_nbest(path: str | Path) -> NBestFile:
    """Read and verify an n-best file.

    Raises:
        NBestFileError: Not there, not UTF-8, of another schema, no utterance, or a line that cannot be
            used (NaN or infinite scores, duplicate id, a clip score for some hypotheses only); the
            message starts with `file:line`.
    """
    path = Path(path)
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise NBestFileError(f'{path}: empty; expected a header line with "schema": "{SCHEMA}"')
    header = _header(path, *first)
    utterances: list[NBestUtterance] = []
    line_of: dict[str, int] = {}
    for line, content in lines:
        utterance = _utterance(f"{path}:{line}", _object(path, line, content))
        if utterance.id in line_of:
            raise NBestFileError(
                f"{path}:{line}: id {utterance.id!r} was used before on line {line_of[utterance.id]}"
            )
        line_of[utterance.id] = line
        utterances.append(utterance)
    if not utterances:
        raise NBestFileError(
            f"{path}: holds a header and no utterance; run `python -m bench nbest` to its end"
        )
    return NBestFile(header, tuple(utterances), path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, content) of all lines that are not blank."""
    if not path.is_file():
        raise NBestFileError(f"{path}: no such n-best file")
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise NBestFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise NBestFileError(f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8") from error
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, content


def _object(path: Path, line: int, content: str) -> dict[str, Any]:
    try:
        row = parse_json(content)
    except ValueError as error:
        raise NBestFileError(f"{path}:{line}: cannot be read as JSON: {error}") from error
    if not isinstance(row, dict):
        raise NBestFileError(f"{path}:{line}: expected a JSON object, got a {type(row).__name__}")
    return row


def _header(path: Path, line: int, content: str) -> NBestHeader:
    row = _object(path, line, content)
    if row.get("schema") != SCHEMA:
        raise NBestFileError(
            f"{path}:{line}: schema is {row.get('schema')!r}, expected {SCHEMA!r}; "
            "write the file with `python -m bench nbest` of this version"
        )
    bundle, settings = row.get("bundle", {}), row.get("settings", {})
    if not isinstance(bundle, dict) or not isinstance(settings, dict):
        raise NBestFileError(f"{path}:{line}: `bundle` and `settings` must be JSON objects")
    try:
        json.dumps((bundle, settings), allow_nan=False)
    except ValueError as error:
        raise NBestFileError(f"{path}:{line}: `bundle` and `settings` must hold finite numbers") from error
    return NBestHeader(bundle, settings)


def _utterance(place: str, row: Mapping[str, Any]) -> NBestUtterance:
    identifier = row.get("id")
    if not isinstance(identifier, str) or not identifier:
        raise NBestFileError(f"{place}: `id` must be a text that is not empty, got {identifier!r}")
    reference = row.get("reference")
    if not isinstance(reference, str):
        raise NBestFileError(f"{place}: `reference` must be a text, got {reference!r}")
    listed = row.get("hypotheses")
    if not isinstance(listed, list):
        raise NBestFileError(f"{place}: `hypotheses` must be a list, got {listed!r}")
    hypotheses = tuple(
        _hypothesis(f"{place}: hypothesis {i}", item) for i, item in enumerate(listed, start=1)
    )
    if len({h.clip_score is None for h in hypotheses}) > 1:
        raise NBestFileError(
            f"{place}: some hypotheses have a clip_score and some have none; expected all or none"
        )
    if len({h.clip_score_shuffled is None for h in hypotheses}) > 1:
        raise NBestFileError(f"{place}: some hypotheses have a clip_score_shuffled and some have none")
    return NBestUtterance(
        id=identifier,
        reference=reference,
        speaker=_optional_text(place, row, "speaker"),
        group=_optional_text(place, row, "group"),
        image_id=_optional_text(place, row, "image_id"),
        duration_s=_number(place, row, "duration_s"),
        hypotheses=hypotheses,
    )


def _hypothesis(place: str, item: object) -> NBestHypothesis:
    if not isinstance(item, dict):
        raise NBestFileError(f"{place}: expected an object with text, score and clip_score, got {item!r}")
    text = item.get("text")
    if not isinstance(text, str):
        raise NBestFileError(f"{place}: `text` must be a text, got {text!r}")
    score = _number(place, item, "score")
    if score is None:
        raise NBestFileError(f"{place}: `score` is missing; expected the mean log-probability per token")
    num_tokens = item.get("num_tokens")
    if num_tokens is not None and (type(num_tokens) is not int or num_tokens < 1):
        raise NBestFileError(f"{place}: `num_tokens` must be a count above 0, got {num_tokens!r}")
    return NBestHypothesis(
        text=text,
        score=score,
        clip_score=_cosine(place, item, "clip_score"),
        asr_sum=_number(place, item, "asr_sum"),
        num_tokens=num_tokens,
        clip_score_shuffled=_cosine(place, item, "clip_score_shuffled"),
    )


def _optional_text(place: str, row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise NBestFileError(f"{place}: `{key}` must be a text or null, got {value!r}")
    return value


def _number(place: str, row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NBestFileError(f"{place}: `{key}` must be a number, got {value!r}")
    if not math.isfinite(value):
        raise NBestFileError(f"{place}: `{key}` must be finite, got {value}")
    if abs(value) > LARGEST_NUMBER:
        raise NBestFileError(f"{place}: `{key}` is {value}; expected at most {LARGEST_NUMBER:g} in size")
    return float(value)


def _cosine(place: str, row: Mapping[str, Any], key: str) -> float | None:
    value = _number(place, row, key)
    # Unit vectors in float32 give cosines that pass 1 by a few units in the last place.
    if value is not None and abs(value) > 1.0 + 1e-5:
        raise NBestFileError(f"{place}: `{key}` must be a cosine in [-1, 1], got {value}")
    return value


class NBestWriter:
    """Writes an n-best file line by line, each flushed, and goes on where an earlier run stopped.

    Use as a context manager:

        with NBestWriter(path, header, resume=True) as writer:
            for utterance in utterances:
                if utterance.id not in writer.finished:
                    writer.write(recognise(utterance))
    """

    def __init__(self, path: str | Path, header: NBestHeader, *, resume: bool = False) -> None:
        """Open the file.

        Args:
            path: Where to write; missing folders are made.
            header: Bundle and settings of this run.
            resume: Keep the utterances that a file of the same header already holds. Without it an
                existing file is overwritten.

        Raises:
            NBestFileError: `resume` on a file of another header, or with an unusable line.
            OutputError: The file cannot be written, or another run is writing it.
        """
        self.path = Path(path)
        self.finished: set[str] = set()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line that fails is not tried again when the file is closed.
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._begin(header, resume)
        except BaseException:
            self.close()
            raise

    def _begin(self, header: NBestHeader, resume: bool) -> None:
        if not lock(self._file, wait=False):
            raise OutputError(f"{self.path}: another run is writing it; wait for it, or stop it")
        keep = 0
        if resume:
            self.finished, keep = _finished(self.path, header)
        try:
            self._file.truncate(keep)
        except OSError as error:
            raise self._unwritable(error) from error
        if not keep:
            self._write_line(header.to_dict())

    def write(self, utterance: NBestUtterance) -> None:
        """Append one utterance and flush it.

        Raises:
            NBestFileError: The id was written before, or a score is not finite.
            OutputError: The disk is full, or fails.
        """
        if utterance.id in self.finished:
            raise NBestFileError(f"{self.path}: id {utterance.id!r} is in the file already")
        row = utterance.to_dict()
        _utterance(f"{self.path}: {utterance.id}", row)
        self._write_line(row)
        self.finished.add(utterance.id)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write_line(self, row: Mapping[str, Any]) -> None:
        rest = memoryview(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
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


def _finished(path: Path, header: NBestHeader) -> tuple[set[str], int]:
    """Return the ids of an unfinished file and the number of bytes to keep (a torn last line is not kept)."""
    data = path.read_bytes()
    keep = data.rfind(b"\n") + 1
    if keep == 0:  # not even the header was written to its end
        return set(), 0
    found: list[str] = []
    lines = data[:keep].decode("utf-8", errors="replace").split("\n")
    there = _header(path, 1, lines[0]).to_dict()
    wanted = json.loads(json.dumps(header.to_dict()))
    if there != wanted:
        changed = [key for key in ("bundle", "settings") if there[key] != wanted[key]]
        raise NBestFileError(
            f"{path}:1: was written with another {' and '.join(changed)}; "
            "delete the file, or choose another output, to start afresh"
        )
    for line, content in enumerate(lines[1:], start=2):
        if content.strip():
            found.append(_utterance(f"{path}:{line}", _object(path, line, content)).id)
    return set(found), keep
