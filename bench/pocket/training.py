"""What the trainings share: vocabulary, learning-rate curve, steps, and a state to go on from."""

import argparse
import json
import logging
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bench.pocket.captions import draw_scene
from runtime.commands.console import run_guarded
from runtime.errors import CheckpointError
from runtime.files.write_whole import write_whole

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


def make_tokenizer(make: Callable[[list[str], int, Path], Any], merges: int) -> Any:
    """A vocabulary, learned from 20,000 training captions."""
    rng = np.random.default_rng(5)
    captions = [draw_scene(rng, "train").caption() for _ in range(20_000)]
    with tempfile.TemporaryDirectory() as folder:
        return make(captions, merges, Path(folder))


class Session:
    """One training: a model with a head, their optimiser, their state on disk and its log.

    Args:
        name: of the progress bar.
        args: options of `add_arguments`; a state in `work`, the folder of `state.pt` and `log.jsonl`, is
            taken up again.
        model: what is trained of it requires a gradient.
        head: dropped in the end.
        warm_up: steps of the learning rate.
        write: writes the checkpoint.
    """

    def __init__(
        self,
        name: str,
        args: argparse.Namespace,
        model: nn.Module,
        head: nn.Module,
        warm_up: int,
        write: Callable[[], None],
    ) -> None:
        self.args = args
        self._warm_up = warm_up
        self._write = write
        self._trained = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._trained, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.02
        )
        self._parts: dict[str, Any] = {"model": model, "head": head, "optimiser": self._optimiser}
        self.step = 0
        self.seconds = 0.0  # of training, earlier runs included
        args.work.mkdir(parents=True, exist_ok=True)
        if self.state_file.exists():
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            if set(state["parts"]) != set(self._parts):
                raise CheckpointError(
                    f"{self.state_file} holds {sorted(state['parts'])}; expected {sorted(self._parts)}"
                )
            for key, part in self._parts.items():
                part.load_state_dict(state["parts"][key])
            self.step, self.seconds = state["step"], state["seconds"]
            logger.info("going on from step %d", self.step)
        self._started = time.monotonic() - self.seconds
        self._bar = tqdm(total=args.steps, initial=self.step, desc=name, disable=not sys.stderr.isatty())

    @property
    def state_file(self) -> Path:
        """Where the training state is kept."""
        path: Path = self.args.work / "state.pt"
        return path

    @property
    def progress(self) -> float:
        """Share of all steps that are done."""
        return float(self.step / self.args.steps)

    def is_done(self) -> bool:
        """Whether all steps are done."""
        return bool(self.step >= self.args.steps)

    def learn(self, loss: Tensor, measures: dict[str, Tensor]) -> None:
        """Take one step down a loss, log it now and then with its measures, and save when it is time."""
        args = self.args
        for group in self._optimiser.param_groups:
            group["lr"] = args.learning_rate * learning_rate_factor(self.step, args.steps, self._warm_up)
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimiser.step()
        self.step += 1
        self._bar.update()
        if self.step % 25 == 0:
            self.log(loss=loss.item(), **{name: part.item() for name, part in measures.items()})
        if self.step % args.save_every == 0 or self.step == args.steps:
            self.save()
            self._write()

    def finish(self, **more: int) -> None:
        """Put the log beside the checkpoint, and what the training took."""
        args = self.args
        self._bar.close()
        shutil.copyfile(args.work / "log.jsonl", args.output / "training_log.jsonl")
        taken = {"steps": self.step, "seconds": round(self.seconds), "batch": args.batch, "seed": args.seed}
        text = json.dumps(taken | more, indent=1)
        (args.output / "training.json").write_text(f"{text}\n", encoding="utf-8")

    def log(self, **values: float) -> None:
        """Append one line to `log.jsonl`: step, seconds and `values`."""
        self.seconds = time.monotonic() - self._started
        line = {"step": self.step, "seconds": round(self.seconds, 1)}
        line |= {name: round(value, 5) for name, value in values.items()}
        with (self.args.work / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write the state so that a broken-off write leaves the old one."""
        self.seconds = time.monotonic() - self._started
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        with write_whole(self.state_file) as beside:
            torch.save({"parts": parts, "step": self.step, "seconds": self.seconds}, beside)


def run_trainer(program: str, train: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Train as a command line does, with the log of its progress; return the exit status."""

    def run() -> int:
        logging.getLogger().setLevel(logging.INFO)
        train(args)
        return 0

    return run_guarded(program, run)
