"""Make the described corpus: `python -m bench.pocket.described_corpus --output DIR [--split dev] --seed 12`.

Picture descriptions that a real recogniser can hear: flite's voices in three degrees of impairment. A split
is a folder as `bench.pocket.corpus` makes them. Speakers, scenes, sentences and pictures of one split are not
in the other. Needs flite and the Noto Color Emoji font.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Final

import numpy as np

from bench.pocket.captions import SPLITS
from bench.pocket.corpus import Spoken, add_arguments, write_splits
from bench.pocket.degradation import GROUPS
from bench.pocket.descriptions import Description, draw_plain_description
from bench.pocket.impairment import utter
from bench.pocket.voices import Half, Speaker, speakers
from runtime.commands.console import run_guarded

SIZES: Final[dict[Half, int]] = {"dev": 240, "test": 264}
SEED: Final = 12


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


def spoken(half: Half, count: int, seed: int) -> Iterator[Spoken]:
    """The descriptions, each said by its speaker."""
    for i, (description, speaker, group) in enumerate(utterances(half, count, seed)):
        wave = utter(description, speaker, group, np.random.default_rng([seed, SPLITS.index(half), i, 1]))
        yield Spoken(description, speaker.name, group, wave)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.described_corpus", description=__doc__)
    add_arguments(parser, SIZES, SEED)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Write the splits that were asked for."""
    return write_splits(args, SIZES, spoken)


if __name__ == "__main__":
    sys.exit(run_guarded("python -m bench.pocket.described_corpus", lambda: run(parse_args())))
