"""Blocks of a manifest and their part files: what workers are given, and what they leave.

A block is `BLOCK` rows that follow each other in the manifest. A worker writes what came of one to a part
file, whole or not at all. The part is good for a run that wants the same rows with the same bundle and
settings, so that a run that was killed loses the blocks in the making and nothing else.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from bench.manifest import Utterance
from bench.nbest.failures import Failure, failure_from
from bench.nbest.file import utterance_from
from bench.nbest.records import NBestHeader, NBestUtterance
from bench.nbest.sources import source_of
from runtime.bundle.json_files import parse_json, parse_row
from runtime.errors import NBestFileError, OutputError
from runtime.files.write_whole import write_text

BLOCK: Final = 8  # rows: some seconds of work, which a kill costs at most
SCHEMA: Final = "earsight.nbest-part/1"
logger = logging.getLogger(__name__)

Result = NBestUtterance | Failure


@dataclass(frozen=True, slots=True)
class Task:
    """One row to recognise.

    Attributes:
        place: Its place in the manifest, from 0.
        utterance: The row.
        control: The row whose picture is compared as a wrong one, or None.
    """

    place: int
    utterance: Utterance
    control: Utterance | None

    @property
    def fingerprint(self) -> str:
        """What the row's result depends on beside bundle and settings; the line of the manifest is not in."""
        own, control = self.utterance, self.control
        facts = (
            *(own.id, str(own.audio), own.reference, str(own.image), own.image_id, own.speaker, own.group),
            *((None, None) if control is None else (str(control.image), control.image_id)),
            source_of(own),
        )
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that one worker recognises and writes together.

    Attributes:
        number: Place of its first row in the manifest, by `BLOCK`.
        tasks: Those of its rows that are to be recognised.
    """

    number: int
    tasks: tuple[Task, ...]


def blocks_of(tasks: Iterable[Task]) -> list[Block]:
    """Return the blocks of tasks that come in the order of the manifest.

    Where blocks begin depends on the manifest alone, not on what is done already.
    """
    return [Block(n, tuple(rows)) for n, rows in groupby(tasks, key=lambda task: task.place // BLOCK)]


class PartFolder:
    """The part files of one n-best file, for one bundle with one group of settings."""

    def __init__(self, nbest: Path, header: NBestHeader) -> None:
        self.folder = nbest.with_name(f"{nbest.name}.parts")
        settings = json.dumps(header.to_dict(), sort_keys=True)
        self._fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]

    def path(self, number: int) -> Path:
        """Return where the part of a block lies."""
        return self.folder / f"{number:08d}-{self._fingerprint}.jsonl"

    def write(self, block: Block, results: Sequence[Result]) -> None:
        """Write the part of a block: whole, or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        header = {
            "schema": SCHEMA,
            "rows": {task.utterance.id: task.fingerprint for task in block.tasks},
            "failed": [result.id for result in results if isinstance(result, Failure)],
        }
        rows = ({"failure" if isinstance(r, Failure) else "utterance": r.to_dict()} for r in results)
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in (header, *rows))
        write_text(self.path(block.number), "".join(f"{line}\n" for line in lines))

    def holds(self, block: Block, *, failures: bool) -> bool:
        """Whether there is a part with every row of a block.

        Args:
            block: The rows that are wanted.
            failures: Whether a row that failed is done with.
        """
        path = self.path(block.number)
        if not path.is_file():
            return False
        try:
            with path.open(encoding="utf-8") as file:
                header = parse_json(file.readline())
            rows, failed = header["rows"], header["failed"]
            whole = all(rows.get(task.utterance.id) == task.fingerprint for task in block.tasks)
            return whole and (failures or not {task.utterance.id for task in block.tasks} & set(failed))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be used (%s); its rows are recognised again", path, error)
            return False

    def read(self, block: Block) -> Iterator[Result]:
        """Yield the results of a block in its order.

        Raises:
            NBestFileError: The part is damaged.
            OutputError: The part is not there: whoever wrote it has another folder of this name.
        """
        path = self.path(block.number)
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise OutputError(
                f"{path} cannot be read: {error.strerror}; every machine of a cluster must see the folder of "
                "the output under the same path"
            ) from error
        found: dict[str, Result] = {}
        for line, content in enumerate(lines[1:-1], start=2):
            result = _result(f"{path}:{line}", content)
            found[result.id] = result
        for task in block.tasks:
            if task.utterance.id not in found:
                raise NBestFileError(f"{path}: no row {task.utterance.id!r} in it; delete the file")
            yield found[task.utterance.id]

    def remove(self, block: Block) -> None:
        """Delete the part of a block, whose rows are in the n-best file."""
        self.path(block.number).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete what earlier runs left, and the folder; nothing where there is none."""
        if self.folder.is_dir():
            for path in self.folder.glob("*.jsonl"):
                path.unlink(missing_ok=True)
            for path in self.folder.glob(".*.tmp"):  # of a process that was killed
                path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def _result(place: str, content: str) -> Result:
    row = parse_row(place, content, NBestFileError, "an utterance or a failure; delete the file")
    if "failure" in row:
        return failure_from(place, row["failure"])
    if not isinstance(row.get("utterance"), dict):
        raise NBestFileError(f"{place}: neither an utterance nor a failure; delete the file")
    return utterance_from(place, row["utterance"])


def results_in_order(
    blocks: Sequence[Block],
    parts: PartFolder,
    recognise: Callable[[Sequence[Block]], Iterator[int]],
    *,
    failures: bool,
) -> Iterator[Result]:
    """Yield the results of all blocks in their order, whatever order they become done in.

    Args:
        blocks: What is wanted.
        parts: Where parts are found and written.
        recognise: Writes the parts of the blocks that are not there, and yields the number of each.
        failures: Whether a row that failed in an earlier run is done with.
    """
    missing = [block for block in blocks if not parts.holds(block, failures=failures)]
    done = {block.number for block in blocks} - {block.number for block in missing}
    numbers = recognise(missing)
    for block in blocks:
        while block.number not in done:
            done.add(next(numbers))
        yield from parts.read(block)
        parts.remove(block)
    parts.clear()
