"""What a measured system offers, and the work that all of them are given."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.measure.timing import Stopwatch
from runtime.errors import EarsightError, SettingsError

Features = NDArray[np.float32]


class PeerError(EarsightError, RuntimeError):
    """A measured system is not installed, failed, or did other work than it was given."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The same work for every system.

    Attributes:
        prompt: Decoder prompt, token ids.
        end_of_text: Token id that no system may generate before the last step.
        steps: Generated tokens of every hypothesis, or the most of them.
        beams: Beams, and hypotheses returned.
        threads: Threads of the engine's compute pool.
        speech: Share of the window that holds speech; the rest is padding.
        fixed_length: Whether all hypotheses have `steps` tokens; else they end where the model ends them.
    """

    prompt: tuple[int, ...]
    end_of_text: int
    steps: int = 32
    beams: int = 5
    threads: int = 2
    speech: float = 1.0
    fixed_length: bool = True

    def __post_init__(self) -> None:
        """Refuse what no system could do."""
        for name in ("steps", "beams", "threads"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not 0.0 < self.speech <= 1.0:
            raise SettingsError(f"speech is {self.speech:g} of the window; expected more than 0, at most 1")
        if not self.prompt:
            raise SettingsError("the prompt is empty; it must hold at least the start-of-transcript token")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-serialisable."""
        return asdict(self) | {"prompt": list(self.prompt)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Workload":
        """Restore what `to_dict` returned."""
        return cls(**(fields | {"prompt": tuple(fields["prompt"])}))


@dataclass(frozen=True, slots=True)
class NBest:
    """What a system returned.

    Attributes:
        sequences: Generated token ids, prompt excluded; one list of hypotheses for each utterance.
        scores: The system's own sequence scores, in the same order.
    """

    sequences: list[list[list[int]]]
    scores: list[list[float]]

    def verify(self, workload: Workload, utterances: int) -> None:
        """Check that the system did the work it was given.

        Raises:
            PeerError: Number of utterances, hypotheses or tokens differs.
        """
        if len(self.sequences) != utterances:
            raise PeerError(f"{len(self.sequences)} utterances came back, {utterances} went in")
        for hypotheses in self.sequences:
            if len(hypotheses) != workload.beams:
                raise PeerError(f"{len(hypotheses)} hypotheses came back, {workload.beams} were asked for")
            lengths = sorted({len(tokens) for tokens in hypotheses})
            if not workload.fixed_length:
                if lengths[-1] > workload.steps:
                    raise PeerError(
                        f"a hypothesis of {lengths[-1]} tokens came back, {workload.steps} are allowed"
                    )
            elif lengths != [workload.steps]:
                raise PeerError(f"hypotheses of {lengths} tokens came back, all should have {workload.steps}")

    @property
    def distinct(self) -> list[int]:
        """Number of different hypotheses of each utterance."""
        return [len({tuple(tokens) for tokens in hypotheses}) for hypotheses in self.sequences]


class Peer(Protocol):
    """One measured system. Conversion and measurement happen in separate processes.

    Attributes:
        name: As in the report, precision included ("ctranslate2-int8").
        precision: Of the weights.
    """

    name: str
    precision: str

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Write into `folder` what `load` needs. Nothing of this is measured."""

    def load(self, folder: Path, workload: Workload) -> None:
        """Load the model: what a service does once, when it starts."""

    def run(self, features: Features, workload: Workload, watch: Stopwatch) -> NBest:
        """Recognise `features` (utterances, mels, frames) and time stages "encoder" and "decoding".

        A system that offers no separate encoder call times "whole" alone.
        """

    def details(self) -> dict[str, Any]:
        """Return what was really in force: threads, kernels, execution providers, files."""


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that hold every thread pool of a child process to `threads`."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {name: str(threads) for name in names}


def rows(values: Sequence[Any], beams: int) -> list[list[Any]]:
    """Split a flat list of (utterances · beams) entries into one list for each utterance."""
    return [list(values[start : start + beams]) for start in range(0, len(values), beams)]
