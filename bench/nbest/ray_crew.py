"""Actors of a Ray cluster, each with a pipeline of its own, fed by Ray Data.

Ray starts actors as they are needed, starts those that die again, and says where they run. Blocks of paths
go out, numbers of blocks come back: audio is read, and parts are written, where the actor runs, so that every
machine must see both under the same paths. Order and resuming are not left to Ray
(https://github.com/ray-project/ray/issues/64883).
"""

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.nbest.blocks import Block, PartFolder, Result, Task, blocks_of, results_in_order
from bench.nbest.crew import Cost, OpenPipeline, Pipeline, require_same
from bench.nbest.records import NBestHeader
from runtime.errors import EarsightError, ProviderError, SettingsError
from runtime.files.closing import Closing

try:
    import ray
    import ray.data
    from ray.exceptions import RayError
except ImportError:
    ray = None

LOCAL: Final = "local"
MOST_PIECES: Final = 4096  # of Ray Data; each costs the driver about a millisecond
_IN_HAND: Final = 2  # blocks of an actor: the one that it does, and the next
Batch = dict[str, Any]


class Actor:
    """What runs in an actor of Ray: opens a pipeline once, then does blocks."""

    def __init__(self, open_pipeline: OpenPipeline, folder: str, nbest: str) -> None:
        os.chdir(folder)  # paths are those of the driver
        self._worker = Pipeline(open_pipeline)
        self._parts = PartFolder(Path(nbest), self._worker.header)

    def __call__(self, batch: Batch) -> Batch:
        """Do the blocks of a batch; return for each its number, who did it, and what it cost."""
        answers = [self._answer(pickle.loads(packed)) for packed in batch["block"]]  # noqa: S301  ours
        return {"answer": np.array([pickle.dumps(answer) for answer in answers], dtype=object)}

    def _answer(self, block: Block) -> tuple[int, NBestHeader, Cost]:
        return block.number, self._worker.header, self._worker.do(block, self._parts)


class RayCrew(Closing):
    """Actors that share the work; a context manager.

    Attributes:
        header: Bundle and settings of every actor.
        cost: What they have cost so far.
        workers: At most so many actors.
    """

    def __init__(
        self,
        open_pipeline: OpenPipeline,
        address: str,
        nbest: Path,
        *,
        workers: int | None = None,
        threads: int = 1,
        gpu: bool = False,
    ) -> None:
        """Join the cluster and ask one of its machines for bundle and settings.

        Args:
            open_pipeline: Opens a pipeline; is pickled.
            address: Of the cluster ("auto", "host:6379", "ray://host:10001"), or "local" to start one here.
            nbest: The n-best file, beside which parts are written.
            workers: At most so many actors; None for all that the cluster has room for.
            threads: Processors that an actor takes.
            gpu: Whether each takes a GPU.

        Raises:
            SettingsError: Ray is not installed, or the number is out of its range.
            ProviderError: The cluster cannot be reached.
            EarsightError: The pipeline cannot be opened there.
        """
        if ray is None:
            raise SettingsError(
                "--ray needs the package ray, which is not installed: pip install 'earsight[ray]'"
            )
        if workers is not None and workers < 1:
            raise SettingsError(f"workers is {workers}; expected 1 or more")
        self._arguments = (open_pipeline, str(Path.cwd()), str(nbest))
        self._nbest = nbest
        self._needs = {"num_cpus": threads, "num_gpus": int(gpu)}
        self.cost = Cost()
        _join(address)
        try:
            self.workers = workers or max(1, self._room())
            self.header = self._asked(open_pipeline)
        except BaseException:
            self.close()
            raise

    def results(self, tasks: Sequence[Task], *, failures: bool) -> Iterator[Result]:
        """Yield what comes of the tasks, in their order.

        Raises:
            EarsightError: An actor cannot open its pipeline, or opens another one.
        """
        parts = PartFolder(self._nbest, self.header)
        return results_in_order(blocks_of(tasks), parts, self._recognise, failures=failures)

    def _recognise(self, blocks: Sequence[Block]) -> Iterator[int]:
        if not blocks:
            return
        packed = [{"block": pickle.dumps(block)} for block in blocks]
        most = min(self.workers, len(packed))
        done = ray.data.from_items(packed, override_num_blocks=min(len(packed), MOST_PIECES)).map_batches(
            Actor,
            batch_size=1,
            fn_constructor_args=self._arguments,
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=most,
                initial_size=max(1, min(most, self._room())),
                max_tasks_in_flight_per_actor=_IN_HAND,
            ),
            **self._needs,
        )
        try:
            for batch in done.iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy"):
                for answer in batch["answer"]:
                    number, header, cost = pickle.loads(answer)  # noqa: S301  our own actors'
                    require_same(header, self.header, f"the actor that did block {number}")
                    self.cost.add(cost)
                    yield number
        except RayError as error:
            raise _cause(error) from error

    def _room(self) -> int:
        """Return how many actors the cluster has room for now; one that grows on demand may have none."""
        resources = ray.cluster_resources()
        room = int(resources.get("CPU", 0) // self._needs["num_cpus"])
        if self._needs["num_gpus"]:
            room = min(room, int(resources.get("GPU", 0)))
        return room

    def _asked(self, open_pipeline: OpenPipeline) -> NBestHeader:
        """Return bundle and settings as a machine of the cluster sees them."""
        first = ray.remote(**self._needs)(_first_header)
        try:
            header: NBestHeader = ray.get(first.remote(open_pipeline, self._arguments[1]))
        except RayError as error:
            raise _cause(error) from error
        return header

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        ray.shutdown()


def _join(address: str) -> None:
    here = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ProviderError(f"--ray {address}: the cluster cannot be joined: {error}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _first_header(open_pipeline: OpenPipeline, folder: str) -> NBestHeader:
    os.chdir(folder)
    return Pipeline(open_pipeline).header


def _cause(error: BaseException) -> BaseException:
    """Return the project's own error that Ray wraps, or Ray's, which is then a defect."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, EarsightError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error
