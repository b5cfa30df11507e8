"""The parent's side of a measured system: starts the process, asks, ends it."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Literal

from bench.peers.base import PeerError, thread_environment
from runtime.files.closing import Closing
from runtime.files.write_whole import write_whole_folder

Kind = Literal["speech", "text", "memory", "checkpoint", "pipeline"]
CONVERSION_SECONDS = 3_600
ANSWER_SECONDS = 1_200
QUIT_SECONDS = 10
LAST_LINES = 3
LOG = "conversion.log"


class Worker(Closing):
    """One measured system in its own process; a context manager.

    Args:
        kind: What it measures.
        system: Name with precision ("ctranslate2-int8"); of no meaning for "memory".
        threads: Limit of every thread pool of the process.
        log: File that takes what the system prints.
    """

    def __init__(self, kind: Kind, system: str, threads: int, log: Path) -> None:
        self.system = system
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        # Models come from local folders; a benchmark must neither wait for a network nor depend on one.
        environment = os.environ | thread_environment(threads)
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "bench.peers", kind, system]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                encoding="utf-8",
            )

    def ask(self, command: str, timeout: float = ANSWER_SECONDS, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            PeerError: The system failed, ended, or did not answer within `timeout` seconds.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            status = self._process.wait()
            last = " / ".join(
                self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
            )
            raise PeerError(
                f"{self.system} ended with status {status} during {command}: {last or 'no message'}"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.system} failed during {command}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """End the process; kill it where it does not end by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            try:
                self._process.stdin.write('{"command": "quit"}\n')
                self._process.stdin.close()
                self._process.wait(QUIT_SECONDS)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()


def converted(kind: Kind, system: str, source: Path, models: Path) -> Path:
    """Return the folder of a system's converted model; convert in a process of its own where it is missing.

    Args:
        kind: Speech or text.
        system: Name with precision.
        source: Folder of the transformers checkpoint, or of the bundle for this project itself.
        models: Where converted models are kept between runs.

    Raises:
        PeerError: The conversion failed.
    """
    folder = models / f"{kind}-{system}"
    if folder.is_dir():
        return folder
    with (
        write_whole_folder(folder) as beside,
        Worker(kind, system, os.cpu_count() or 1, models / LOG) as worker,
    ):
        worker.ask("convert", CONVERSION_SECONDS, checkpoint=str(source), folder=str(beside))
    return folder
