"""A measured system in a process of its own, so that thread pools, caches and peak memory do not mix.

The parent writes one JSON object a line to standard input and reads one a line from standard output:
`{"command": "convert" | "load" | "run" | "quit", …}` and `{"result": …}` or `{"error": …}`.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from bench.measure.system_info import peak_memory
from bench.measure.timing import Stopwatch
from bench.peers.base import Peer, Workload
from bench.peers.clip_text import TextPeer, TextWork
from bench.peers.memory_read import MemoryRead
from bench.peers.registry import speech_peer, text_peer

Request = dict[str, Any]


class SpeechServer:
    """Answers for one speech system."""

    def __init__(self, name: str) -> None:
        self._peer: Peer = speech_peer(name)
        self._workload = Workload((0,), 0)

    def convert(self, request: Request) -> dict[str, Any]:
        """Convert the checkpoint into the system's own form."""
        self._peer.convert(Path(request["checkpoint"]), Path(request["folder"]))
        return {}

    def load(self, request: Request) -> dict[str, Any]:
        """Load the converted model and tell how long that took."""
        before, watch = peak_memory(), Stopwatch()
        self._workload = Workload.from_dict(request["workload"])
        with watch.lap("load"):
            self._peer.load(Path(request["folder"]), self._workload)
        return {"stages": _raw(watch), "memory_before_bytes": before, "details": self._peer.details()}

    def run(self, request: Request) -> dict[str, Any]:
        """Recognise once and verify that the asked work was done."""
        features, watch = np.load(request["features"]), Stopwatch()
        workload = replace(self._workload, speech=request.get("speech", self._workload.speech))
        n_best = self._peer.run(features, workload, watch)
        n_best.verify(workload, len(features))
        return {
            "stages": _raw(watch),
            "distinct": n_best.distinct,
            "scores": n_best.scores,
            "sequences": n_best.sequences,
        }


class TextServer:
    """Answers for one text encoder."""

    def __init__(self, name: str) -> None:
        self._peer: TextPeer = text_peer(name)

    def convert(self, request: Request) -> dict[str, Any]:
        """Convert the checkpoint into the system's own form."""
        self._peer.convert(Path(request["checkpoint"]), Path(request["folder"]))
        return {}

    def load(self, request: Request) -> dict[str, Any]:
        """Load the converted model and tell how long that took."""
        before, watch = peak_memory(), Stopwatch()
        with watch.lap("load"):
            self._peer.load(Path(request["folder"]), int(request["threads"]))
        return {"stages": _raw(watch), "memory_before_bytes": before, "details": self._peer.details()}

    def run(self, request: Request) -> dict[str, Any]:
        """Embed once."""
        watch = Stopwatch()
        embeddings = self._peer.run(TextWork(**request["work"]), watch)
        return {"stages": _raw(watch), "embeddings": embeddings.tolist()}


class MemoryServer:
    """Reads a buffer of a given size."""

    def __init__(self, _: str) -> None:
        self._memory: MemoryRead | None = None

    def load(self, request: Request) -> dict[str, Any]:
        """Allocate the buffer."""
        self._memory = MemoryRead(int(request["bytes"]), int(request["threads"]))
        return {"bytes": self._memory.size}

    def run(self, request: Request) -> dict[str, Any]:
        """Read it `repeats` times, the first pass apart as warm-up."""
        assert self._memory is not None, "load comes before run"
        watch = Stopwatch(discard=1)
        for _ in range(int(request["repeats"]) + 1):
            self._memory.read(watch)
        return {"stages": _raw(watch)}


class PipelineServer:
    """Starts the whole pipeline cold: nothing of the runtime is imported before `load`."""

    def __init__(self, _: str) -> None:
        self._asr: Any = None

    def load(self, request: Request) -> dict[str, Any]:
        """Import the runtime and create the sessions, timed apart."""
        watch = Stopwatch()
        with watch.lap("import"):
            from runtime.pipeline import MultimodalASR
        with watch.lap("sessions"):
            self._asr = MultimodalASR(**request["arguments"])
        return {"stages": _raw(watch)}

    def run(self, request: Request) -> dict[str, Any]:
        """Transcribe one file."""
        watch = Stopwatch()
        with watch.lap("whole"):
            self._asr.transcribe(
                request["audio"], image_id=request["image_id"], image_path=request["image_path"]
            )
        return {"stages": _raw(watch)}


class CheckpointServer:
    """Writes checkpoints: random weights of published architectures, or others in transformers' format."""

    def __init__(self, _: str) -> None: ...

    def convert(self, request: Request) -> dict[str, Any]:
        """Write `whisper` or `clip` of the request into `folder`, or the Whisper of another folder."""
        if request["family"] == "converted":
            from export.checkpoints import Source, load_whisper, save_whisper_settings

            source = Source(request["source"])
            model = load_whisper(source)
            model.save_pretrained(request["folder"])
            save_whisper_settings(source, model, Path(request["folder"]))
            return {}
        from export.random_checkpoints import make_clip_checkpoint, make_whisper_checkpoint

        make = make_clip_checkpoint if request["family"] == "clip" else make_whisper_checkpoint
        make(request["architecture"], Path(request["folder"]), int(request["seed"]))
        return {}


SERVERS: dict[str, Callable[[str], Any]] = {
    "speech": SpeechServer,
    "text": TextServer,
    "memory": MemoryServer,
    "pipeline": PipelineServer,
    "checkpoint": CheckpointServer,
}


def serve(kind: str, name: str, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until "quit" or the end of input.

    An exception of the measured system goes to the parent by name and message: the parent decides.
    """
    server = SERVERS[kind](name)
    for line in requests:
        request = json.loads(line)
        if request["command"] == "quit":
            return
        try:
            answer = {"result": getattr(server, request["command"])(request)}
            answer["result"]["peak_memory_bytes"] = peak_memory()
        except Exception as error:  # noqa: BLE001  whatever a foreign system raises is reported
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _raw(watch: Stopwatch) -> dict[str, list[float]]:
    return {stage: watch.raw(stage) for stage in watch.stages}


def main() -> None:
    """Keep standard output for answers; whatever a library prints goes to standard error."""
    kind, name = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(kind, name, sys.stdin, answers)
