"""Who recognises: this process, or others. What they have in common, and what they cost."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from bench.measure.system_info import peak_memory
from bench.nbest.blocks import Block, PartFolder, Result, Task
from bench.nbest.failures import Failure
from bench.nbest.recognition import PictureShelf, header_of, recognise_or_fail
from bench.nbest.records import NBestHeader
from runtime.errors import SettingsError
from runtime.pipeline import MultimodalASR

OpenPipeline = Callable[[], MultimodalASR]  # can be pickled, where other processes shall call it


@dataclass(slots=True)
class Cost:
    """What this run has recognised so far, and what it has cost, of all processes that recognise.

    Attributes:
        utterances: Rows that were recognised.
        speech_s: Their length, seconds.
        audio_bytes: Size of their recordings.
        work_s: Seconds within the recognition of blocks, summed over processes.
        cpu_s: Seconds of processor in them, summed.
        peak_memory_bytes: Largest resident set of one process.
    """

    utterances: int = 0
    speech_s: float = 0.0
    audio_bytes: int = 0
    work_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0

    def add(self, other: "Cost") -> None:
        """Count the cost of a block."""
        self.utterances += other.utterances
        self.speech_s += other.speech_s
        self.audio_bytes += other.audio_bytes
        self.work_s += other.work_s
        self.cpu_s += other.cpu_s
        self.peak_memory_bytes = max(self.peak_memory_bytes, other.peak_memory_bytes)


class Crew(Protocol):
    """What recognises tasks.

    Attributes:
        cost: What it has cost so far.
    """

    cost: Cost

    @property
    def header(self) -> NBestHeader:
        """Bundle and settings of everyone in it."""

    def results(self, tasks: Sequence[Task], *, failures: bool) -> Iterator[Result]:
        """Yield what comes of the tasks, in their order.

        Args:
            tasks: In the order of the manifest.
            failures: Whether a row that failed in an earlier run is done with.
        """


class Pipeline:
    """One pipeline with the pictures that it has seen.

    Attributes:
        header: Its bundle and settings.
    """

    def __init__(self, open_pipeline: OpenPipeline) -> None:
        self._asr = open_pipeline()
        self.header = header_of(self._asr)
        self._pictures = PictureShelf(self._asr)

    def recognise(self, task: Task, cost: Cost) -> Result:
        """Return what comes of one row, and count what it costs."""
        with measured(cost):
            result = recognise_or_fail(self._asr, task, self._pictures)
        if not isinstance(result, Failure):
            audio_bytes = task.utterance.audio.stat().st_size
            cost.add(Cost(1, result.duration_s or 0.0, audio_bytes))
        return result

    def do(self, block: Block, parts: PartFolder) -> Cost:
        """Recognise a block and write its part; return what that cost."""
        cost = Cost()
        results = [self.recognise(task, cost) for task in block.tasks]
        with measured(cost):
            parts.write(block, results)
        return cost


class InProcess:
    """One pipeline in this process."""

    def __init__(self, open_pipeline: OpenPipeline) -> None:
        self._pipeline = Pipeline(open_pipeline)
        self.header = self._pipeline.header
        self.cost = Cost()

    def results(self, tasks: Sequence[Task], *, failures: bool) -> Iterator[Result]:  # noqa: ARG002
        """Yield what comes of the tasks, each as soon as it is there."""
        for task in tasks:
            yield self._pipeline.recognise(task, self.cost)


@contextmanager
def measured(cost: Cost) -> Iterator[None]:
    """Add the seconds, the processor time and the peak memory of a `with` block to a cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    cost.add(Cost(work_s=seconds[0], cpu_s=seconds[1], peak_memory_bytes=peak_memory()))


def require_same(header: NBestHeader, first: NBestHeader, who: str) -> None:
    """Refuse workers that would give other lists.

    Raises:
        SettingsError: The bundle or a setting differs; the message names which.
    """
    one, other = ({**h.bundle, **h.settings} for h in (first, header))
    different = [f"{key} {one.get(key)!r} and {other[key]!r}" for key in other if other[key] != one.get(key)]
    if different:
        raise SettingsError(
            f"{who} does not recognise as the first worker: {', '.join(different)}; give all machines "
            "the same bundle, and name --provider and --precision"
        )


def shared_threads(cores: int, workers: int) -> int:
    """Return the threads of each worker, so that all together have the cores."""
    return max(1, cores // workers)
