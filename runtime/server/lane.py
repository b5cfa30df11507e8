"""A lane of the engine: one thread that runs graphs."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from runtime.audio.segmentation import Segment
from runtime.errors import EarsightError
from runtime.pipeline import MultimodalASR
from runtime.recognizer import RecognisedSegment, Utterance
from runtime.server.crew import Crew
from runtime.server.faults import Fault, fault_of
from runtime.server.jobs import STOPPED, TOO_LATE, Call, Job, Queue
from runtime.server.metrics import Metrics

logger = logging.getLogger(__name__)
WARM_UP_TOKENS: Final = 8
IDLE_S: Final = 1.0  # between two signs of life of a lane that has nothing to do


class Lane:
    """One thread that takes jobs from the queue and works on them, a segment of each at a time.

    Args:
        number: Of the lane, from 0.
        crew: The pipelines.
        queue: What waits.
        metrics: Where it counts.
        stop: Set when the lanes shall end; set here where this one ends by a defect.

    Attributes:
        ready: Whether one real recognition has been done.
        busy_s: Seconds that it recognised so far.
        audio_s: Seconds of audio that it recognised so far.
    """

    def __init__(
        self, number: int, crew: Crew, queue: Queue, metrics: Metrics, stop: threading.Event
    ) -> None:
        self.ready = False
        self.busy_s = self.audio_s = 0.0
        self.thread = threading.Thread(target=self._work, name=f"engine-{number}", daemon=True)
        self._number = number
        self._crew = crew
        self._queue = queue
        self._metrics = metrics
        self._beat = time.monotonic()
        self._stop = stop

    @property
    def silent_s(self) -> float:
        """Seconds since its last sign of life."""
        return time.monotonic() - self._beat

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
            self._stop.set()
            refuse(self._queue.close())

    def _warm_up(self) -> None:
        """Recognise a second of noise and encode a text: what the first request would wait for otherwise."""
        asr = self._crew.of_lane(self._number)
        recognizer = replace(asr.recognizer, gate=None)
        noise = np.random.default_rng(0).normal(0.0, 0.1, recognizer.sampling_rate).astype(np.float32)
        search = replace(recognizer.search, max_new_tokens=WARM_UP_TOKENS)
        replace(recognizer, search=search).recognise([Utterance(Segment(0, noise))])
        asr.encode_texts(["a text"])

    def _take_on(self, jobs: Sequence[Job]) -> None:
        live = [job for job in jobs if not self._dismissed(job)]
        self._queue.done(set(jobs) - set(live))
        try:
            if live:
                with self._crew.pipeline(others_wait=self._queue.depth > 0) as asr:
                    self._recognise(live, asr, others_join=True)
        except BaseException:
            refuse(live)
            raise

    def _dismissed(self, job: Job) -> bool:
        """Whether there is nothing to do for a job; says so where somebody waits."""
        if job.next is not None and not job.given_up:
            return False
        if not job.dropped:
            job.deliver(None if job.next is None else Fault(504, TOO_LATE, code="deadline_exceeded"))
        return True

    def _recognise(self, jobs: list[Job], asr: MultimodalASR, *, others_join: bool) -> None:
        """Recognise the next segment of every job together; one that fails, fails alone.

        Args:
            jobs: Each with a segment to be recognised. Those that join are added to it.
            asr: The pipeline.
            others_join: Whether jobs that come while these are encoded are decoded with them.
        """
        recognizer = replace(asr.recognizer, search=jobs[0].search)

        def utterances() -> Iterator[Utterance]:
            yield from [job.next for job in jobs if job.next is not None]
            while others_join and (job := self._queue.join(jobs[0].search, len(jobs))) is not None:
                if self._dismissed(job) or job.next is None:
                    self._queue.done([job])
                else:
                    jobs.append(job)
                    yield job.next

        def given_up() -> list[int]:
            self._beat = time.monotonic()
            return [place for place, job in enumerate(jobs) if job.given_up]

        handed_over: set[int] = set()

        def deliver(place: int, segment: RecognisedSegment) -> None:
            handed_over.add(place)
            self._hand_over(jobs[place], segment, asr)

        started = time.perf_counter()
        try:
            most = self._queue.batch if others_join else len(jobs)
            segments = recognizer.recognise(utterances(), given_up, most, deliver)
        except Exception as error:  # noqa: BLE001 - told to the one who asked
            for job in [job for place, job in enumerate(jobs) if place not in handed_over]:
                if len(jobs) > 1:
                    self._recognise([job], asr, others_join=False)
                else:
                    self._queue.done([job])
                    job.deliver(_as_fault(error))
            return
        self._count(segments, time.perf_counter() - started)

    def _count(self, segments: Sequence[RecognisedSegment], busy_s: float) -> None:
        audio_s = sum(segment.end_s - segment.start_s for segment in segments)
        self.busy_s, self.audio_s = self.busy_s + busy_s, self.audio_s + audio_s
        self._metrics.busy.inc(busy_s)
        self._metrics.audio.inc(audio_s)
        self._metrics.batch.observe(len(segments))

    def _hand_over(self, job: Job, segment: RecognisedSegment, asr: MultimodalASR) -> None:
        """Deliver a segment, and let what follows it wait for its turn."""
        self._queue.done([job])
        if self._dismissed(job):
            return
        try:
            job.deliver(job.fuse(asr, segment))
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


def refuse(jobs: Sequence[Job]) -> None:
    """Tell those who wait for jobs that the engine has stopped."""
    for job in jobs:
        if not job.dropped:
            job.deliver(Fault(503, STOPPED, retry_after_s=1))


def _as_fault(error: Exception) -> Fault:
    """Return what the one who asked is told; a defect is logged whole."""
    if isinstance(error, EarsightError):
        return fault_of(error)
    logger.error("a defect while recognising", exc_info=error)
    return Fault(500, "a defect of the server; its log says more", code="internal_error")
