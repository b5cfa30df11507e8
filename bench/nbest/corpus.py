"""A whole manifest into an n-best file: in its order, resumable, with the rows that failed told apart."""

import logging
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from bench.manifest import Utterance
from bench.nbest.blocks import PartFolder
from bench.nbest.crew import Crew, InProcess
from bench.nbest.failures import Failure, FailureLog
from bench.nbest.file import NBestFile, read_nbest
from bench.nbest.recognition import tasks_of
from bench.nbest.sources import Revision
from bench.nbest.writer import NBestWriter
from runtime.errors import ManifestError, SettingsError
from runtime.pipeline import MultimodalASR

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CorpusSettings:
    """How a run treats what is there already, and what fails. Verified on creation.

    Attributes:
        resume: Go on with the n-best file instead of starting it afresh.
        max_errors: So many rows may fail; they are left out of the n-best file and named in the errors file.
        retry_failed: Recognise the rows that failed in an earlier run again.
        drop_others: Take utterances out of the n-best file that the manifest does not have.
        progress: Show a progress bar where standard error is a terminal.
    """

    resume: bool = True
    max_errors: int = 0
    retry_failed: bool = False
    drop_others: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Verify the range.

        Raises:
            SettingsError: `max_errors` is below 0.
        """
        if self.max_errors < 0:
            raise SettingsError(f"max_errors is {self.max_errors}; expected 0 (stop at the first) or more")

    @property
    def keeps_failures(self) -> bool:
        """Whether rows that failed in an earlier run are done with."""
        return self.max_errors > 0 and not self.retry_failed


@dataclass(frozen=True, slots=True)
class CorpusRun:
    """What a run did.

    Attributes:
        utterances: Lines of the n-best file.
        failed: Rows that are left out.
        errors: The file that names them.
    """

    utterances: int
    failed: int
    errors: Path


def write_nbest(
    asr: MultimodalASR,
    utterances: Sequence[Utterance],
    output: Path,
    *,
    resume: bool = True,
    drop_others: bool = False,
    progress: bool = True,
) -> NBestFile:
    """Recognise every utterance and compare its hypotheses with its picture, and with a wrong one.

    Args:
        asr: The pipeline.
        utterances: Rows of a manifest.
        output: The n-best file. With `resume`, what an interrupted run of the same bundle and settings has
            written stays, as far as its rows are still those of the manifest.
        resume: Go on with the file instead of starting it afresh.
        drop_others: Take utterances out of the file that the manifest does not have; they are not returned
            either way.
        progress: Show a progress bar where standard error is a terminal.

    Returns:
        The file, read back: the utterances of the manifest, in its order.

    Raises:
        ManifestError: An audio file, picture or cache key of a row cannot be used; the message names the row.
    """
    settings = CorpusSettings(resume=resume, drop_others=drop_others, progress=progress)
    write_corpus(InProcess(lambda: asr), utterances, output, settings)
    nbest = read_nbest(output)
    found = {utterance.id: utterance for utterance in nbest.utterances}
    return replace(nbest, utterances=tuple(found[utterance.id] for utterance in utterances))


def write_corpus(
    crew: Crew, utterances: Sequence[Utterance], output: Path, settings: CorpusSettings
) -> CorpusRun:
    """Recognise every utterance that is not in the n-best file yet.

    Lines are written in the order of the manifest whoever recognises, so that the file is always a beginning
    of the whole one; only a row that failed and is tried again, or whose files changed, goes to the end
    first, and to its place last.

    Args:
        crew: Who recognises.
        utterances: Rows of a manifest.
        output: The n-best file.
        settings: What to do with what is there, and with rows that fail.

    Raises:
        EarsightError: More rows failed than may; the error is that of the row, where none may.
        NBestFileError: The file is one of another bundle or of other settings, or damaged.
        OutputError: The file cannot be written, or another run is writing it.
    """
    revision = Revision.by(utterances, drop_others=settings.drop_others)
    with NBestWriter(output, crew.header, resume=settings.resume, revise=revision) as writer:
        for change in revision.changes():
            logger.warning("%s: %s", output, change)
        if not settings.resume:
            PartFolder(output, crew.header).clear()
        log = FailureLog(output, resume=writer.resumed)
        skipped = writer.finished.keys() | (log.failed.keys() if settings.keeps_failures else ())
        tasks = [task for task in tasks_of(utterances) if task.utterance.id not in skipped]
        speech_s = 0.0
        with _bar(len(utterances), len(utterances) - len(tasks), settings) as bar:
            for result in crew.results(tasks, failures=settings.keeps_failures):
                if isinstance(result, Failure):
                    _bear(result, log, writer.finished, settings)
                else:
                    writer.write(result)
                    speech_s += result.duration_s or 0.0
                    bar.set_postfix_str(f"{speech_s / 3600:.2f} h of speech, {len(log.failed)} failed", False)
                bar.update()
        places = {utterance.id: place for place, utterance in enumerate(utterances)}
        log.settle(writer.finished, places)
        writer.arrange(places)
        count = len(writer.finished)
    return CorpusRun(count, len(log.failed), log.path)


def _bear(failure: Failure, log: FailureLog, finished: Container[str], settings: CorpusSettings) -> None:
    """Write a failure down, or raise it where there are too many."""
    if settings.max_errors == 0:
        raise failure.to_error()
    log.failed.pop(failure.id, None)  # it was told by an earlier run
    if len(log.failed) >= settings.max_errors:
        others = [key for key in log.failed if key not in finished]
        if len(others) >= settings.max_errors:
            raise ManifestError(
                f"more rows failed than --max-errors {settings.max_errors}; {log.path} names the others; the "
                f"last: {failure.error}"
            )
    log.add(failure)


def _bar(total: int, done: int, settings: CorpusSettings) -> "tqdm[NoReturn]":
    return tqdm(
        total=total,
        initial=done,
        desc="nbest",
        unit="utterance",
        disable=None if settings.progress else True,
        file=sys.stderr,
    )
