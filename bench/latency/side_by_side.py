"""Systems side by side in one run: same checkpoint, same work, same threads, alternating turns."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.measure.timing import LatencySummary, ratio_of_medians, summarize
from bench.peers.base import Features
from bench.peers.driver import Kind, Worker, converted
from bench.peers.models import ModelFolders
from runtime.errors import SettingsError

SLOW = "notebook"
PADDING_LOG_MEL = -0.6  # of padding behind speech at a usual level
# Idle thread pools spin for a while before they sleep; the next system must not share the cores with them.
PAUSE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often and in which order systems run.

    Attributes:
        measured: Rounds whose values count; in each every system has one turn.
        warm_up: Rounds before them whose values are kept apart.
        slow: Measured rounds of the notebook's call, which takes twenty times as long as any other.
        pause: Seconds between two turns.
    """

    measured: int = 10
    warm_up: int = 2
    slow: int = 1
    pause: float = PAUSE_SECONDS

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        if self.measured < 1 or self.warm_up < 0 or self.slow < 1 or self.pause < 0:
            raise SettingsError(
                f"rounds are {self.measured} measured, {self.warm_up} warm-up, {self.slow} slow, "
                f"pause {self.pause} s; "
                "expected at least one measured and one slow round, and nothing negative"
            )

    def order(self, systems: Sequence[str]) -> Iterator[tuple[bool, list[str]]]:
        """Yield whether a round counts, and its turns: each round starts one system later than the last."""
        for number in range(self.warm_up + self.measured):
            counts = number >= self.warm_up
            shift = number % len(systems)
            turns = [*systems[shift:], *systems[:shift]]
            late = number >= self.warm_up + self.slow
            # The slow one needs no warm-up of its own: what a first run costs is lost in 50 s.
            yield counts, [name for name in turns if not name.startswith(SLOW) or (counts and not late)]


@dataclass(slots=True)
class SystemResult:
    """What was measured of one system.

    Attributes:
        name: With precision.
        load_s: Seconds from an imported package to a loaded model.
        memory_before: Peak resident bytes before loading, libraries included.
        peak_memory: Peak resident bytes after all turns.
        details: What was really in force.
        stages: Raw seconds by stage.
        warm_up: Raw seconds of warm-up turns by stage.
        outputs: The answer to the last turn, without latencies.
    """

    name: str
    load_s: float = 0.0
    memory_before: int = 0
    peak_memory: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)
    warm_up: dict[str, list[float]] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)

    def take(self, answer: dict[str, Any], counts: bool) -> None:
        """Keep one turn. Encoder and decoding together are "whole" where a system times them apart."""
        stages = {name: list(values) for name, values in answer["stages"].items()}
        if "encoder" in stages:
            stages["whole"] = [stages["encoder"][0] + stages["decoding"][0]]
        target = self.stages if counts else self.warm_up
        for name, values in stages.items():
            target.setdefault(name, []).extend(values)
        self.peak_memory = max(self.peak_memory, answer["peak_memory_bytes"])
        self.outputs = {
            name: value for name, value in answer.items() if name not in ("stages", "peak_memory_bytes")
        }

    def summaries(self) -> dict[str, LatencySummary]:
        """Return the statistics of every stage."""
        return {name: summarize(values) for name, values in self.stages.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return what the report holds of this system."""
        return {
            "name": self.name,
            "load_s": self.load_s,
            "memory_before_load_bytes": self.memory_before,
            "peak_memory_bytes": self.peak_memory,
            "details": self.details,
            "stages": {name: summary.to_dict() for name, summary in self.summaries().items()},
            "warm_up_raw_s": self.warm_up,
            "distinct_hypotheses": self.outputs.get("distinct"),
        }


@contextmanager
def started(
    kind: Kind, systems: Sequence[str], folders: ModelFolders, threads: int, load: dict[str, Any]
) -> Iterator[tuple[dict[str, Worker], dict[str, SystemResult]]]:
    """Convert, start and load all systems, each in its own process.

    Args:
        kind: "speech" or "text".
        systems: Names with precision.
        folders: Checkpoints and bundle.
        threads: Of every system.
        load: Further arguments of the load request.
    """
    ours = [name for name in systems if name.startswith("earsight")]
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="earsight-")))
        places = {
            # This project's own folder is a link to the bundle, which may be another one next time.
            name: converted(kind, name, folders.source(name, kind), logs if name in ours else folders.root)
            for name in systems
        }
        workers, results = {}, {}
        for name in systems:
            worker = stack.enter_context(Worker(kind, name, threads, logs / f"{name}.log"))
            answer = worker.ask("load", folder=str(places[name]), **load)
            workers[name] = worker
            results[name] = SystemResult(
                name, answer["stages"]["load"][0], answer["memory_before_bytes"], 0, answer["details"]
            )
        yield workers, results


def alternate(
    workers: dict[str, Worker],
    results: dict[str, SystemResult],
    rounds: Rounds,
    request: dict[str, dict[str, Any]],
    progress: bool,
) -> None:
    """Let systems take turns and keep every latency.

    Args:
        workers: Loaded systems.
        results: Take the latencies.
        rounds: How often.
        request: Arguments of each system's run request.
        progress: Whether to show a progress bar.
    """
    turns = [(counts, name) for counts, names in rounds.order(list(workers)) for name in names]
    for counts, name in tqdm(turns, disable=None if progress else True, unit="run"):
        results[name].take(workers[name].ask("run", **request[name]), counts)
        time.sleep(rounds.pause)


def ratio_table(results: dict[str, SystemResult], ours: Sequence[str]) -> list[dict[str, Any]]:
    """Return how many times as long every other system takes, against each of ours, stage by stage."""
    table = []
    for mine in ours:
        for other, result in results.items():
            if other == mine:
                continue
            for stage in ("encoder", "decoding", "whole"):
                if stage in result.stages and stage in results[mine].stages:
                    ratio = ratio_of_medians(result.stages[stage], results[mine].stages[stage])
                    table.append({"system": other, "against": mine, "stage": stage, **ratio.to_dict()})
    return table


def agreement(results: dict[str, SystemResult], reference: str) -> dict[str, float]:
    """Return the share of each system's hypotheses that the reference has, too (token by token).

    A check that all did the same work; quantised weights and other tie-breaking lower it.
    """
    expected = [{tuple(tokens) for tokens in entries} for entries in results[reference].outputs["sequences"]]
    shares = {}
    for name, result in results.items():
        if "sequences" not in result.outputs:
            continue
        found = [{tuple(tokens) for tokens in entries} for entries in result.outputs["sequences"]]
        shares[name] = sum(len(a & b) for a, b in zip(found, expected, strict=True)) / sum(map(len, expected))
    return shares


def random_features(geometry: dict[str, Any], batch: int, seed: int, speech: float = 1.0) -> Features:
    """Return reproducible log-mel features (batch, mels, frames).

    Args:
        geometry: `mels` and `frames`.
        batch: Utterances.
        seed: Of the noise.
        speech: Share of the window that holds noise; behind it is padding, all of one value.
    """
    shape = (batch, geometry["mels"], geometry["frames"])
    features = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    features[:, :, round(speech * geometry["frames"]) :] = PADDING_LOG_MEL
    return features
