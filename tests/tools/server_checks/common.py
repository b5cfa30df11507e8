"""What the checks share: a server beside, what is asked of it, and its memory."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.manifest import Utterance, evenly_spread, read_manifest
from bench.measure.timing import nearest_rank
from bench.serving.client import SAMPLING_RATE, Client, Query, make_query
from bench.serving.local_server import LocalServer
from runtime.audio.load import load_audio

T = TypeVar("T")


@dataclass(frozen=True)
class Setup:
    """What a check is given."""

    bundle: Path
    data: Path
    folder: Path
    options: Sequence[str]
    limit: int
    count: int | None
    seconds: float
    rounds: int
    peer_python: Path | None
    peer_model: str
    seed: int

    @property
    def utterances(self) -> list[Utterance]:
        return evenly_spread(read_manifest(self.data), self.limit)

    @contextlib.contextmanager
    def server(self, *options: str, launcher: Sequence[str] = ()) -> Iterator[LocalServer]:
        with LocalServer(self.bundle, self.log, [*self.options, *options], launcher) as server:
            yield server

    @property
    def log(self) -> Path:
        return self.folder / "server.log"


def with_client(server: LocalServer, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run something asynchronous with a client of the server."""

    async def run() -> T:
        async with Client(server.url) as client:
            return await work(client)

    return asyncio.run(run())


async def pictures_of(client: Client, utterances: Sequence[Utterance]) -> dict[str, str]:
    """Send the pictures; return their ids by utterance."""
    return {row.id: await client.keep_picture(row.image) for row in utterances if row.image is not None}


def query_of(utterance: Utterance, **fields: str) -> Query:
    content = utterance.audio.read_bytes()
    seconds = load_audio(content).size / SAMPLING_RATE
    files = {"file": (utterance.audio.name, content)}
    return make_query(utterance.id, seconds, {"model": "whisper-1", **fields}, files)


async def plain_and_pictured(client: Client, utterances: Sequence[Utterance], **fields: str) -> list[Query]:
    """Return a query of every utterance; every other one names its picture."""
    ids = await pictures_of(client, utterances[::2])
    return [
        query_of(row, **fields, **({"image_id": ids[row.id]} if row.id in ids else {})) for row in utterances
    ]


def resident_mib(pid: int, field: str = "VmRSS") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def percentile(values: Sequence[float], which: float) -> float:
    return nearest_rank(sorted(values), which)


def differences(one: Any, other: Any) -> tuple[int, float]:
    """Compare two answers, their times aside: texts that differ, and the largest difference of numbers."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        parts = [differences(one[key], other[key]) for key in one if key != "timing_ms"]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        parts = [differences(*pair) for pair in zip(one, other, strict=True)]
    elif isinstance(one, float) and isinstance(other, float):
        return 0, abs(one - other)
    else:
        return int(one != other), 0.0
    return sum(part[0] for part in parts), max((part[1] for part in parts), default=0.0)
