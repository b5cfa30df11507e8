"""How much is taken on: requests and seconds of audio; what is more than that is told to come back."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from runtime.server.faults import Fault
from runtime.server.limits import Limits
from runtime.server.metrics import Metrics

LONGEST_RETRY_S: Final = 30


class Admission:
    """Counts what is at work; used by the event loop's thread alone.

    Args:
        limits: Of the server.
        metrics: Where it counts.
        work_s: Estimates how many seconds of work so many seconds of audio are.

    Attributes:
        draining: Whether the server stops and takes nothing more.
    """

    def __init__(self, limits: Limits, metrics: Metrics, work_s: Callable[[float], float]) -> None:
        self.draining = False
        self._limits = limits
        self._metrics = metrics
        self._work_s = work_s
        self._requests = 0
        self._audio_s = 0.0

    @property
    def requests(self) -> int:
        """How many requests are at work."""
        return self._requests

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold the place of a request.

        Raises:
            Fault: There is none left, or the server stops.
        """
        if self.draining:
            raise Fault(503, "the server is stopping", code="stopping", retry_after_s=self._retry_s())
        if self._requests >= self._limits.requests:
            raise self._full(f"{self._requests} requests are at work, {self._limits.requests} at most")
        self._requests += 1
        self._metrics.in_flight.set(self._requests)
        try:
            yield
        finally:
            self._requests -= 1
            self._metrics.in_flight.set(self._requests)

    @contextmanager
    def audio(self, seconds: float) -> Iterator[None]:
        """Hold the place of a recording.

        Args:
            seconds: Its length.

        Raises:
            Fault: Too much waits already. A recording that is alone is always taken.
        """
        if self._audio_s and self._audio_s + seconds > self._limits.queue_s:
            raise self._full(f"{self._audio_s:.0f} s of audio wait, {self._limits.queue_s:g} s at most")
        self._audio_s += seconds
        self._metrics.queued.set(self._audio_s)
        try:
            yield
        finally:
            # Sums of floats that are taken away again need not come back to zero.
            self._audio_s = max(0.0, self._audio_s - seconds) if self._requests > 1 else 0.0
            self._metrics.queued.set(self._audio_s)

    def _full(self, why: str) -> Fault:
        return Fault(503, f"the server is full: {why}", code="overloaded", retry_after_s=self._retry_s())

    def _retry_s(self) -> int:
        return min(LONGEST_RETRY_S, max(1, math.ceil(self._work_s(self._audio_s))))
