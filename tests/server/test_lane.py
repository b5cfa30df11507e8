"""One lane and its queue, with a recogniser that only counts."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest

from runtime.audio.segmentation import Segment
from runtime.recognizer import RecognisedSegment, Utterance
from runtime.server.crew import Crew
from runtime.server.faults import Fault
from runtime.server.jobs import Job, Queue
from runtime.server.lane import Lane
from runtime.server.metrics import Metrics
from runtime.whisper.beam_settings import BeamSearchSettings

SEARCH = BeamSearchSettings()


@dataclass
class CountingRecognizer:
    """Recognises nothing in no time.

    `encoded` is called with each utterance before the next is asked for, `decoded` behind each delivery.
    """

    search: BeamSearchSettings = SEARCH
    encoded: Callable[[Utterance], object] = lambda utterance: None
    decoded: Callable[[], object] = lambda: None
    batches: list[int] = field(default_factory=list)

    def recognise(
        self, utterances: Iterable[Utterance], given_up, most: int, deliver
    ) -> list[RecognisedSegment]:
        count = 0
        for utterance in utterances:
            self.encoded(utterance)
            count += 1
        given_up()
        assert count <= most
        self.batches.append(count)
        segments = [RecognisedSegment(0.0, 1.0, []) for _ in range(count)]
        for place in reversed(range(count)):  # in any order
            deliver(place, segments[place])
            self.decoded()
        return segments


@dataclass
class Pipeline:
    recognizer: CountingRecognizer


@dataclass
class Asked:
    """A job and what came of it."""

    name: int
    segments: int = 1
    deadline: float = np.inf
    answers: list = field(default_factory=list)

    def __post_init__(self) -> None:
        utterances = (Utterance(Segment(self.name, np.zeros(1, np.float32))) for _ in range(self.segments))
        self.job = Job(
            utterances, SEARCH, lambda asr, segment: segment, self.answers.append, self.deadline
        )  # fmt: skip

    @property
    def is_answered(self) -> bool:
        return len(self.answers) == self.segments + 1 and self.answers[-1] is None


def lane_of(recognizer: CountingRecognizer, lanes: int = 1) -> tuple[Lane, Queue]:
    queue = Queue(batch=8, lanes=lanes)
    pipeline = Pipeline(recognizer)
    return Lane(0, Crew(pipeline, pipeline, lanes), queue, Metrics(), threading.Event()), queue


def work_off(lane: Lane, queue: Queue) -> None:
    while jobs := queue.take(0):
        lane._take_on(jobs)
    assert not queue._at_work, "counted for ever"


def test_who_comes_while_others_are_encoded_joins():
    first, second, late = Asked(1), Asked(2), Asked(3, deadline=time.monotonic() - 1)

    def encoded(utterance):
        if utterance.segment.start == 1:
            queue.put(late.job)
            queue.put(second.job)

    recognizer = CountingRecognizer(encoded=encoded)
    lane, queue = lane_of(recognizer)
    queue.put(first.job)
    work_off(lane, queue)
    assert recognizer.batches == [2]
    assert first.is_answered
    assert second.is_answered
    assert isinstance(late.answers[0], Fault), "nobody waits for it any more"


def test_segments_of_long_recordings_come_back():
    asked = [Asked(number, segments=number + 1) for number in range(4)]
    lane, queue = lane_of(recognizer := CountingRecognizer())
    for each in asked:
        queue.put(each.job)
    work_off(lane, queue)
    assert all(each.is_answered for each in asked)
    assert sum(recognizer.batches) == 1 + 2 + 3 + 4


def test_one_that_fails_fails_alone():
    good, bad, joins = Asked(1), Asked(2), Asked(3)
    waiting = [joins]

    def encoded(utterance):
        if utterance.segment.start == 2:
            raise ValueError("made to fail")
        if utterance.segment.start == 1 and waiting:
            queue.put(waiting.pop().job)

    lane, queue = lane_of(CountingRecognizer(encoded=encoded))
    for each in (good, bad):
        queue.put(each.job)
    work_off(lane, queue)
    assert good.is_answered
    assert joins.is_answered
    (fault,) = bad.answers
    assert fault.status == 500


def test_a_lane_that_dies_refuses_those_that_joined():
    first, second = Asked(1), Asked(2)

    def encoded(utterance):
        if utterance.segment.start == 2:
            raise KeyboardInterrupt
        queue.put(second.job)

    lane, queue = lane_of(CountingRecognizer(encoded=encoded))
    queue.put(first.job)
    with pytest.raises(KeyboardInterrupt):
        lane._take_on(queue.take(0))
    assert [each.answers[0].status for each in (first, second)] == [503, 503]


def test_who_is_done_is_answered_while_others_are_not():
    first, second = Asked(1), Asked(2)
    answered: list[int] = []
    recognizer = CountingRecognizer(
        decoded=lambda: answered.append(sum(each.is_answered for each in (first, second)))
    )
    lane, queue = lane_of(recognizer)
    for each in (first, second):
        queue.put(each.job)
    work_off(lane, queue)
    assert answered == [1, 2]


def test_a_failure_behind_an_answer_fails_those_alone_that_have_none():
    first, second = Asked(1), Asked(2)

    def decoded():
        if not first.answers:
            raise ValueError("made to fail once")

    lane, queue = lane_of(CountingRecognizer(decoded=decoded))
    for each in (first, second):
        queue.put(each.job)
    work_off(lane, queue)
    assert first.is_answered, "again, alone"
    assert second.is_answered, "once"
