"""Training speech as log-mel features on disk: `python -m bench.pocket.pool --output DIR --shards 64`.

A shard is an .npz file of `SHARD_SIZE` utterances. The training takes up shards as they appear, so
rendering may run beside it.
"""

import argparse
import multiprocessing
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bench.pocket.corpus import SEED, training_utterance
from bench.pocket.degradation import not_speech
from bench.pocket.speech import SAMPLE_RATE
from runtime.commands.console import run_guarded
from runtime.files.write_whole import write_whole

SHARD_SIZE: Final = 500
GROUPS: Final = ("clean", "mild", "moderate", "severe")
SPEECHLESS: Final = 0.04  # share of clips without speech
MEL_BINS: Final = 64
WINDOW_SECONDS: Final = 6


@dataclass(frozen=True)
class Utterance:
    """One training example: log-mel frames up to the end of the sound, and what was said ("" if nothing)."""

    frames: NDArray[np.float16]  # (mel bins, frames); the last frame is what padding looks like
    text: str
    seconds: float
    group: str


def feature_extractor() -> Any:
    """The `WhisperFeatureExtractor` of the pocket Whisper."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=WINDOW_SECONDS)


def log_mel(extractor: Any, wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Whisper's log-mel features of a whole window, shape (mel bins, 100 frames a second)."""
    features = extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features[0]
    return np.asarray(features, np.float32)


def _render(folder: Path, seed: int, shard: int) -> None:
    import torch

    torch.set_num_threads(1)
    extractor = feature_extractor()
    frames, texts, seconds, groups = [], [], [], []
    for index in range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE):
        rng = np.random.default_rng([seed, 50, index])
        if rng.random() < SPEECHLESS:
            wave, text, group = not_speech(rng, rng.uniform(0.3, 5.9)), "", "speechless"
        else:
            spoken = training_utterance(seed, index, GROUPS)
            wave, text, group = spoken.wave, spoken.scene.caption(), spoken.group
        features = log_mel(extractor, wave)
        # Two frames beyond the end see some sound through the Hann window; after them all is padding.
        frames.append(features[:, : len(wave) // 160 + 4].astype(np.float16))
        texts.append(text)
        groups.append(group)
        seconds.append(len(wave) / SAMPLE_RATE)
    with write_whole(folder / f"shard-{shard:04d}.npz") as beside, beside.open("wb") as file:
        np.savez(
            file,
            frames=np.concatenate(frames, axis=1),
            lengths=np.array([f.shape[1] for f in frames]),
            texts=np.array(texts),
            seconds=np.array(seconds),
            groups=np.array(groups),
        )


def load_shard(path: Path) -> list[Utterance]:
    """The utterances of one shard file."""
    with np.load(path) as file:
        frames, lengths = file["frames"], file["lengths"]
        said = zip(file["texts"], file["seconds"], file["groups"], strict=True)
    pieces = np.split(frames, np.cumsum(lengths)[:-1], axis=1)
    return [
        Utterance(np.ascontiguousarray(piece), str(text), float(seconds), str(group))
        for piece, (text, seconds, group) in zip(pieces, said, strict=True)
    ]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.pool", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the shards")
    parser.add_argument(
        "--shards", type=int, default=64, help=f"shards of {SHARD_SIZE} utterances (default: 64)"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=SEED)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Render the shards that are not there yet."""
    args.output.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(args.shards) if not (args.output / f"shard-{n:04d}.npz").exists()]
    with multiprocessing.get_context("spawn").Pool(args.processes) as workers:
        done = workers.imap_unordered(partial(_render, args.output, args.seed), missing)
        for _ in tqdm(done, total=len(missing), desc="shards", disable=not sys.stderr.isatty()):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded("python -m bench.pocket.pool", lambda: run(parse_args())))
