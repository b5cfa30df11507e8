"""The grammar of scenes and captions, and which split a sentence belongs to."""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from bench.pocket.vocabulary import BACKGROUNDS, NOUNS, NUMBERS, OBJECT_COLOURS, Noun, sound_alikes

Split = Literal["train", "dev", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "dev", "test")

# How the first object stands to the second. "and" and "next to" leave the direction open.
RELATIONS: Final = ("and", "next to", "above", "under", "left of", "right of")
OPENINGS: Final = ("here is", "there is", "i see", "look at")
MAX_WORDS: Final = 10


@dataclass(frozen=True)
class Item:
    """`count` objects of one noun, tinted when `colour` is given."""

    noun: Noun
    count: int = 1
    colour: str | None = None

    def phrase(self) -> str:
        """The noun phrase: "a red bear", "three sheep"."""
        words = [self.colour] if self.colour else []
        words.append(self.noun.name if self.count == 1 else self.noun.plural)
        if self.count > 1:
            return " ".join([NUMBERS[self.count], *words])
        article = self.noun.article if self.colour is None else "a"
        return " ".join([article, *words])


@dataclass(frozen=True)
class Scene:
    """What a picture shows and what its caption says of it."""

    items: tuple[Item, ...]
    relation: str = "and"
    background: str | None = None
    opening: str | None = None

    def caption(self) -> str:
        """The sentence, in lower case and without punctuation."""
        phrases = [item.phrase() for item in self.items]
        parts = [self.opening] if self.opening else []
        parts.append(phrases[0])
        if len(phrases) > 1:
            parts += [self.relation, phrases[1]]
        if len(phrases) > 2:
            parts += ["and", phrases[2]]
        if self.background:
            parts.append(f"on {self.background}")
        return " ".join(parts)


def split_of(sentence: str) -> Split:
    """The only split that may contain `sentence`: decided by its hash, 80 % train, 8 % dev, 12 % test."""
    bucket = hashlib.sha256(sentence.encode()).digest()[0] % 100
    if bucket < 80:
        return "train"
    return "dev" if bucket < 88 else "test"


def _draw_nouns(rng: np.random.Generator, count: int) -> list[Noun]:
    """Distinct nouns; now and then a pair that sounds alike, so that position does not give it away."""
    first = NOUNS[rng.integers(len(NOUNS))]
    drawn = [first]
    while len(drawn) < count:
        pool = sound_alikes(first) if rng.random() < 0.15 else NOUNS
        other = pool[rng.integers(len(pool))]
        if other not in drawn:
            drawn.append(other)
    return drawn


def _draw_background(rng: np.random.Generator, used: set[str | None]) -> str | None:
    """A background to be named in the caption, in one caption of five."""
    if rng.random() >= 0.2:
        return None
    return str(rng.choice([name for name in BACKGROUNDS if name not in used]))


def _draw_once(rng: np.random.Generator) -> Scene:
    kinds = int(rng.choice([1, 2, 3], p=[0.25, 0.6, 0.15]))
    counts = [1] * kinds
    if kinds == 1:
        counts = [int(rng.choice([1, 2, 3], p=[0.4, 0.3, 0.3]))]
    elif kinds == 2 and rng.random() < 0.2:
        counts[rng.integers(2)] = 2
    colours = [str(rng.choice(list(OBJECT_COLOURS))) if rng.random() < 0.3 else None for _ in counts]
    items = tuple(Item(*entry) for entry in zip(_draw_nouns(rng, kinds), counts, colours, strict=True))
    relation = "and"
    if kinds == 2 and counts == [1, 1]:
        relation = str(rng.choice(RELATIONS, p=[0.3, 0.2, 0.125, 0.125, 0.125, 0.125]))
    elif kinds == 3:
        relation = "with"
    opening = str(rng.choice(OPENINGS)) if rng.random() < 0.25 else None
    return Scene(items, relation, _draw_background(rng, set(colours)), opening)


def draw_scene(rng: np.random.Generator, split: Split) -> Scene:
    """A scene whose caption belongs to `split`.

    Args:
        rng: source of all chance.
        split: one of `SPLITS`.

    Returns:
        A scene with a caption of at most `MAX_WORDS` words.
    """
    while True:
        scene = _draw_once(rng)
        caption = scene.caption()
        if len(caption.split()) <= MAX_WORDS and split_of(caption) == split:
            return scene
