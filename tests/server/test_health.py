"""Ready means that the engine answers."""

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.pipeline import MultimodalASR
from runtime.server.limits import Limits
from tests.server.conftest import AUDIO, running, wait_until


def test_ready_and_live(server):
    for path, name in (
        ("/livez", "live"),
        ("/readyz", "ready"),
        ("/v2/health/live", "live"),
        ("/v2/health/ready", "ready"),
    ):
        answer = server.get(path)
        assert (answer.status_code, answer.json()) == (200, {name: True})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_was_killed_is_seen(pocket_asr, clip):
    with running(pocket_asr) as server:
        engine = server.service.engine
        thread = ctypes.c_ulong(engine.lanes[0].thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(SystemExit))
        wait_until(lambda: server.get("/readyz").status_code == 503, 15)
        assert "ended" in server.get("/readyz").json()["reason"]
        assert server.get("/livez").status_code == 503
        refused = server.transcribe(clip)
        assert refused.status_code == 503


def test_an_engine_that_hangs_is_seen(pocket_asr, clip, monkeypatch):
    with running(pocket_asr, Limits(stall_s=0.5)) as server:
        lane = server.service.engine.lanes[0]
        gate, recognise = threading.Event(), lane._recognise
        monkeypatch.setattr(
            lane, "_recognise", lambda *work, **how: gate.wait(30) and recognise(*work, **how)
        )
        answers = []
        caller = threading.Thread(target=lambda: answers.append(server.transcribe(clip)))
        caller.start()
        wait_until(lambda: server.get("/readyz").status_code == 503, 10)
        assert "no sign of life" in server.get("/readyz").json()["reason"]
        assert server.get("/livez").status_code == 200
        gate.set()
        wait_until(lambda: server.get("/readyz").status_code == 200, 10)
        caller.join()
        assert answers[0].status_code == 200


def test_draining_is_not_ready(pocket_asr, clip):
    with running(pocket_asr) as server:
        server.service.admission.draining = True
        assert server.get("/readyz").status_code == 503
        refused = server.transcribe(clip)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")


def test_idle_engines_give_signs_of_life(server):
    wait_until(lambda: server.service.engine.silent_s < 0.2, 3)
    wait_until(lambda: server.service.engine.silent_s > 0.2, 3)
    wait_until(lambda: server.service.engine.silent_s < 0.2, 3)


def test_metrics(server, clip):
    from prometheus_client import generate_latest

    server.transcribe(clip)

    def counted(what: str) -> bool:
        return what in generate_latest(server.service.metrics.registry).decode()

    # Counted behind the answer.
    wait_until(lambda: counted('earsight_requests_total{path="/v1/audio/transcriptions",status="200"}'))
    assert counted("earsight_batch_utterances_bucket")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("killed", [0, 1])
def test_lanes_answer_as_one_does_and_end_together(pocket_asr, pocket_bundle, killed):
    beside = MultimodalASR(pocket_bundle, precision="fp32", providers="cpu", threads=1)
    clips = [path.read_bytes() for path in sorted(AUDIO.iterdir())[:6]]
    wanted = [pocket_asr.transcribe(content).display for content in clips]
    with running(pocket_asr, beside=beside) as server:
        assert len(server.service.engine.lanes) == 2
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(server.transcribe, clips * 4))
        assert [answer.json()["text"] for answer in answers] == wanted * 4
        assert all(lane.audio_s > 0 for lane in server.service.engine.lanes)
        thread = ctypes.c_ulong(server.service.engine.lanes[killed].thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(SystemExit))
        wait_until(lambda: server.get("/readyz").status_code == 503, 15)
        assert server.transcribe(clips[0]).status_code == 503
