"""Several processes of this machine, each with a pipeline of its own.

Processes are spawned: onnxruntime's threads do not survive a fork. One that dies, for want of memory or by a
signal, is started again, and its block is given to the next that is free. When the driver dies, they end.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from bench.nbest.blocks import Block, PartFolder, Result, Task, blocks_of, results_in_order
from bench.nbest.crew import Cost, OpenPipeline, Pipeline, require_same
from bench.nbest.records import NBestHeader
from runtime.errors import EarsightError, InferenceError, SettingsError
from runtime.files.closing import Closing

MOST_DEATHS: Final = 5  # of workers at one block, or while they open their pipeline
MOST_WORKERS: Final = 1024
_SPAWN: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker's first answer."""

    header: NBestHeader


@dataclass(frozen=True, slots=True)
class Done:
    """A worker's answer to a block: its part is written."""

    number: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Broken:
    """A worker's last answer: a fault of the input, or the traceback of a defect."""

    error: EarsightError | None
    traceback: str


Answer = Opened | Done | Broken


@dataclass(slots=True, eq=False)
class _Worker:
    process: BaseProcess
    connection: "Connection[Block, Answer]"
    opened: bool = False
    block: Block | None = None


class LocalCrew(Closing):
    """Processes that share the work; a context manager.

    Attributes:
        header: Bundle and settings of every worker.
        cost: What they have cost so far.
    """

    def __init__(self, open_pipeline: OpenPipeline, workers: int, nbest: Path) -> None:
        """Start the processes and wait until the first has opened its pipeline.

        Args:
            open_pipeline: Opens a pipeline; is pickled.
            workers: How many processes.
            nbest: The n-best file, beside which parts are written.

        Raises:
            SettingsError: The number is out of its range.
            EarsightError: The pipeline cannot be opened.
        """
        if not 1 <= workers <= MOST_WORKERS:
            raise SettingsError(f"workers is {workers}; expected 1 to {MOST_WORKERS}")
        self._open, self._nbest = open_pipeline, nbest
        self._deaths: Counter[int | None] = Counter()
        self.cost = Cost()
        self._header: NBestHeader | None = None
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._start()
            while self._header is None:
                for _ in self._answers():
                    pass
        except BaseException:
            self.close()
            raise

    @property
    def header(self) -> NBestHeader:
        """Bundle and settings of every worker."""
        assert self._header is not None  # the first worker has told it
        return self._header

    def results(self, tasks: Sequence[Task], *, failures: bool) -> Iterator[Result]:
        """Yield what comes of the tasks, in their order.

        Raises:
            EarsightError: A worker cannot open its pipeline, or died again and again at one block.
            RuntimeError: A defect in a worker, with its traceback.
        """
        parts = PartFolder(self._nbest, self.header)
        return results_in_order(blocks_of(tasks), parts, self._recognise, failures=failures)

    def _recognise(self, blocks: Sequence[Block]) -> Iterator[int]:
        waiting, left = deque(blocks), len(blocks)
        while left:
            for worker in self._workers:
                if worker.opened and worker.block is None and waiting:
                    worker.block = waiting.popleft()
                    _send(worker)
            for answer in self._answers():
                if isinstance(answer, Block):
                    waiting.appendleft(answer)
                else:
                    left -= 1
                    yield answer

    def _answers(self) -> Iterator[int | Block]:
        """Wait for workers; yield numbers of blocks that are done, and blocks of workers that died."""
        heard = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(heard)):
            worker = heard[connection]  # type: ignore[index]  # only connections were given
            try:
                answer = worker.connection.recv()
            except (EOFError, ConnectionError):
                if (block := self._replace(worker)) is not None:
                    yield block
                continue
            if isinstance(answer, Broken):
                raise answer.error or RuntimeError(f"a worker failed:\n{answer.traceback}")
            if isinstance(answer, Opened):
                self._header = self._header or answer.header
                require_same(answer.header, self._header, f"worker {worker.process.pid}")
                worker.opened = True
            else:
                worker.block = None
                self.cost.add(answer.cost)
                yield answer.number

    def _start(self) -> None:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_serve, args=(theirs, self._open, self._nbest), daemon=True)
        process.start()
        theirs.close()  # else the death of the process would not end the connection
        self._workers.append(_Worker(process, ours))

    def _replace(self, worker: _Worker) -> Block | None:
        """Start another process in place of one that died; return the block that it had."""
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join()
        place = worker.block.number if worker.block else None
        self._deaths[place] += 1
        if self._deaths[place] >= MOST_DEATHS:
            what = "while they opened the bundle"
            if worker.block:
                first, last = (worker.block.tasks[i].utterance for i in (0, -1))
                what = f"at the rows of lines {first.line} to {last.line} ({first.id} to {last.id})"
            raise InferenceError(
                f"{MOST_DEATHS} workers died {what}, the last with status {worker.process.exitcode}; is "
                "there memory for so many workers? Else one of the rows ends whoever reads it"
            )
        self._start()
        return worker.block

    def close(self) -> None:
        """End all processes; what they have in hand is lost."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers.clear()


def _send(worker: _Worker) -> None:
    try:
        assert worker.block is not None
        worker.connection.send(worker.block)
    except (BrokenPipeError, ConnectionError):
        pass  # it has died, which the next look at its connection tells


def _serve(connection: "Connection[Answer, Block]", open_pipeline: OpenPipeline, nbest: Path) -> None:
    """Be a worker: open a pipeline, then do blocks until the driver ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver answers Ctrl-C
    threading.Thread(target=_end_with_driver, daemon=True).start()
    try:
        worker = Pipeline(open_pipeline)
        parts = PartFolder(nbest, worker.header)
        connection.send(Opened(worker.header))
        while True:
            block = connection.recv()
            connection.send(Done(block.number, worker.do(block, parts)))
    except EOFError:
        return
    except EarsightError as error:
        connection.send(Broken(error, ""))
    except Exception:  # noqa: BLE001  a defect: told with its traceback by the driver
        connection.send(Broken(None, traceback.format_exc()))


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None  # it was spawned
    driver.join()
    os._exit(1)
