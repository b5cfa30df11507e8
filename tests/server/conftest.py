"""A server on the pocket bundle, in a thread of the test's process."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime.pipeline import MultimodalASR
from runtime.server.access import Access
from runtime.server.gallery import read_gallery
from runtime.server.limits import Limits
from runtime.server.listening import Server
from runtime.server.service import Service
from tests.conftest import POCKET
from tests.server.browsers import SOUND, chromium, microphone

AUDIO = POCKET / "data" / "test" / "audio"
IMAGES = POCKET / "data" / "test" / "images"


@dataclass
class Running:
    """A server and where it listens."""

    service: Service
    url: str
    server: Server

    def get(self, path: str, **options) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", **options)

    def transcribe(self, content: bytes, files=None, headers=None, **fields) -> httpx.Response:
        data = {"model": "whisper-1", **fields}
        files = {"file": ("a.ogg", content), **(files or {})}
        url = f"{self.url}/v1/audio/transcriptions"
        return httpx.post(url, data=data, files=files, headers=headers, timeout=60)


@contextlib.contextmanager
def running(
    asr: MultimodalASR,
    limits: Limits | None = None,
    access: Access | None = None,
    beside: MultimodalASR | None = None,
) -> Iterator[Running]:
    limits = limits or Limits()
    limits = replace(limits, drain_s=min(limits.drain_s, 5.0))  # a test that fails shall end
    service = Service(asr, limits, access or Access(), beside=beside)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    up = Running(service, f"http://127.0.0.1:{listener.getsockname()[1]}", server)
    try:
        wait_until(lambda: server.started and service.engine.is_ready)
        yield up
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def server(pocket_asr: MultimodalASR) -> Iterator[Running]:
    with running(pocket_asr) as up:
        yield up


@pytest.fixture(scope="session")
def clip() -> bytes:
    return sorted(AUDIO.iterdir())[0].read_bytes()


@pytest.fixture(scope="session")
def picture() -> bytes:
    return sorted(IMAGES.iterdir())[0].read_bytes()


# -- the page in a browser


@pytest.fixture(scope="module")
def offered(pocket_asr) -> Iterator[Running]:
    """A server with a gallery, which keeps the sounds that it is sent in `sounds`."""
    with running(pocket_asr) as up:
        up.service.gallery = read_gallery(IMAGES)
        yield up


@pytest.fixture
def sounds(offered, monkeypatch) -> list[bytes]:
    heard: list[bytes] = []
    decode = offered.service.waveform

    async def noted(content: bytes) -> Any:
        heard.append(content)
        return await decode(content)

    monkeypatch.setattr(offered.service, "waveform", noted)
    return heard


@pytest.fixture(scope="module")
def sentence(tmp_path_factory) -> tuple[Path, float]:
    path = tmp_path_factory.mktemp("microphone") / "sentence.wav"
    return path, microphone(path, SOUND)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright, sentence) -> Iterator[Any]:
    with chromium(playwright, sentence[0]) as started:
        yield started
