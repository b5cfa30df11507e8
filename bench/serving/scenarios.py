"""The scenarios of MLPerf Inference over HTTP: SingleStream, Offline and Server.

Source: Reddi et al. 2020, "MLPerf Inference Benchmark", section III. What is measured is what a client of the
server sees, on whatever machine both run.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.measure.timing import nearest_rank, summarize
from bench.serving.client import ANSWERED, Client, Outcome, Query, ServerUnavailableError
from bench.serving.load import at_random, in_turn, together
from runtime.errors import SettingsError

# Rates that are measured, as shares of what Offline reached.
SHARES: Final = (0.25, 0.5, 0.7, 0.85, 1.0, 1.5, 2.0)
PERCENTILE: Final = 99.0
SINGLE_STREAM_PERCENTILE: Final = 90.0


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How the scenarios are run. Verified on creation.

    Attributes:
        bound_s: Longest latency at `PERCENTILE` that a rate may have, and of an answer that counts as good.
        seconds: How long requests arrive at each rate.
        requests: Requests of SingleStream and of Offline.
        at_a_time: Requests that Offline keeps under way.
        warm_up: Requests that do not count.
        refinements: Rates between the highest that kept the bound and the lowest that did not.
        shares: Rates that are measured, as shares of Offline's, ascending.
        seed: Of the arrivals.
    """

    bound_s: float = 2.0
    seconds: float = 20.0
    requests: int = 64
    at_a_time: int = 16
    warm_up: int = 8
    refinements: int = 2
    shares: tuple[float, ...] = SHARES
    seed: int = 0

    def __post_init__(self) -> None:
        """Verify.

        Raises:
            SettingsError: A number is out of its range.
        """
        for name in ("bound_s", "seconds", "requests", "at_a_time"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected more than 0")
        for name in ("warm_up", "refinements"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if not self.shares or min(self.shares) <= 0:
            raise SettingsError(f"shares are {list(self.shares)}; expected at least one, all above 0")


async def measure(
    client: Client,
    queries: Sequence[Query],
    settings: LoadSettings,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the three scenarios, one after the other.

    Args:
        client: Of the server.
        queries: What is asked, in a circle.
        settings: How.
        progress: Told what is being run.

    Returns:
        `single_stream`, `offline` and `server`, JSON-serialisable.

    Raises:
        ServerUnavailableError: It answers no request with 200.
    """
    progress("warm-up")
    _require_answers(await in_turn(client, queries, settings.warm_up or 1))
    progress("SingleStream")
    single = _require_answers(await in_turn(client, queries, settings.requests))
    progress("Offline")
    offline = _require_answers(await together(client, queries, settings.requests, settings.at_a_time))
    offline_rate = _answered(offline) / _span_s(offline)
    seconds = sum(queries[outcome.query].seconds for outcome in offline if outcome.status == ANSWERED)

    async def at_share(share: float) -> dict[str, Any]:
        progress(f"Server, {share * offline_rate:.2f} requests/s")
        rate = share * offline_rate
        outcomes = await at_random(client, queries, rate, settings.seconds, settings.seed)
        return {"share": share, **rate_figures(outcomes, rate, settings)}

    rates = await search_rates(at_share, settings)
    return {
        "single_stream": {
            "percentile": SINGLE_STREAM_PERCENTILE,
            "latency": summarize(_latencies(single)).to_dict(),
            "statuses": status_counts(single),
        },
        "offline": {
            "samples_per_s": offline_rate,
            "rtfx": seconds / _span_s(offline),
            "seconds": _span_s(offline),
            "statuses": status_counts(offline),
        },
        "server": {
            "percentile": PERCENTILE,
            "bound_s": settings.bound_s,
            "highest_rate": max((row["rate"] for row in rates if row["kept"]), default=None),
            "rates": rates,
        },
    }


async def search_rates(
    at_share: Callable[[float], Awaitable[dict[str, Any]]], settings: LoadSettings
) -> list[dict[str, Any]]:
    """Measure the rates of `settings.shares`, then halve what lies between kept and not kept.

    Args:
        at_share: Measures one share; `kept` in its result says whether the bound was kept.
        settings: How.

    Returns:
        What was measured, by share.
    """
    rows = [await at_share(share) for share in sorted(set(settings.shares))]
    for _ in range(settings.refinements):
        kept = max((row["share"] for row in rows if row["kept"]), default=0.0)
        above = [row["share"] for row in rows if row["share"] > kept]
        if not above:  # all kept it: the highest rate lies beyond those that were asked for
            break
        rows.append(await at_share((kept + min(above)) / 2))
    return sorted(rows, key=lambda row: float(row["share"]))


def rate_figures(outcomes: Sequence[Outcome], rate: float, settings: LoadSettings) -> dict[str, Any]:
    """Return what one rate came to.

    Args:
        outcomes: Of all requests of the run.
        rate: Arrivals a second that were asked for.
        settings: Their bound.

    Returns:
        `answered_per_s` and `goodput_per_s` (status 200; within the bound) over the time from the first
        arrival to the last answer; `latency` of the status 200, None without any; `kept`: all were answered
        with 200, and `PERCENTILE` % of them within the bound.
    """
    span_s = _span_s(outcomes) if outcomes else settings.seconds
    latencies = _latencies(outcomes)
    good = sum(latency <= settings.bound_s for latency in latencies)
    bounded = bool(latencies) and nearest_rank(sorted(latencies), PERCENTILE) <= settings.bound_s
    return {
        "rate": rate,
        "requests": len(outcomes),
        "arrived_per_s": len(outcomes) / settings.seconds,
        "answered_per_s": len(latencies) / span_s,
        "goodput_per_s": good / span_s,
        "statuses": status_counts(outcomes),
        "latency": summarize(latencies).to_dict() if latencies else None,
        "kept": bounded and len(latencies) == len(outcomes),
    }


def status_counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return how many requests ended with which status, "no answer" among them."""
    counts = Counter(str(outcome.status or "no answer") for outcome in outcomes)
    return dict(sorted(counts.items()))


def _require_answers(outcomes: list[Outcome]) -> list[Outcome]:
    if not _answered(outcomes):
        raise ServerUnavailableError(
            f"none of {len(outcomes)} requests was answered with 200; the statuses were "
            f"{status_counts(outcomes)}"
        )
    return outcomes


def _answered(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome.status == ANSWERED for outcome in outcomes)


def _latencies(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.latency_s for outcome in outcomes if outcome.status == ANSWERED]


def _span_s(outcomes: Sequence[Outcome]) -> float:
    """Return the seconds from the first that was to be sent to the last answer."""
    return max(outcome.ended_s for outcome in outcomes) - min(outcome.due_s for outcome in outcomes)
