"""What waits for the engine, and in which order it is taken.

A recording is worked on a segment at a time. New recordings and the later segments of long ones take turns,
so that a short clip waits for one segment of a long file at most, and a long file is not starved by clips.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from runtime.pipeline import MultimodalASR
from runtime.recognizer import RecognisedSegment, Utterance
from runtime.results import SegmentTranscription
from runtime.server.faults import Fault
from runtime.whisper.beam_settings import BeamSearchSettings

TOO_LATE = "the answer would have come later than the deadline; send shorter recordings, or try again later"
STOPPED = "the engine has stopped"


@dataclass(eq=False, slots=True)
class Job:
    """One recording on its way through the engine.

    Attributes:
        utterances: Its segments, split as they are asked for.
        search: How to search.
        fuse: Chooses the text of a segment, with the picture and the pipeline at hand.
        deliver: Takes what comes of it, from the engine's thread: a segment, the fault that ended it, or None
            behind the last segment.
        deadline: Time of `time.monotonic` after which nobody waits for it.
        dropped: Whether the one who asked has gone.
        next: The segment that is to be recognised next.
        started: Whether any segment was recognised.
    """

    utterances: Iterator[Utterance]
    search: BeamSearchSettings
    fuse: Callable[[MultimodalASR, RecognisedSegment], SegmentTranscription]
    deliver: Callable[[SegmentTranscription | Fault | None], object]
    deadline: float
    dropped: bool = False
    next: Utterance | None = None
    started: bool = False

    def __post_init__(self) -> None:
        self.next = next(self.utterances, None)

    @property
    def given_up(self) -> bool:
        """Whether another step of work for it would be wasted."""
        return self.dropped or time.monotonic() > self.deadline


@dataclass(eq=False, slots=True)
class Call:
    """Something short that is to be done on the engine's thread.

    Attributes:
        function: What is to be done.
        result: What comes of it.
    """

    function: Callable[[], Any]
    result: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Do it, unless nobody waits for it any more."""
        if not self.result.set_running_or_notify_cancel():
            return
        try:
            self.result.set_result(self.function())
        except Exception as error:  # noqa: BLE001 - handed to the one who asked
            self.result.set_exception(error)


@dataclass(slots=True)
class Queue:
    """What waits for the engine; put by any thread, taken by the engine's.

    Attributes:
        batch: Most jobs to take at a time.
        lanes: How many threads take; each leaves the others their share.
    """

    batch: int
    lanes: int = 1
    _calls: deque[Call] = field(default_factory=deque)
    _new: deque[Job] = field(default_factory=deque)
    _begun: deque[Job] = field(default_factory=deque)
    _new_is_next: bool = True
    _at_work: set[Job] = field(default_factory=set)  # taken by lanes, and not done yet
    _closed: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, work: Job | Call) -> None:
        """Add work.

        Raises:
            Fault: The queue is closed.
        """
        with self._changed:
            if self._closed:
                raise Fault(503, STOPPED, retry_after_s=1)
            if isinstance(work, Call):
                self._calls.append(work)
            else:
                (self._begun if work.started else self._new).append(work)
            self._changed.notify()

    def take(self, wait_s: float) -> Call | list[Job]:
        """Take what is next: something short, or jobs that can be decoded together; nothing after a while.

        What was taken is worked on until `done` is called.

        Args:
            wait_s: Longest time to wait where there is nothing.
        """
        with self._changed:
            if not (self._calls or self._new or self._begun):
                self._changed.wait(wait_s)
            if self._calls:
                return self._calls.popleft()
            line = self._new if self._new and (self._new_is_next or not self._begun) else self._begun
            self._new_is_next = line is not self._new
            return self._alike(line, line[0].search, self._share()) if line else []

    def join(self, search: BeamSearchSettings, held: int) -> Job | None:
        """Take one more job of this search for a lane that has so many.

        None where it has its share, or where something short waits, which then waits for no further job.
        """
        with self._changed:
            if not self._calls and held < self._share():
                for line in (self._new, self._begun):
                    for job in self._alike(line, search, 1):
                        return job
            return None

    def done(self, jobs: Iterable[Job]) -> None:
        """Note that jobs, which were taken, are no longer worked on."""
        with self._changed:
            self._at_work.difference_update(jobs)

    def _share(self) -> int:
        """Return how many of the jobs that wait or are worked on a lane should have."""
        return min(self.batch, -(-(len(self._at_work) + self.depth) // self.lanes))

    def _alike(self, line: deque[Job], search: BeamSearchSettings, most: int) -> list[Job]:
        """Take jobs that are searched in this way, in their order."""
        taken: list[Job] = []
        left: list[Job] = []
        for job in line:
            (taken if len(taken) < most and job.search == search else left).append(job)
        line.clear()
        line.extend(left)
        self._at_work.update(taken)
        return taken

    def close(self) -> list[Job]:
        """Take no more work, refuse the calls that wait, and return the jobs that will not be done."""
        with self._changed:
            self._closed = True
            waiting, calls = [*self._new, *self._begun], [*self._calls]
            for line in (self._new, self._begun, self._calls):
                line.clear()
            self._changed.notify_all()
        for call in calls:
            if call.result.set_running_or_notify_cancel():
                call.result.set_exception(Fault(503, STOPPED, retry_after_s=1))
        return waiting

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._new) + len(self._begun)
