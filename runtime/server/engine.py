"""The engine's thread: the only one that runs graphs, so that requests never compete for the processor."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from runtime.audio.segmentation import Segment
from runtime.errors import EarsightError
from runtime.pipeline import MultimodalASR
from runtime.recognizer import RecognisedSegment, Utterance
from runtime.server.faults import Fault, fault_of
from runtime.server.jobs import STOPPED, TOO_LATE, Call, Job, Queue
from runtime.server.limits import Limits
from runtime.server.metrics import Metrics

logger = logging.getLogger(__name__)
T = TypeVar("T")
WARM_UP_TOKENS: Final = 8
IDLE_S: Final = 1.0  # between two signs of life of an engine that has nothing to do


class Engine:
    """Takes jobs from the queue and works on them, a segment of each at a time.

    Args:
        asr: The pipeline; its alpha, beams and language are the defaults of requests.
        limits: Of the server.
        metrics: Where it counts.

    Attributes:
        ready: Whether one real recognition has been done.
    """

    def __init__(self, asr: MultimodalASR, limits: Limits, metrics: Metrics) -> None:
        self.asr = asr
        self.ready = False
        self._limits = limits
        self._metrics = metrics
        self._queue = Queue(min(limits.batch, _most_together(asr, limits.batch_bytes)))
        self._beat = time.monotonic()
        self._busy_s = self._audio_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, which warms up first."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Finish the batch at hand and end; what still waits is answered with 503."""
        self._stop.set()
        self._refuse(self._queue.close())
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since its last sign of life."""
        return time.monotonic() - self._beat

    @property
    def is_ready(self) -> bool:
        """Whether it takes work: warm, running, and heard of lately."""
        return self.ready and self.alive and self.silent_s < self._limits.stall_s

    @property
    def why_not_ready(self) -> str:
        """Why it takes no work."""
        if not self.alive:
            return "the engine's thread has ended; restart the server"
        if not self.ready:
            return "the engine warms up"
        return f"the engine has given no sign of life for {self.silent_s:.0f} s"

    def work_s(self, audio_s: float) -> float:
        """Estimate how many seconds of work so many seconds of audio are, from what was recognised so far."""
        return audio_s * self._busy_s / self._audio_s if self._audio_s else 0.0

    def put(self, job: Job) -> None:
        """Let a job wait for its turn.

        Raises:
            Fault: The engine has stopped.
        """
        self._queue.put(job)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run something short on the engine's thread, ahead of all jobs that wait.

        Raises:
            Fault: The engine has stopped.
        """
        call = Call(function)
        self._queue.put(call)
        return call.result

    def _work(self) -> None:
        try:
            self._warm_up()
            self.ready = True
            while not self._stop.is_set():
                self._beat = time.monotonic()
                self._metrics.waiting.set(self._queue.depth)
                work = self._queue.take(IDLE_S)
                if isinstance(work, Call):
                    work.run()
                elif work:
                    self._take_on(work)
        finally:
            # Reached by a defect as well: then nobody may wait for ever.
            self.ready = False
            self._refuse(self._queue.close())

    def _warm_up(self) -> None:
        """Recognise a second of noise and encode a text: what the first request would wait for otherwise."""
        recognizer = replace(self.asr.recognizer, gate=None)
        noise = np.random.default_rng(0).normal(0.0, 0.1, recognizer.sampling_rate).astype(np.float32)
        search = replace(recognizer.search, max_new_tokens=WARM_UP_TOKENS)
        replace(recognizer, search=search).recognise([Utterance(Segment(0, noise))])
        self.asr.encode_texts(["a text"])

    def _take_on(self, jobs: Sequence[Job]) -> None:
        live = [job for job in jobs if not self._dismissed(job)]
        try:
            if live:
                self._recognise(live)
        except BaseException:
            self._refuse(live)
            raise

    def _dismissed(self, job: Job) -> bool:
        """Whether there is nothing to do for a job; says so where somebody waits."""
        if job.next is not None and not job.given_up:
            return False
        if not job.dropped:
            job.deliver(None if job.next is None else Fault(504, TOO_LATE, code="deadline_exceeded"))
        return True

    def _recognise(self, jobs: list[Job]) -> None:
        """Recognise the next segment of every job together; one that fails, fails alone."""
        recognizer = replace(self.asr.recognizer, search=jobs[0].search)
        utterances = [job.next for job in jobs if job.next is not None]

        def given_up() -> list[int]:
            self._beat = time.monotonic()
            return [place for place, job in enumerate(jobs) if job.given_up]

        started = time.perf_counter()
        try:
            segments = recognizer.recognise(utterances, given_up)
        except Exception as error:  # noqa: BLE001 - told to the one who asked
            if len(jobs) > 1:
                for job in jobs:
                    self._recognise([job])
                return
            jobs[0].deliver(_as_fault(error))
            return
        for job, segment in zip(jobs, segments, strict=True):
            self._hand_over(job, segment)
        self._count(segments, time.perf_counter() - started)

    def _count(self, segments: Sequence[RecognisedSegment], busy_s: float) -> None:
        audio_s = sum(segment.end_s - segment.start_s for segment in segments)
        self._busy_s, self._audio_s = self._busy_s + busy_s, self._audio_s + audio_s
        self._metrics.busy.inc(busy_s)
        self._metrics.audio.inc(audio_s)
        self._metrics.batch.observe(len(segments))

    def _hand_over(self, job: Job, segment: RecognisedSegment) -> None:
        """Deliver a segment, and let what follows it wait for its turn."""
        if self._dismissed(job):
            return
        try:
            job.deliver(job.fuse(segment))
            job.started = True
            job.next = next(job.utterances, None)
            if job.next is None:
                job.deliver(None)
            else:
                self._queue.put(job)
        except Fault as fault:
            job.deliver(fault)
        except Exception as error:  # noqa: BLE001 - told to the one who asked
            job.deliver(_as_fault(error))

    def _refuse(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if not job.dropped:
                job.deliver(Fault(503, STOPPED, retry_after_s=1))


def _as_fault(error: Exception) -> Fault:
    """Return what the one who asked is told; a defect is logged whole."""
    if isinstance(error, EarsightError):
        return fault_of(error)
    logger.error("a defect while recognising", exc_info=error)
    return Fault(500, "a defect of the server; its log says more", code="internal_error")


def _most_together(asr: MultimodalASR, budget: int) -> int:
    """Return how many utterances' cross-attention fits into a number of bytes, at least one."""
    return max(1, budget // asr.whisper.cross_bytes)
