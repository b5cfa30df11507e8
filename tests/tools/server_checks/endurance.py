"""What happens over time: too much to do, many requests, an end under load, and no connection to anywhere."""

import asyncio
import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.serving.client import ANSWERED, NO_ANSWER, TRANSCRIPTIONS, Client
from bench.serving.load import at_random, together
from bench.serving.scenarios import LoadSettings, rate_figures, status_counts
from tests.tools.server_checks.common import Setup, plain_and_pictured, resident_mib, with_client

CLIENTS = 16
TIMES = 4.0
FULL = 503
STARTS = 20
END_S = 30.0
WARM_UP = 250  # requests of the soak before its memory counts


def overload(setup: Setup) -> dict[str, Any]:
    """Four times the capacity: only 200 and 503, nearly all of the capacity answered, no more memory."""

    async def run(client: Client) -> dict[str, Any]:
        queries = await plain_and_pictured(client, setup.utterances)
        memory: dict[str, list[float]] = {"at_capacity": [0.0], "overloaded": [0.0]}
        watching = asyncio.ensure_future(_watch_memory(pid, memory["at_capacity"]))
        # As full as it gets: what batches and queues take is part of the memory at capacity.
        await together(client, queries, 4 * CLIENTS, 2 * CLIENTS)
        outcomes = await together(client, queries, max(len(queries), 3 * CLIENTS), CLIENTS)
        capacity = rate_figures(outcomes, 0.0, LoadSettings(bound_s=60.0))["answered_per_s"]
        watching.cancel()
        before = resident_mib(pid)
        watching = asyncio.ensure_future(_watch_memory(pid, memory["overloaded"]))
        rate = TIMES * capacity
        loaded = await at_random(client, queries, rate, setup.seconds, setup.seed)
        watching.cancel()
        figures = rate_figures(loaded, rate, LoadSettings(bound_s=60.0, seconds=setup.seconds))
        latency = figures.pop("latency")
        return {
            "capacity_per_s": capacity, **figures,
            "p99_s": latency["percentiles"]["p99"]["seconds"],
            "goodput_over_capacity": figures["goodput_per_s"] / capacity,
            "memory_mib": {
                "before": before, "after": resident_mib(pid),
                **{f"most_{name}": max(values) for name, values in memory.items()},
            },
        }  # fmt: skip

    with setup.server() as server:
        pid = server.process.pid
        figures = with_client(server, run)
    passed = (
        set(figures["statuses"]) <= {str(ANSWERED), str(FULL)}
        and figures["goodput_over_capacity"] >= 0.9
        and figures["memory_mib"]["most_overloaded"] <= 1.1 * figures["memory_mib"]["most_at_capacity"]
    )
    return {"passed": passed, **figures}


async def _watch_memory(pid: int, memory: list[float]) -> None:
    while True:
        memory.append(resident_mib(pid))
        await asyncio.sleep(0.2)


def soak(setup: Setup) -> dict[str, Any]:
    """Many requests: the memory stays within 3 %."""
    count, block = setup.count or 5_000, 50  # a trend wants many values

    async def run(client: Client) -> dict[str, Any]:
        queries = await plain_and_pictured(client, setup.utterances)
        memory, statuses = [], []
        for _ in range(count // block):
            outcomes = await together(client, queries, block, CLIENTS // 2)
            statuses += outcomes
            memory.append(round(resident_mib(pid), 1))
        return {"statuses": status_counts(statuses), "memory_mib": memory}

    with setup.server() as server:
        pid = server.process.pid
        figures = with_client(server, run)
    growth = _trend(figures["memory_mib"][WARM_UP // block :])
    return {"passed": set(figures["statuses"]) == {"200"} and growth <= 0.03, "growth": growth, **figures}


def _trend(values: Sequence[float]) -> float:
    """Return by what share values grow from first to last: Theil and Sen's median of all slopes.

    What is being decoded when a value is taken moves it by more than 3 % either way, so that the difference
    of two of them says little.
    """
    slopes = [
        (later - earlier) / distance
        for distance in range(1, len(values))
        for earlier, later in zip(values, values[distance:], strict=False)
    ]
    return statistics.median(slopes) * (len(values) - 1) / statistics.median(values)


def stopped_under_load(setup: Setup) -> dict[str, Any]:
    """SIGTERM under load: what was taken on is answered, and the process ends in time."""
    runs = [_stopped_once(setup, number) for number in range(setup.count or STARTS)]
    lost = sum(run["lost"] for run in runs)
    slowest = max(run["end_s"] for run in runs)
    return {
        "passed": lost == 0 and slowest <= END_S and all(run["exit_status"] == 0 for run in runs),
        "starts": len(runs), "lost": lost, "slowest_end_s": slowest,
        "answered_after_the_signal": sum(run["answered_after"] for run in runs), "runs": runs,
    }  # fmt: skip


def _stopped_once(setup: Setup, number: int) -> dict[str, Any]:
    """Stop one server while clients ask without a break; find what it took on and did not answer.

    A request is taken on when the server's log names it: a client whose connection was refused or was closed
    before the server had read a request is told so by its system, and asks another server.
    """
    source = random.Random(f"{setup.seed}/{number}")
    received: dict[str, int] = {}
    ended: list[float] = []

    async def run(client: Client) -> tuple[float, int]:
        queries = await plain_and_pictured(client, setup.utterances)
        stopped = asyncio.Event()

        async def ask(worker: int) -> None:
            asked = 0
            while not stopped.is_set():
                name = f"{worker}-{asked}"
                asked += 1
                query = queries[source.randrange(len(queries))]
                headers = {"content-type": query.content_type, "x-request-id": name}
                try:
                    response = await client.http.post(TRANSCRIPTIONS, content=query.body, headers=headers)
                    received[name] = response.status_code
                    ended.append(time.monotonic())
                except Exception:  # noqa: BLE001 - any way of getting no answer
                    received[name] = NO_ANSWER
                    await asyncio.sleep(0.02)

        asking = [asyncio.ensure_future(ask(worker)) for worker in range(CLIENTS)]
        await asyncio.sleep(0.5 + 1.5 * source.random())
        signalled = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 2 * END_S)
        end_s = time.monotonic() - signalled
        stopped.set()
        await asyncio.gather(*asking)
        return end_s, sum(time_ > signalled for time_ in ended)

    with setup.server() as server:
        end_s, answered_after = with_client(server, run)
    logged = {line["request_id"]: line["status"] for line in _log_lines(setup) if "-" in line["request_id"]}
    lost = [name for name, status in logged.items() if received.get(name) != status]
    return {
        "end_s": end_s, "exit_status": server.process.returncode, "taken_on": len(logged),
        "answered": sum(status == ANSWERED for status in received.values()), "lost": len(lost),
        "lost_statuses": [[logged[name], received.get(name)] for name in lost],
        "answered_after": answered_after,
        "without_answer": sum(status == NO_ANSWER for status in received.values()),
    }  # fmt: skip


def _log_lines(setup: Setup) -> list[dict[str, Any]]:
    lines = []
    for text in setup.log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and "request_id" in line:
                lines.append(line)
    return lines


def no_connection(setup: Setup) -> dict[str, Any]:
    """The server answers where any system call that makes a connection would end it."""
    launcher = [sys.executable, "-m", "tests.tools.server_checks.no_connections"]
    _require_effect(launcher)

    async def run(client: Client) -> dict[str, Any]:
        queries = await plain_and_pictured(client, setup.utterances)
        outcomes = await together(client, queries, setup.count or 100, CLIENTS)
        refused = await client.http.post(
            TRANSCRIPTIONS, files={"file": ("a.ogg", setup.utterances[0].audio.read_bytes())},
            data={"model": "whisper-1", "image_url": "http://127.0.0.1:9/a.png"},
        )  # fmt: skip
        return {"statuses": status_counts(outcomes), "a_url": refused.status_code}

    with setup.server(launcher=launcher) as server:
        figures = with_client(server, run)
        alive = server.process.poll() is None
    passed = alive and set(figures["statuses"]) == {"200"} and figures["a_url"] == 400
    return {"passed": passed and server.process.returncode == 0, "alive": alive, **figures}


def _require_effect(launcher: list[str]) -> None:
    """Be sure that a connection is the end of a process so launched."""
    code = "import socket; s = socket.socket(); s.settimeout(1); s.connect_ex(('127.0.0.1', 9))"
    done = subprocess.run([*launcher, sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGSYS, done.returncode
