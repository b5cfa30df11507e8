"""What is not finished when the server ends is told so, as OpenAI's clients expect."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from runtime.server.limits import Limits
from tests.server.conftest import Running, running, wait_until
from tests.server.test_openai_client import Held

SHORT = Limits(drain_s=0.5, deadline_s=60.0)


def require_stopping(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "stopping"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-request-id"]


def stop(up: Running) -> None:
    up.server.should_exit = True
    wait_until(lambda: up.service.stopping.is_over, 5)


def test_a_recording_that_is_not_finished(pocket_asr, clip, monkeypatch, caplog):
    with running(pocket_asr, SHORT) as up, ThreadPoolExecutor(2) as pool:
        held = Held(up, monkeypatch)
        working = pool.submit(up.transcribe, clip)
        assert held.entered.wait(10)
        waiting = pool.submit(up.transcribe, clip)
        wait_until(lambda: up.service.engine._queue.depth == 1)
        stop(up)
        for answer in (working, waiting):
            require_stopping(answer.result(10))
        held.go.set()
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


def test_a_stream_ends_with_an_error(pocket_asr, clip, monkeypatch, caplog):
    with running(pocket_asr, SHORT) as up, ThreadPoolExecutor(1) as pool:
        held = Held(up, monkeypatch)
        streaming = pool.submit(up.transcribe, clip, stream="true")
        assert held.entered.wait(10)
        stop(up)
        answer = streaming.result(10)
        held.go.set()
    assert answer.status_code == 200
    *_, last = answer.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_that_has_not_arrived(pocket_asr, caplog):
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n"
    with running(pocket_asr, SHORT) as up:
        with socket.create_connection(up.server.servers[0].sockets[0].getsockname()) as connection:
            connection.sendall(head + b"Content-Type: multipart/form-data; boundary=B\r\n\r\n--B")
            wait_until(lambda: up.service.admission.requests == 1)
            stop(up)
            connection.settimeout(10)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "stopping"
    assert not [record for record in caplog.records if record.exc_info]


def test_what_is_finished_in_time_is_answered(pocket_asr, clip, monkeypatch):
    with running(pocket_asr) as up, ThreadPoolExecutor(1) as pool:
        held = Held(up, monkeypatch)
        working = pool.submit(up.transcribe, clip)
        assert held.entered.wait(10)
        up.server.should_exit = True
        threading.Timer(0.5, held.go.set).start()
        assert working.result(20).status_code == 200
        assert not up.service.stopping.is_over


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_defect_is_answered_with_an_object_and_logged(pocket_asr, monkeypatch, caplog, method):
    def broken(*_, **__):
        raise ZeroDivisionError("secret words")

    with running(pocket_asr) as up:
        path = "/readyz" if method == "GET" else "/v1/pictures"
        monkeypatch.setattr(type(up.service.admission), "request", broken)
        monkeypatch.setattr(type(up.service.engine), "is_ready", property(broken))
        answer = httpx.request(method, f"{up.url}{path}", headers={"X-Request-Id": "named"})
        monkeypatch.undo()
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "a defect of the server; its log says more",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert answer.headers["x-request-id"] == "named"
    assert "ZeroDivisionError" in caplog.text
    assert "a defect while answering named" in caplog.text


@pytest.mark.parametrize("origin", ["http://[::1", "null", "", "http://"])
def test_an_origin_that_is_no_address_is_foreign(server, origin):
    refused = server.get("/readyz", headers={"Origin": origin})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_origin")


def test_a_client_that_has_gone_is_no_defect(server, clip, monkeypatch, caplog):
    caplog.set_level("INFO", logger="runtime.server.access_log")
    held = Held(server, monkeypatch)
    url = f"{server.url}/v1/audio/transcriptions"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            url, data={"model": "whisper-1"}, files={"file": clip}, timeout=httpx.Timeout(10, read=0.3)
        )
    wait_until(lambda: server.service.admission.requests == 0)
    held.go.set()
    wait_until(lambda: '"status": 499' in caplog.text)
    assert not [record for record in caplog.records if record.exc_info]
