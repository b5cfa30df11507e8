"""A server of one's own: started in a process beside, waited for, and stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.serving.client import ServerUnavailableError

START_S: Final = 180.0  # to be ready: sessions are opened and files hashed
STOP_S: Final = 45.0  # the server itself gives requests 30 s
BETWEEN_S: Final = 0.1
LAST_LINES: Final = 3


class LocalServer:
    """`python -m runtime serve` on a free port of this machine; a context manager.

    Args:
        bundle: What it serves.
        log: File that takes what it prints.
        options: More of its options.
        launcher: A command that runs the command behind it, or none.
    """

    def __init__(
        self, bundle: Path, log: Path, options: Sequence[str] = (), launcher: Sequence[str] = ()
    ) -> None:
        self.url = f"http://127.0.0.1:{(port := _free_port())}"
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "runtime", "serve", "--bundle", str(bundle), "--port", str(port)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*launcher, *command, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ,
            )

    def __enter__(self) -> Self:
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """Let it end, by force where it does not; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def _wait(self) -> None:
        """Wait until it is ready.

        Raises:
            ServerUnavailableError: It ended, or is not ready in time.
        """
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise ServerUnavailableError(f"the server ended at its start: {self.last_words()}")
            if is_ready(self.url):
                return
            time.sleep(BETWEEN_S)
        raise ServerUnavailableError(f"the server was not ready within {START_S:g} s: {self.last_words()}")

    def last_words(self) -> str:
        """Return the last lines that it printed."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join(lines[-LAST_LINES:]) or "it printed nothing"


def is_ready(url: str) -> bool:
    """Return whether the server of this project at a URL takes requests."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310  our own
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
