"""Files of others are decoded here: in threads, or in processes that may die without harm."""

import asyncio
import logging
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from pebble import ProcessExpired, ProcessPool
from PIL import Image

import runtime.audio.files  # noqa: F401 - the first request shall not wait for it, nor find it broken
from runtime.audio.limits import AudioLimits
from runtime.audio.load import Waveform, load_audio
from runtime.clip.pictures import load_image
from runtime.errors import AudioError

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)

THREADS: Final = 2  # files decoded at a time, beside the engine
MEMORY_BYTES: Final = 2 * 2**30  # of address space of a process that decodes
TIME_S: Final = 20.0  # of a file in such a process, where legitimate ones take two


def decode_audio(content: bytes, rate: int, limits: AudioLimits) -> Waveform:
    """Decode a recording; see `load_audio`."""
    return load_audio(content, target_rate=rate, limits=limits)


def decode_picture(content: bytes, max_pixels: int) -> Image.Image:
    """Decode a picture; see `load_image`."""
    return load_image(content, max_pixels)


class Decoders:
    """Decodes a few files at a time.

    Args:
        processes: How many processes to use, whose memory and time are bounded: a decoder that a file brings
            down takes nothing else with it. 0 uses threads of this process.
    """

    def __init__(self, processes: int = 0) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="decoder")
        self._processes = (
            ProcessPool(
                max_workers=processes,
                context=multiprocessing.get_context("spawn"),
                initializer=_bound_memory,
                initargs=(MEMORY_BYTES,),
            )
            if processes
            else None
        )

    async def run(self, decode: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Decode a file.

        Raises:
            AudioError: Its decoder died or took too long.
            EarsightError: What the decoder raises.
        """
        if self._processes is None:
            return await asyncio.wrap_future(self._threads.submit(decode, *args, **kwargs))
        future: Future[T] = self._processes.schedule(decode, args=args, kwargs=kwargs, timeout=TIME_S)
        try:
            return await asyncio.wrap_future(future)
        except (ProcessExpired, TimeoutError, MemoryError) as error:
            logger.warning("a file brought its decoder down: %s", type(error).__name__)
            raise AudioError(
                "the file cannot be decoded: its decoder ended, took too long or wanted too much memory; it "
                "is damaged, or made to do so"
            ) from error

    def close(self) -> None:
        """End threads and processes; what they are at is lost."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            self._processes.stop()
            self._processes.join()


def _bound_memory(most: int) -> None:
    """Bound the memory of this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows has no such limit; the time is bounded there as well
        return
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
