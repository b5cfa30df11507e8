"""Which pipeline a lane works with: one on all cores, or one on its share of them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.pipeline import MultimodalASR


class Crew:
    """The pipelines of the lanes.

    A request that is alone is answered soonest by all cores; but two requests, each on half of them, are done
    sooner than one after the other on all, because threads inside an operator wait for each other.

    Args:
        alone: On all cores.
        beside: The same bundle on as many cores as a lane has where all work; None for one lane.
        lanes: How many lanes there are; more than one want `beside`.
    """

    def __init__(self, alone: MultimodalASR, beside: MultimodalASR | None = None, lanes: int = 1) -> None:
        assert lanes == 1 or beside is not None  # lanes that share threads slow each other down
        self._alone = alone
        self._beside = beside or alone
        self._working = 0
        self._lock = threading.Lock()

    def of_lane(self, number: int) -> MultimodalASR:
        """Return the pipeline that a lane warms up."""
        return self._alone if number == 0 else self._beside

    @contextmanager
    def pipeline(self, *, others_wait: bool) -> Iterator[MultimodalASR]:
        """Give a lane its pipeline for a batch.

        Args:
            others_wait: Whether there is work that another lane is about to take.
        """
        with self._lock:
            self._working += 1
            is_alone = self._working == 1 and not others_wait
        try:
            yield self._alone if is_alone else self._beside
        finally:
            with self._lock:
                self._working -= 1
