"""A process that adds corrections: `python -m tests.tools.correction_writer FOLDER SPEAKER COUNT`.

It prints the id of every utterance as soon as that is acknowledged.
"""

import itertools
import os
import signal
import sys
from pathlib import Path

from runtime.files import write_whole
from runtime.server.correction_store import Correction, CorrectionStore, SentFile


def utterance(speaker: str, number: int) -> tuple[Correction, SentFile, SentFile]:
    """An utterance that no other number has; every third picture is a new one."""
    correction = Correction(speaker, "typed", f"sentence {number} of {speaker}")
    picture = SentFile(f"picture {number // 3}".encode() * 100, "p.png")
    return correction, SentFile(f"{speaker} {number}".encode() * 500, "clip.wav"), picture


def kill_at(step: int) -> None:
    """Let this process die before a file is written, half-way, before its sync, its rename, after it."""
    count = itertools.count()
    write, sync, replace = Path.write_bytes, os.fsync, Path.replace

    def die_at_step() -> None:
        if next(count) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def write_bytes(path: Path, content: bytes) -> int:
        die_at_step()
        write(path, content[: len(content) // 2])
        die_at_step()
        return write(path, content)

    def fsync(descriptor: int) -> None:
        die_at_step()
        sync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        die_at_step()
        renamed = replace(path, target)
        die_at_step()
        return renamed

    Path.write_bytes, write_whole.os.fsync, Path.replace = write_bytes, fsync, rename


def add(folder: Path, speaker: str, count: int) -> None:
    """Add utterances, and tell the id of each as soon as it is acknowledged."""
    store = CorrectionStore(folder)
    for number in range(count):
        print(store.add(*utterance(speaker, number))[0], flush=True)


def run_killed(folder: Path, speaker: str, count: int, step: int) -> tuple[list[str], bool]:
    """Do so in a child that dies at a step; return what was acknowledged, and whether it came to its end."""
    CorrectionStore(folder)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        sys.stdout = os.fdopen(1, "w")
        kill_at(step)
        add(folder, speaker, count)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        acknowledged = lines.read().split()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return acknowledged, status == 0


if __name__ == "__main__":
    add(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
