"""Make the pocket corpus: `python -m bench.pocket.corpus --output DIR [--split dev] --seed 7`.

A split is a folder with `manifest.jsonl`, `audio/*.ogg` (Opus, 16 kHz) and `images/*.webp`. Voices,
sentences and pictures of one split are in no other. Needs espeak-ng and the Noto Color Emoji font.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from tqdm import tqdm

from bench.pocket.captions import SPLITS, Scene, Split, draw_scene
from bench.pocket.degradation import GROUPS, HARDER, SEVERITIES, Severity, degrade
from bench.pocket.pictures import draw
from bench.pocket.speech import SAMPLE_RATE, Voice, draw_voice, hesitate, speak, speakers
from runtime.commands.console import run_guarded
from runtime.errors import SettingsError

MAX_SECONDS: Final = 5.8  # a little less than the window of the pocket Whisper
SIZES: Final[dict[Split, int]] = {"train": 1000, "dev": 240, "test": 264}
SEED: Final = 7
PICTURE_STREAM: Final = 100  # keeps the chance of pictures apart from that of speech


@dataclass(frozen=True)
class Row:
    """One line of `manifest.jsonl`; paths are relative to it."""

    id: str
    audio: str
    reference: str
    image: str
    speaker: str
    group: str


@dataclass(frozen=True)
class Spoken:
    """One utterance before it is written."""

    scene: Scene
    speaker: str
    group: str
    wave: NDArray[np.float32]  # (samples,), 16 kHz


def utter(sentence: str, voice: Voice, severity: Severity, rng: np.random.Generator) -> NDArray[np.float32]:
    """Speak and worsen a sentence so that it fits into `MAX_SECONDS`. Shape (samples,), 16 kHz."""
    while True:
        text = hesitate(sentence, rng, severity.filler, severity.repeat)
        wave = degrade(speak(text, voice), severity, rng)
        if len(wave) <= MAX_SECONDS * SAMPLE_RATE:
            return wave


def training_utterance(seed: int, index: int, groups: tuple[str, ...]) -> Spoken:
    """Training utterance number `index`: caption, voice and group are all drawn."""
    rng = np.random.default_rng([seed, SPLITS.index("train"), index])
    scene, voice, group = draw_scene(rng, "train"), draw_voice(rng), str(rng.choice(groups))
    return Spoken(scene, voice.name, group, utter(scene.caption(), voice, SEVERITIES[group], rng))


def utterances(split: Split, count: int, seed: int, groups: tuple[str, ...] = GROUPS) -> Iterator[Spoken]:
    """`count` utterances of a split, every one from its own seed.

    Dev and test say no sentence twice and go round their speakers and groups evenly; training draws all.
    """
    if split == "train":
        for i in range(count):
            yield training_utterance(seed, i, groups)
        return
    known: set[str] = set()
    cast = speakers(split)
    for i in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), i])
        scene = draw_scene(rng, split)
        while scene.caption() in known:
            scene = draw_scene(rng, split)
        known.add(scene.caption())
        voice, group = cast[i % len(cast)], groups[(i // len(cast)) % len(groups)]
        yield Spoken(scene, voice.name, group, utter(scene.caption(), voice, HARDER[group], rng))


def write_split(folder: Path, split: Split, count: int, seed: int, source: Iterable[Spoken]) -> Path:
    """Write one split and return the path of its manifest.

    Args:
        folder: where to; made if need be.
        split: which one.
        count: number of utterances.
        seed: the same seed gives the same corpus with the same versions of the speech synthesis and the font.
        source: the utterances.
    """
    for name in ("audio", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for i, spoken in enumerate(tqdm(source, total=count, desc=split, disable=not sys.stderr.isatty())):
        name = f"{split}-{i:04d}"
        picture, _ = draw(
            spoken.scene, np.random.default_rng([seed, PICTURE_STREAM + SPLITS.index(split), i])
        )
        picture.save(folder / "images" / f"{name}.webp", quality=90)
        sf.write(folder / "audio" / f"{name}.ogg", spoken.wave, SAMPLE_RATE, format="OGG", subtype="OPUS")
        sentence, image = spoken.scene.caption(), f"images/{name}.webp"
        rows.append(Row(name, f"audio/{name}.ogg", sentence, image, spoken.speaker, spoken.group))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    return manifest


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.corpus", description=__doc__)
    add_arguments(parser, SIZES, SEED)
    parser.add_argument("--clean", action="store_true", help="undegraded speech instead of the three groups")
    return parser.parse_args(argv)


def add_arguments(parser: argparse.ArgumentParser, sizes: Mapping[Any, int], seed: int) -> None:
    """The options that the corpora have."""
    parser.add_argument(
        "--output", type=Path, required=True, help="folder that gets one folder for each split"
    )
    parser.add_argument("--split", choices=tuple(sizes), action="append", help="default: dev and test")
    parser.add_argument("--count", type=int, help=f"utterances of each split (default: {sizes})")
    parser.add_argument("--seed", type=int, default=seed)


def write_splits(
    args: argparse.Namespace, sizes: Mapping[Any, int], speak: Callable[[Any, int, int], Iterable[Spoken]]
) -> int:
    """Write the splits that were asked for; `speak` makes so many utterances of one from a seed."""
    if args.count is not None and args.count < 1:
        raise SettingsError(f"--count is {args.count}; expected at least 1")
    for split in args.split or ["dev", "test"]:
        count = args.count or sizes[split]
        write_split(args.output / split, split, count, args.seed, speak(split, count, args.seed))
    return 0


def run(args: argparse.Namespace) -> int:
    """Write the splits that were asked for."""
    return write_splits(args, SIZES, partial(utterances, groups=("clean",) if args.clean else GROUPS))


if __name__ == "__main__":
    sys.exit(run_guarded("python -m bench.pocket.corpus", lambda: run(parse_args())))
