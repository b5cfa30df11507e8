"""The engine: the only threads that run graphs, so that requests never compete for the processor."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from runtime.pipeline import MultimodalASR
from runtime.server.crew import Crew
from runtime.server.jobs import Call, Job, Queue
from runtime.server.lane import Lane, refuse
from runtime.server.limits import Limits
from runtime.server.metrics import Metrics

T = TypeVar("T")


class Engine:
    """A queue, and the lanes that work on it.

    Args:
        asr: The pipeline; its alpha, beams and language are the defaults of requests.
        limits: Of the server.
        metrics: Where it counts.
        beside: The same bundle on a lane's share of the cores; None for one lane.
    """

    def __init__(
        self, asr: MultimodalASR, limits: Limits, metrics: Metrics, beside: MultimodalASR | None = None
    ) -> None:
        lanes = 1 if beside is None else limits.lanes
        if beside is not None:
            beside.whisper.share_rooms(asr.whisper)
        self._limits = limits
        self._stop = threading.Event()
        crew = Crew(asr, beside, lanes)
        budget = _most_together(asr, limits.batch_bytes // lanes)
        self._queue = Queue(min(limits.batch, budget), lanes)
        self.lanes = [Lane(number, crew, self._queue, metrics, self._stop) for number in range(lanes)]

    def start(self) -> None:
        """Start the threads, which warm up first."""
        for lane in self.lanes:
            lane.thread.start()

    def stop(self, timeout_s: float) -> None:
        """Finish the batches at hand and end; what still waits is answered with 503."""
        self._stop.set()
        refuse(self._queue.close())
        until = time.monotonic() + timeout_s
        for lane in self.lanes:
            lane.thread.join(max(0.0, until - time.monotonic()))

    @property
    def alive(self) -> bool:
        """Whether the threads run."""
        return all(lane.thread.is_alive() for lane in self.lanes)

    @property
    def ready(self) -> bool:
        """Whether every lane has done one real recognition."""
        return all(lane.ready for lane in self.lanes)

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life of the lane that has given none for longest."""
        return max(lane.silent_s for lane in self.lanes)

    @property
    def is_ready(self) -> bool:
        """Whether it takes work: warm, running, and heard of lately."""
        return self.ready and self.alive and self.silent_s < self._limits.stall_s

    @property
    def why_not_ready(self) -> str:
        """Why it takes no work."""
        if not self.alive:
            return "a thread of the engine has ended; restart the server"
        if not self.ready:
            return "the engine warms up"
        return f"the engine has given no sign of life for {self.silent_s:.0f} s"

    def work_s(self, audio_s: float) -> float:
        """Estimate how many seconds of work so many seconds of audio are, from what was recognised so far."""
        known_s = sum(lane.audio_s for lane in self.lanes)
        busy_s = sum(lane.busy_s for lane in self.lanes) / len(self.lanes)
        return audio_s * busy_s / known_s if known_s else 0.0

    def put(self, job: Job) -> None:
        """Let a job wait for its turn.

        Raises:
            Fault: The engine has stopped.
        """
        self._queue.put(job)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run something short on a thread of the engine, ahead of all jobs that wait.

        Raises:
            Fault: The engine has stopped.
        """
        call = Call(function)
        self._queue.put(call)
        return call.result


def _most_together(asr: MultimodalASR, budget: int) -> int:
    """Return how many utterances' cross-attention fits into a number of bytes, at least one."""
    return max(1, budget // asr.whisper.cross_bytes)
