"""Latency of a published architecture with random weights, beside its peers."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.latency.side_by_side import (
    Rounds,
    SystemResult,
    agreement,
    alternate,
    random_features,
    ratio_table,
    started,
)
from bench.measure.graph_bytes import cache_bytes, cross_bytes, weight_bytes
from bench.measure.timing import ratio_of_medians, summarize
from bench.peers.base import Workload
from bench.peers.clip_text import FULL_LENGTH, TextWork
from bench.peers.driver import Worker
from bench.peers.models import ModelFolders, make_workload, prepare_models, read_geometry
from bench.peers.registry import SPEECH_PRECISIONS, TEXT_PRECISIONS, expand
from runtime.bundle.bundle import Bundle
from runtime.errors import SettingsError
from runtime.whisper.short_window import PaddingStatistics, ShortWindow

OURS, OURS_SHORT = "earsight", "earsight_short"
READS_PER_TURN = 3
SECONDS_A_FRAME = 0.01  # of log-mel, in every published Whisper
SHORT_CAPTION_TOKENS = (4, 12)


@dataclass(frozen=True, slots=True)
class ArchitectureSettings:
    """What to measure.

    Attributes:
        architecture: For example "whisper-small" or "clip-vit-base-patch32".
        peers: Names without precision.
        precisions: Of this project, and of peers that offer them.
        steps: Generated tokens of every hypothesis.
        beams: Beams and hypotheses.
        threads: Of every system.
        batch: Utterances at once.
        seconds: Length of the utterances; None for the whole window.
        texts: Captions at once, for CLIP.
        rounds: How often.
        models: Where checkpoints and converted models are kept.
        seed: Of weights and inputs.
    """

    architecture: str
    peers: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("int8", "fp32")
    steps: int = 32
    beams: int = 5
    threads: int = 2
    batch: int = 1
    seconds: float | None = None
    texts: int = 64
    rounds: Rounds = field(default_factory=Rounds)
    models: Path = Path("models/architectures")
    seed: int = 0

    @property
    def is_text(self) -> bool:
        """Whether a CLIP text encoder is measured."""
        return is_text(self.architecture)

    def systems(self) -> list[str]:
        """Return systems with precision, this project first."""
        available = TEXT_PRECISIONS if self.is_text else SPEECH_PRECISIONS
        ours = [OURS] if self.seconds is None or self.is_text else [OURS, OURS_SHORT]
        return expand([*ours, *self.peers], list(self.precisions), available)

    def to_dict(self) -> dict[str, Any]:
        """Return what the report says of the work."""
        common = {
            "architecture": self.architecture,
            "threads": self.threads,
            "seed": self.seed,
            "weights": "random",
        }
        common |= {"rounds": self.rounds.measured, "warm_up_rounds": self.rounds.warm_up}
        if self.is_text:
            return common | {"texts": self.texts}
        common |= {"steps": self.steps, "beams": self.beams, "batch": self.batch}
        return common | {"seconds": self.seconds}


def is_text(architecture: str) -> bool:
    """Tell whether an architecture is a CLIP, whose text encoder is measured."""
    return architecture.startswith("clip-")


def measure_architecture(settings: ArchitectureSettings, progress: bool = False) -> dict[str, Any]:
    """Measure this project and the peers side by side.

    Returns:
        The part of latency.json that depends on the measurement.

    Raises:
        PeerError: A system is not installed, failed, or did other work than asked.
        SettingsError: An unknown architecture, system or precision.
    """
    systems = settings.systems()
    folders = prepare_models(settings.architecture, list(settings.precisions), settings.models, settings.seed)
    if settings.is_text:
        return _measure_text(settings, systems, folders, progress)
    return _measure_speech(settings, systems, folders, progress)


# -- speech -------------------------------------------------------------------------------------------------


def _measure_speech(
    settings: ArchitectureSettings, systems: list[str], folders: ModelFolders, progress: bool
) -> dict[str, Any]:
    geometry = read_geometry(folders.whisper)
    workload = replace(
        make_workload(folders.whisper, settings.steps, settings.beams, settings.threads),
        speech=_share_of_window(settings.seconds, geometry),
    )
    ours = [name for name in systems if name.startswith(OURS)]
    sizes = {
        name: step_bytes(
            folders.bundle, precision, geometry, workload, settings.batch, short_window=kind == OURS_SHORT
        )
        for name in ours
        for kind, precision in [name.split("-")]
    }
    with tempfile.TemporaryDirectory(prefix="earsight-") as folder:
        features = Path(folder) / "features.npy"
        np.save(features, random_features(geometry, settings.batch, settings.seed, workload.speech))
        request: dict[str, dict[str, Any]] = {name: {"features": str(features)} for name in systems}
        with started("speech", systems, folders, settings.threads, {"workload": workload.to_dict()}) as (
            workers,
            results,
        ):
            floors = _start_floors(sizes, settings.threads, Path(folder))
            try:
                for name, worker in floors.items():
                    workers[name], results[name] = worker, SystemResult(name)
                    request[name] = {"repeats": READS_PER_TURN}
                alternate(workers, results, settings.rounds, request, progress)
            finally:
                for worker in floors.values():
                    worker.close()
    reads = {name: results.pop(f"read-{name}") for name in ours}
    reference = "transformers-fp32" if "transformers-fp32" in results else ours[-1]
    return {
        "mode": "architecture",
        "settings": settings.to_dict() | {"prompt_tokens": len(workload.prompt)},
        "systems": [result.to_dict() for result in results.values()],
        "ratios": ratio_table(results, ours),
        "hypotheses_shared": {"with": reference, "share": agreement(results, reference)},
        "floor": {name: _floor(results[name], reads[name], sizes[name]) for name in ours},
        "outside_onnxruntime": {name: outside_share(results[name].stages) for name in ours},
    }


def _share_of_window(seconds: float | None, geometry: dict[str, Any]) -> float:
    """Return the share of the window that an utterance takes.

    Raises:
        SettingsError: It does not fit.
    """
    window_s = float(geometry["frames"]) * SECONDS_A_FRAME
    if seconds is None:
        return 1.0
    if not 0.0 < seconds <= window_s:
        raise SettingsError(f"--seconds is {seconds:g}; expected more than 0, at most {window_s:g}")
    return seconds / window_s


def step_bytes(
    folder: Path,
    precision: str,
    geometry: dict[str, Any],
    workload: Workload,
    utterances: int,
    *,
    short_window: bool = False,
) -> dict[str, int]:
    """Return what an average decoder step reads, in bytes, by kind and in total."""
    bundle = Bundle.open(folder)
    if short_window:
        geometry = geometry | {"positions": _short_keys(bundle, precision, workload.speech)}
    parts = {
        "weights": weight_bytes(bundle.graph("decoder_model", precision).path),
        "cross_attention": cross_bytes(geometry, utterances),
        "cache": cache_bytes(geometry, utterances, len(workload.prompt), workload.beams, workload.steps),
    }
    return parts | {"total": sum(parts.values())}


def _short_keys(bundle: Bundle, precision: str, speech: float) -> int:
    """Return how many keys the decoder gets of an utterance that takes such a share of the window."""
    window = ShortWindow(PaddingStatistics.load(bundle.short_encoder(precision)[1]), precision)
    return window.keys(window.leading_positions(round(speech * window.positions)))


def _start_floors(sizes: dict[str, dict[str, int]], threads: int, folder: Path) -> dict[str, Worker]:
    workers: dict[str, Worker] = {}
    try:
        for name, size in sizes.items():
            worker = Worker("memory", f"read-{name}", threads, folder / f"read-{name}.log")
            workers[f"read-{name}"] = worker
            worker.ask("load", bytes=size["total"], threads=threads)
    except BaseException:
        for worker in workers.values():
            worker.close()
        raise
    return workers


def _floor(result: SystemResult, read: SystemResult, size: dict[str, int]) -> dict[str, Any]:
    """Compare steps with reading their bytes once."""
    raw = read.stages["read"]
    summary = summarize(raw)
    return {
        "step_bytes": size,
        "read": summary.to_dict(),
        "gigabytes_per_second": size["total"] / summary.median / 1e9,
        "step_over_read": ratio_of_medians(result.stages["step"], raw).to_dict(),
    }


def outside_share(stages: dict[str, list[float]]) -> dict[str, float]:
    """Return the share of decoding that runs outside ONNX Runtime: beam search, Python, numpy, bindings.

    Args:
        stages: Raw seconds of "decoding" and "bookkeeping", one value each a run.
    """
    shares = [
        outside / whole for outside, whole in zip(stages["bookkeeping"], stages["decoding"], strict=True)
    ]
    return {"share": summarize(shares).median, "least": min(shares), "greatest": max(shares)}


# -- CLIP text ----------------------------------------------------------------------------------------------


def _measure_text(
    settings: ArchitectureSettings, systems: list[str], folders: ModelFolders, progress: bool
) -> dict[str, Any]:
    texts = short_captions(settings.texts, settings.seed)
    token_ids = tokenize(folders.bundle, texts)
    paddings = {"longest": None, "full": FULL_LENGTH}
    parts: dict[str, Any] = {}
    for padding, pad_to in paddings.items():
        work = TextWork(texts, token_ids, pad_to).to_dict()
        request = {name: {"work": work} for name in systems}
        with started("text", systems, folders, settings.threads, {"threads": settings.threads}) as (
            workers,
            results,
        ):
            alternate(workers, results, settings.rounds, request, progress)
        ours = [name for name in systems if name.startswith(OURS)]
        parts[padding] = {
            "peers_pad_to": pad_to or max(len(ids) for ids in token_ids),
            "systems": [result.to_dict() for result in results.values()],
            "ratios": ratio_table(results, ours),
            "largest_difference": _largest_differences(results, ours[-1]),
        }
    lengths = [len(ids) for ids in token_ids]
    captions = {"count": len(texts), "shortest_tokens": min(lengths), "longest_tokens": max(lengths)}
    return {"mode": "text", "settings": settings.to_dict() | {"captions": captions}, "paddings": parts}


def short_captions(count: int, seed: int) -> list[str]:
    """Return made-up captions of 4 to 12 tokens (as many as short captions have words), nearly all different.

    The tokenizer of the random checkpoints knows no words: a letter is a token, and stands for a word here.
    """
    random_source = np.random.default_rng(seed)
    low, high = SHORT_CAPTION_TOKENS
    lengths = random_source.integers(low, high + 1, count)
    return ["".join(random_source.choice(list(ascii_lowercase), length)) for length in lengths]


def tokenize(bundle: Path, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts, start and end of text included."""
    from runtime.clip.tokens import ClipTokens

    return ClipTokens.from_folder(bundle / "clip").encode(texts)


def _largest_differences(results: dict[str, SystemResult], reference: str) -> dict[str, float]:
    """Return the largest difference of each system's embeddings to the reference's, over all components."""
    embeddings: dict[str, NDArray[np.float64]] = {
        name: np.asarray(result.outputs["embeddings"]) for name, result in results.items()
    }
    return {name: float(np.abs(value - embeddings[reference]).max()) for name, value in embeddings.items()}
