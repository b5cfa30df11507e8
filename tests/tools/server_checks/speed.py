"""How quick: against the same call in a process, and against faster-whisper."""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.serving.client import ANSWERED, Client, Outcome, Query
from bench.serving.load import in_turn, together
from export.sources.packages import assemble, known_model
from runtime.pipeline import MultimodalASR
from tests.tools.server_checks.common import Setup, percentile, query_of, with_client

PEER = Path(__file__).with_name("faster_whisper_peer.py")
CLIENTS = 8
REST_S = 0.3  # between two turns: idle threads stop spinning
MOST_MS, MOST_SHARE = 10.0, 0.03


def against_in_process(setup: Setup) -> dict[str, Any]:
    """One request at a time: the server's median within 10 ms and 3 % of the call's."""
    asr = MultimodalASR(setup.bundle, window="auto", **_precision(setup.options))
    rows = setup.utterances
    server_s: list[float] = []
    call_s: list[float] = []
    with setup.server() as server:

        async def run(client: Client) -> None:
            queries = [query_of(row) for row in rows]
            await in_turn(client, queries[:3], 3)
            for row in rows[:3]:
                asr.transcribe(row.audio)
            for number in range(setup.rounds * len(rows)):
                place = number % len(rows)
                time.sleep(REST_S)
                server_s.append((await client.send(queries[place], place)).latency_s)
                time.sleep(REST_S)
                began = time.perf_counter()
                asr.transcribe(rows[place].audio)
                call_s.append(time.perf_counter() - began)

        with_client(server, run)
    mine, call = percentile(server_s, 50), percentile(call_s, 50)
    return {
        "passed": mine - call <= MOST_MS / 1000 and mine <= call * (1 + MOST_SHARE),
        "server_p50_ms": mine * 1000,
        "call_p50_ms": call * 1000,
        "difference_ms": (mine - call) * 1000,
        "median_of_differences_ms": 1000
        * percentile([a - b for a, b in zip(server_s, call_s, strict=True)], 50),
        "ratio": mine / call,
        "raw_s": {"server": server_s, "call": call_s},
    }


def _precision(options: Sequence[str]) -> dict[str, str]:
    return {"precision": options[options.index("--precision") + 1]} if "--precision" in options else {}


def eight_clients(setup: Setup) -> dict[str, Any]:
    """Eight clients against one, and against faster-whisper at its best, in turn."""
    rows = setup.utterances
    found: dict[str, list[tuple[float, list[float]]]] = {"serial": [], "clients": []}
    peer = Peer(setup) if setup.peer_python else None
    texts: dict[str, list[str]] = {}
    with setup.server() as server:

        async def run(client: Client) -> None:
            queries = [query_of(row, language="en") for row in rows]
            await together(client, queries, CLIENTS, CLIENTS)
            best = peer.best([str(row.audio) for row in rows]) if peer else None
            for _ in range(setup.rounds):
                time.sleep(REST_S)
                found["serial"].append(_rate(await in_turn(client, queries, len(queries))))
                time.sleep(REST_S)
                outcomes = await together(client, queries, len(queries), CLIENTS)
                found["clients"].append(_rate(outcomes))
                texts["server"] = _texts(outcomes, queries)
                if peer and best:
                    time.sleep(REST_S)
                    answer = peer.ask(best, [str(row.audio) for row in rows])
                    found.setdefault("peer", []).append((len(rows) / answer["seconds"], answer["latencies"]))
                    texts["peer"] = answer["texts"]

        with_client(server, run)
    rates = {name: percentile([rate for rate, _ in rounds], 50) for name, rounds in found.items()}
    p95 = {name: percentile([s for _, each in rounds for s in each], 95) for name, rounds in found.items()}
    result: dict[str, Any] = {
        "rates_per_s": rates,
        "p95_s": p95,
        "clients_over_serial": rates["clients"] / rates["serial"],
        "raw": {name: [rate for rate, _ in rounds] for name, rounds in found.items()},
        "utterances": len(rows),
    }
    passed = result["clients_over_serial"] >= 1.4
    if peer:
        result |= {
            "peer": peer.description,
            "clients_over_peer": rates["clients"] / rates["peer"],
            "p95_over_peer": p95["clients"] / p95["peer"],
            "example_texts": {name: given[:3] for name, given in texts.items()},
        }
        passed = passed and result["clients_over_peer"] >= 2.0 and result["p95_over_peer"] <= 0.6
        peer.close()
    return {"passed": passed, **result}


def _rate(outcomes: Sequence[Outcome]) -> tuple[float, list[float]]:
    assert all(outcome.status == ANSWERED for outcome in outcomes)
    span = max(outcome.ended_s for outcome in outcomes) - min(outcome.due_s for outcome in outcomes)
    return len(outcomes) / span, [outcome.latency_s for outcome in outcomes]


def _texts(outcomes: Sequence[Outcome], queries: Sequence[Query]) -> list[str]:
    texts = {outcome.query: outcome.answer["text"] for outcome in outcomes}
    return [texts[place] for place in range(len(queries))]


class Peer:
    """faster-whisper in a process and an environment of its own."""

    def __init__(self, setup: Setup) -> None:
        folder = setup.folder / "peer"
        assemble(known_model(setup.peer_model), folder)
        self._process = subprocess.Popen(
            [str(setup.peer_python), str(PEER), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.description: dict[str, Any] = {}

    def ask(self, way: str, files: Sequence[str]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"way": way, "files": list(files)}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def best(self, files: Sequence[str]) -> str:
        """Run every way once, after a warm-up, and return the quickest."""
        rates = {}
        for way in ("one_worker", "two_workers", "batched"):
            self.ask(way, files[:4])
            answer = self.ask(way, files)
            rates[way] = len(files) / answer["seconds"]
            self.description["versions"] = answer["versions"]
        self.description["rates_per_s"] = rates
        self.description["best"] = max(rates, key=rates.__getitem__)
        return str(self.description["best"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
