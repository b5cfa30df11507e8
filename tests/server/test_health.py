"""Ready means that the engine answers."""

import ctypes
import threading

import pytest

from runtime.server.limits import Limits
from tests.server.conftest import running, wait_until


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
        thread = ctypes.c_ulong(engine._thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(SystemExit))
        wait_until(lambda: server.get("/readyz").status_code == 503, 15)
        assert "ended" in server.get("/readyz").json()["reason"]
        assert server.get("/livez").status_code == 503
        refused = server.transcribe(clip)
        assert refused.status_code == 503


def test_an_engine_that_hangs_is_seen(pocket_asr, clip, monkeypatch):
    with running(pocket_asr, Limits(stall_s=0.5)) as server:
        gate, recognise = threading.Event(), server.service.engine._recognise
        monkeypatch.setattr(
            server.service.engine, "_recognise", lambda jobs: gate.wait(30) and recognise(jobs)
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
    text = generate_latest(server.service.metrics.registry).decode()
    assert 'earsight_requests_total{path="/v1/audio/transcriptions",status="200"}' in text
    assert "earsight_batch_utterances_bucket" in text
