"""Make the described corpus: `python -m bench.pocket.described_corpus --output DIR [--split dev] --seed 12`.

Picture descriptions that a real recogniser can hear: flite's voices in three degrees of impairment. A split
is a folder as `bench.pocket.corpus` makes them. Speakers, scenes, sentences and pictures of one split are not
in the other. Needs flite and the Noto Color Emoji font.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import soundfile as sf
from tqdm import tqdm

from bench.pocket.captions import SPLITS
from bench.pocket.corpus import Row
from bench.pocket.degradation import GROUPS
from bench.pocket.descriptions import Description, draw_plain_description
from bench.pocket.impairment import utter
from bench.pocket.pictures import draw
from bench.pocket.speech import SAMPLE_RATE
from bench.pocket.voices import BASES, Half, Speaker, speakers
from runtime.commands.console import run_guarded
from runtime.errors import SettingsError

SIZES: Final[dict[Half, int]] = {"dev": 240, "test": 264}
SEED: Final = 12
PICTURE_STREAM: Final = 100  # keeps the chance of pictures apart from that of speech


def utterances(half: Half, count: int, seed: int) -> Iterator[tuple[Description, Speaker, str]]:
    """`count` descriptions, no scene twice, going round the speakers and the groups evenly."""
    known: set[str] = set()
    cast = speakers(half)
    for i in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(half), i])
        description = draw_plain_description(rng, half)
        while description.plain() in known:
            description = draw_plain_description(rng, half)
        known.add(description.plain())
        yield description, cast[i % len(cast)], GROUPS[(i // len(cast)) % len(GROUPS)]


def write_split(folder: Path, half: Half, count: int, seed: int) -> Path:
    """Write one split and return the path of its manifest.

    Args:
        folder: where to; made if need be.
        half: which speakers and scenes.
        count: number of utterances.
        seed: the same seed gives the same corpus with the same versions of flite and the font.
    """
    for name in ("audio", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    source = utterances(half, count, seed)
    for i, (description, speaker, group) in enumerate(
        tqdm(source, total=count, desc=half, disable=not sys.stderr.isatty())
    ):
        name = f"{half}-{i:04d}"
        stream = SPLITS.index(half)
        picture, _ = draw(description, np.random.default_rng([seed, PICTURE_STREAM + stream, i]))
        picture.save(folder / "images" / f"{name}.webp", quality=90)
        wave = utter(description, speaker, group, np.random.default_rng([seed, stream, i, 1]))
        sf.write(folder / "audio" / f"{name}.ogg", wave, SAMPLE_RATE, format="OGG", subtype="OPUS")
        rows.append(
            Row(name, f"audio/{name}.ogg", description.caption(), f"images/{name}.webp", speaker.name, group)
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    return manifest


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.described_corpus", description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder that gets one folder for each split"
    )
    parser.add_argument("--split", choices=tuple(BASES), action="append", help="default: dev and test")
    parser.add_argument("--count", type=int, help=f"utterances of each split (default: {SIZES})")
    parser.add_argument("--seed", type=int, default=SEED)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Write the splits that were asked for."""
    if args.count is not None and args.count < 1:
        raise SettingsError(f"--count is {args.count}; expected at least 1")
    for half in args.split or SIZES:
        write_split(args.output / half, half, args.count or SIZES[half], args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded("python -m bench.pocket.described_corpus", lambda: run(parse_args())))
