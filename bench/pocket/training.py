"""What both trainings share: the learning-rate curve, checkpoints to go on from, whole folders or none."""

import argparse
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runtime.commands.console import run_guarded
from runtime.errors import CheckpointError
from runtime.write_whole import write_whole

logger = logging.getLogger(__name__)


def learning_rate_factor(step: int, steps: int, warm_up: int) -> float:
    """The share of the peak learning rate at `step`: linear warm-up, then half a cosine down to 2 %."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def add_arguments(parser: argparse.ArgumentParser, steps: int, batch: int, rate: float) -> None:
    """The options that both trainings have."""
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of the training state and the loss log"
    )
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--learning-rate", type=float, default=rate)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250, help="steps between two saves (default: 250)")
    parser.add_argument("--seed", type=int, default=7)


class Session:
    """One training: its parts, its state on disk and its log.

    Args:
        work: folder of `state.pt` and `log.jsonl`; a state there is taken up again.
        parts: name → module or optimiser, everything that has a `state_dict`.
    """

    def __init__(self, work: Path, parts: dict[str, Any]) -> None:
        self.work = work
        self.parts = parts
        self.step = 0
        self.seconds = 0.0  # of training, earlier runs included
        work.mkdir(parents=True, exist_ok=True)
        if self.state_file.exists():
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            if set(state["parts"]) != set(parts):
                raise CheckpointError(
                    f"{self.state_file} holds {sorted(state['parts'])}; expected {sorted(parts)}"
                )
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            self.step, self.seconds = state["step"], state["seconds"]
            logger.info("going on from step %d", self.step)
        self._started = time.monotonic() - self.seconds

    @property
    def state_file(self) -> Path:
        """Where the training state is kept."""
        return self.work / "state.pt"

    def log(self, **values: float) -> None:
        """Append one line to `log.jsonl`: step, seconds and `values`."""
        self.seconds = time.monotonic() - self._started
        line = {"step": self.step, "seconds": round(self.seconds, 1)}
        line |= {name: round(value, 5) for name, value in values.items()}
        with (self.work / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write the state so that a broken-off write leaves the old one."""
        self.seconds = time.monotonic() - self._started
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        with write_whole(self.state_file) as beside:
            torch.save({"parts": parts, "step": self.step, "seconds": self.seconds}, beside)


def run_trainer(program: str, train: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Train as a command line does, with the log of its progress; return the exit status."""

    def run() -> int:
        logging.getLogger().setLevel(logging.INFO)
        train(args)
        return 0

    return run_guarded(program, run)
