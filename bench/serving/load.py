"""How requests arrive: one after the other, so many at a time, or at random as from many users."""

import asyncio
import random
import time
from collections.abc import Sequence
from itertools import count

from bench.serving.client import Client, Outcome, Query


async def in_turn(client: Client, queries: Sequence[Query], total: int) -> list[Outcome]:
    """Send a request when the one before has been answered."""
    return [
        await client.send(queries[number % len(queries)], number % len(queries)) for number in range(total)
    ]


async def together(client: Client, queries: Sequence[Query], total: int, at_a_time: int) -> list[Outcome]:
    """Keep so many requests under way until `total` have been answered."""
    numbers = count()
    outcomes: list[Outcome] = []

    async def work() -> None:
        while (number := next(numbers)) < total:
            place = number % len(queries)
            outcomes.append(await client.send(queries[place], place))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_a_time, total)):
            group.create_task(work())
    return outcomes


async def at_random(
    client: Client, queries: Sequence[Query], rate: float, seconds: float, seed: int
) -> list[Outcome]:
    """Send requests whether or not those before have been answered (an open loop).

    Args:
        client: Of the server.
        queries: Taken in a circle.
        rate: Mean arrivals a second of a Poisson process.
        seconds: How long they arrive; all answers are waited for.
        seed: Of the arrivals.
    """
    outcomes: list[Outcome] = []

    async def send(place: int, due_s: float) -> None:
        outcomes.append(await client.send(queries[place], place, due_s))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, after_s in enumerate(arrivals(rate, seconds, seed)):
            await asyncio.sleep(began + after_s - time.perf_counter())
            group.create_task(send(number % len(queries), began + after_s))
    return outcomes


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the times of a Poisson process within `seconds`, ascending."""
    source = random.Random(seed)  # noqa: S311  arrivals, no secret
    times: list[float] = []
    now = source.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += source.expovariate(rate)
    return times
