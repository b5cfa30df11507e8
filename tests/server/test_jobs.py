"""The order in which work is taken."""

import numpy as np
import pytest

from runtime.audio.segmentation import Segment
from runtime.recognizer import Utterance
from runtime.server.crew import Crew
from runtime.server.faults import Fault
from runtime.server.jobs import Call, Job, Queue
from runtime.whisper.beam_settings import BeamSearchSettings


def job(segments: int = 1, beams: int = 5, started: bool = False) -> Job:
    utterances = (Utterance(Segment(0, np.zeros(1, np.float32))) for _ in range(segments))
    search = BeamSearchSettings(num_beams=beams)
    return Job(
        utterances, search, lambda asr, segment: segment, lambda arrival: None, np.inf, started=started
    )


def test_jobs_that_are_searched_alike_are_taken_together_in_order():
    queue = Queue(batch=3)
    fives, two = [job() for _ in range(4)], job(beams=2)
    for each in (fives[0], two, *fives[1:]):
        queue.put(each)
    assert queue.take(0) == fives[:3]
    assert queue.take(0) == [two]
    assert queue.take(0) == fives[3:]
    assert queue.take(0) == []


def test_new_recordings_and_later_segments_take_turns():
    queue = Queue(batch=8)
    begun, new = job(started=True), job()
    queue.put(begun)
    queue.put(new)
    assert queue.take(0) == [new]
    queue.put(another := job())
    assert queue.take(0) == [begun]
    queue.put(begun)
    assert queue.take(0) == [another]
    assert queue.take(0) == [begun]


def test_calls_come_first():
    queue = Queue(batch=8)
    queue.put(job())
    queue.put(call := Call(lambda: 3))
    assert queue.take(0) is call
    call.run()
    assert call.result.result(0) == 3


def test_a_closed_queue_refuses():
    queue = Queue(batch=8)
    waiting, call = job(), Call(lambda: 3)
    queue.put(waiting)
    queue.put(call)
    assert queue.close() == [waiting]
    with pytest.raises(Fault):
        call.result.result(0)
    with pytest.raises(Fault):
        queue.put(job())


def test_lanes_share_what_waits():
    queue = Queue(batch=8, lanes=2)
    jobs = [job() for _ in range(7)]
    for each in jobs:
        queue.put(each)
    assert [queue.take(0) for _ in range(3)] == [jobs[:4], jobs[4:], []]


def test_a_lane_takes_as_many_as_the_others_have():
    queue = Queue(batch=8, lanes=2)
    first, then = [job() for _ in range(4)], [job() for _ in range(4)]
    for each in first:
        queue.put(each)
    assert queue.take(0) == first[:2]
    for each in then:
        queue.put(each)
    assert queue.take(0) == [*first[2:], *then[:2]], "of eight, two of which are worked on"
    queue.done(first[:2])
    assert queue.take(0) == then[2:]


def test_jobs_join_a_lane_up_to_its_share():
    queue = Queue(batch=8, lanes=2)
    queue.put(one := job())
    assert queue.take(0) == [one]
    search = one.search
    assert queue.join(search, 1) is None, "nobody waits"
    later = [job() for _ in range(3)]
    for each in (job(beams=2), later[0], later[1]):
        queue.put(each)
    assert queue.join(search, 1) is later[0]
    assert queue.join(search, 2) is None, "two of four"
    queue.put(later[2])
    assert queue.join(search, 2) is later[1], "of five"
    assert queue.join(search, 3) is None
    queue.put(call := Call(lambda: 3))
    queue.put(job())
    assert queue.join(search, 3) is None, "a call waits for nothing more"
    assert queue.take(0) is call
    assert [each.search.num_beams for each in queue.take(0)] == [2]


def test_a_lane_has_all_cores_only_while_no_other_works():
    crew = Crew("all", "half", lanes=2)
    assert (crew.of_lane(0), crew.of_lane(1)) == ("all", "half")
    with crew.pipeline(others_wait=False) as first, crew.pipeline(others_wait=False) as second:
        assert (first, second) == ("all", "half")
    with crew.pipeline(others_wait=True) as third:
        assert third == "half"
    with crew.pipeline(others_wait=False) as fourth:
        assert fourth == "all"
