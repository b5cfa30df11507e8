"""Whether answers are right, whatever else the server is asked at the time."""

import asyncio
import io
import json
import random
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import soundfile

from bench.manifest import Utterance
from bench.serving.client import ANSWERED, TRANSCRIPTIONS, Client, Outcome, Query, make_query
from bench.serving.load import in_turn, together
from bench.serving.scenarios import status_counts
from runtime.audio.load import load_audio
from tests.tools.server_checks.common import (
    Setup,
    differences,
    percentile,
    pictures_of,
    plain_and_pictured,
    query_of,
    with_client,
)

MIXES: tuple[dict[str, str], ...] = (
    {}, {"num_beams": "1"}, {"num_beams": "3", "n": "2"}, {"max_new_tokens": "6"}, {"language": "en"},
    {"response_format": "verbose_json"},
)  # fmt: skip
CLIENTS = 16
MOST_DIFFERENCE = 1e-4
RATE = 16_000


async def any_mix(client: Client, utterances: Sequence[Utterance]) -> list[Query]:
    """Return every utterance with every mix of settings, with its picture and without."""
    ids = await pictures_of(client, utterances)
    return [
        query_of(row, **mix, **({"image_id": ids[row.id]} if number % 2 and row.id in ids else {}))
        for row in utterances
        for number, mix in enumerate(MIXES)
    ]


def compared(expected: dict[int, Outcome], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Compare answers with those of one by one, by query."""
    answered = [outcome for outcome in outcomes if outcome.status == ANSWERED]
    found = [differences(expected[outcome.query].answer, outcome.answer) for outcome in answered]
    return {
        "answers": len(answered),
        "statuses": status_counts(outcomes),
        "answers_whose_texts_differ": sum(texts > 0 for texts, _ in found),
        "largest_difference": max((number for _, number in found), default=0.0),
    }


def agrees(figures: dict[str, Any], answers: int) -> bool:
    return bool(
        figures["answers"] == answers
        and not figures["answers_whose_texts_differ"]
        and figures["largest_difference"] <= MOST_DIFFERENCE
    )


def same_as_one_by_one(setup: Setup) -> dict[str, Any]:
    """500 requests of any mix by 16 clients answer what one by one does."""
    count = setup.count or 500

    async def run(client: Client) -> dict[str, Any]:
        queries = await any_mix(client, setup.utterances)
        expected = {outcome.query: outcome for outcome in await in_turn(client, queries, len(queries))}
        order = [number % len(queries) for number in range(count)]
        random.Random(setup.seed).shuffle(order)
        outcomes = await together(client, [queries[place] for place in order], count, CLIENTS)
        outcomes = [_at(outcome, order[outcome.query]) for outcome in outcomes]
        return {"distinct_requests": len(queries), **compared(expected, outcomes)}

    with setup.server() as server:
        figures = with_client(server, run)
    return {"passed": agrees(figures, count), **figures}


def _at(outcome: Outcome, query: int) -> Outcome:
    return Outcome(query, outcome.due_s, outcome.ended_s, outcome.status, outcome.answer)


def long_recording(utterances: Sequence[Utterance], seconds: float) -> bytes:
    """Return speech with pauses, as FLAC."""
    parts: list[np.ndarray] = []
    total = 0
    while total < seconds * RATE:
        for row in utterances:
            parts += [load_audio(row.audio), np.zeros(RATE // 2, np.float32)]
            total += parts[-2].size + parts[-1].size
    stream = io.BytesIO()
    soundfile.write(stream, np.concatenate(parts)[: int(seconds * RATE)], RATE, format="FLAC")
    return stream.getvalue()


def clip_beside_a_long_file(setup: Setup) -> dict[str, Any]:
    """A clip's 95th percentile beside a long file: at most its own, and the time of one segment."""
    rows = setup.utterances
    minutes = 10
    clip = query_of(min(rows, key=lambda row: abs(load_audio(row.audio).size / RATE - 3.0)))
    source = random.Random(setup.seed)

    async def run(client: Client) -> dict[str, Any]:
        await in_turn(client, [clip], 3)
        alone = [outcome.latency_s for outcome in await in_turn(client, [clip], 20)]
        segments = await _segment_times(client, long_recording(rows, 120.0))
        content = long_recording(rows, minutes * 60.0)
        fields = {"model": "whisper-1", "response_format": "json"}
        long_query = make_query("long", minutes * 60.0, fields, {"file": ("long.flac", content)})
        long = asyncio.ensure_future(client.send(long_query, 1))
        await asyncio.sleep(3.0)
        beside: list[float] = []
        while not long.done():
            outcome = await client.send(clip, 0)
            assert outcome.status == ANSWERED
            if not long.done():
                beside.append(outcome.latency_s)
            await asyncio.sleep(source.random())
        outcome = await long
        return {
            "long_status": outcome.status, "long_s": outcome.latency_s, "clip_seconds": clip.seconds,
            "alone_p95_s": percentile(alone, 95), "beside_p95_s": percentile(beside, 95),
            "beside": len(beside),
            "segment_s": {"p50": percentile(segments, 50), "most": max(segments), "count": len(segments)},
            "raw_s": {"alone": alone, "beside": beside, "segments": segments},
        }  # fmt: skip

    with setup.server("--limit-deadline-s", "600") as server:
        figures = with_client(server, run)
    most = figures["alone_p95_s"] + figures["segment_s"]["most"]
    return {"passed": figures["long_status"] == ANSWERED and figures["beside_p95_s"] <= most, **figures}


async def _segment_times(client: Client, content: bytes) -> list[float]:
    """Return the seconds between the segments of a stream."""
    async with client.http.stream(
        "POST",
        TRANSCRIPTIONS,
        data={"model": "whisper-1", "stream": "true"},
        files={"file": ("a.flac", content)},
    ) as response:
        times = [
            time.perf_counter()
            async for line in response.aiter_lines()
            if line.startswith("data:") and json.loads(line[5:])["type"].endswith("delta")
        ]
    return [later - earlier for earlier, later in pairwise(times)]


def after_disconnects(setup: Setup) -> dict[str, Any]:
    """200 clients go away at any moment; then 100 answers are right."""
    count = setup.count or 200

    async def run(client: Client) -> dict[str, Any]:
        queries = await plain_and_pictured(client, setup.utterances)
        first = await in_turn(client, queries, len(queries))
        expected = {outcome.query: outcome for outcome in first}
        patience = 4 * percentile([outcome.latency_s for outcome in first], 50)
        source = random.Random(setup.seed)
        gone = 0

        async def leave(number: int) -> None:
            nonlocal gone
            try:
                async with asyncio.timeout(source.random() * patience):
                    await client.send(queries[number % len(queries)], 0)
            except TimeoutError:
                gone += 1

        for begin in range(0, count, CLIENTS):
            await asyncio.gather(*(leave(number) for number in range(begin, min(count, begin + CLIENTS))))
        began = time.perf_counter()
        right = await together(client, queries, 100, CLIENTS // 2)
        return {
            "gone": gone, "of": count, "first_answer_s": min(o.ended_s for o in right) - began,
            **compared(expected, right),
        }  # fmt: skip

    with setup.server() as server:
        figures = with_client(server, run)
    return {"passed": agrees(figures, 100) and figures["gone"] > count / 4, **figures}
