"""What becomes of unfinished requests when the time to answer them is over."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from runtime.server.faults import Fault

RETRY_S: Final = 1  # another server behind the same address may be there at once
Told = Callable[[Fault], object]


class Stopping:
    """Tells unfinished requests that the server ends; used by the event loop's thread alone.

    Attributes:
        is_over: Whether the time to answer is over.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._told: list[Told] = []

    def end(self) -> None:
        """Tell all that are unfinished."""
        self.is_over = True
        for tell in tuple(self._told):
            tell(_fault())

    @contextmanager
    def telling(self, tell: Told) -> Iterator[None]:
        """Have something told within the block.

        Args:
            tell: Is called with what is to be answered.
        """
        self._told.append(tell)
        try:
            yield
        finally:
            self._told.remove(tell)

    @asynccontextmanager
    async def bounding(self, has_begun: Callable[[], bool]) -> AsyncIterator[None]:
        """End the work within the block when the time is over.

        Args:
            has_begun: Whether a part of the answer was sent; then whoever sends it ends it.

        Raises:
            Fault: The time is over.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                with self.telling(lambda _: None if has_begun() else limit.reschedule(0.0)):
                    yield
        except TimeoutError as error:
            if limit.expired():
                raise _fault() from error
            raise


def _fault() -> Fault:
    return Fault(
        503, "the server stopped before it could answer; try again", code="stopping", retry_after_s=RETRY_S
    )
