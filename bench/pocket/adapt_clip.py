"""Adapt the pocket CLIP to spoken descriptions: `python -m bench.pocket.adapt_clip --output DIR --work DIR`.

Goes on from the weights of `bench/pocket/models/clip` with descriptions instead of captions, written as a
recogniser writes them: with a full stop, "2" for "two", "the" for "a", and words that no scene has.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bench.pocket.captions import Scene
from bench.pocket.clip_batches import Batch, make_batch, training_scene
from bench.pocket.descriptions import draw_description
from bench.pocket.strangers import STRANGERS
from bench.pocket.train_clip import END_SCALE, LATE_PATCH_WEIGHT, WRONG, fit
from bench.pocket.training import add_arguments, run_trainer
from bench.pocket.vocabulary import NOUNS, NUMBERS

START: Final = Path(__file__).parent / "models" / "clip"
_NAMES: Final = frozenset(name for noun in NOUNS for name in (noun.name, noun.plural))
_DIGITS: Final = {word: str(number) for number, word in NUMBERS.items() if number > 1}


def as_recognised(text: str, right: bool, rng: np.random.Generator) -> str:
    """A caption as a recogniser writes it; a wrong one may hold a word that no scene has."""
    words = text.split()
    names = [i for i, word in enumerate(words) if word in _NAMES]
    if not right and names and rng.random() < 0.25:
        words[names[rng.integers(len(names))]] = STRANGERS[rng.integers(len(STRANGERS))]
    if rng.random() < 0.2:
        words = [_DIGITS.get(word, word) for word in words]
    words = ["the" if word in {"a", "an"} and rng.random() < 0.15 else word for word in words]
    if rng.random() < 0.1 and len(words) > 3:
        place = int(rng.integers(1, len(words) - 1))
        words[place] += ","
    return " ".join(words) + (str(rng.choice([".", "!"], p=[0.9, 0.1])) if rng.random() < 0.7 else "")


def description_or_caption(rng: np.random.Generator) -> Scene:
    """Three descriptions for every caption of the first training."""
    return draw_description(rng, "train") if rng.random() < 0.75 else training_scene(rng)


def train(args: argparse.Namespace) -> None:
    """Train to `args.steps` and write the checkpoint, also at every save."""
    from transformers import CLIPModel, CLIPProcessor

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer: Any = CLIPProcessor.from_pretrained(args.start).tokenizer
    model: Any = CLIPModel.from_pretrained(args.start, dtype=torch.float32, attn_implementation="eager")

    def draw(step: int) -> Batch:
        rng = np.random.default_rng([args.seed, 300, step])
        return make_batch(rng, tokenizer, args.batch, WRONG, description_or_caption, as_recognised)

    fit(args, model, tokenizer, draw, lambda _: (END_SCALE, LATE_PATCH_WEIGHT), warm_up=50)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.adapt_clip", description=__doc__)
    add_arguments(parser, steps=700, batch=48, rate=4e-4)
    parser.add_argument("--start", type=Path, default=START, help="checkpoint to go on from")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_trainer("python -m bench.pocket.adapt_clip", train, parse_args()))
