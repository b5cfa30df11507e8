"""Wrong captions of a picture, as a recogniser would write them: what CLIP has to tell from the right one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from bench.pocket.captions import Item, Scene
from bench.pocket.vocabulary import BACKGROUNDS, NOUNS, OBJECT_COLOURS, Noun, sound_alikes

_LETTERS: Final = "abcdefghiklmnoprstuwy"
_DIRECTIONS: Final = ("above", "under", "left of", "right of")


def _other(noun: Noun, rng: np.random.Generator, alike: bool) -> Noun:
    pool = sound_alikes(noun) if alike else tuple(other for other in NOUNS if other != noun)
    return pool[rng.integers(len(pool))]


def _rename(item: Item, rng: np.random.Generator) -> Item:
    alike = bool(rng.random() < 0.65)
    return replace(item, noun=_other(item.noun, rng, alike))


def _with_item(scene: Scene, rng: np.random.Generator, change: Callable[[Item], Item]) -> Scene:
    items = list(scene.items)
    place = int(rng.integers(len(items)))
    items[place] = change(items[place])
    return replace(scene, items=tuple(items))


def _recolour(item: Item, rng: np.random.Generator) -> Item:
    others = [name for name in (None, *OBJECT_COLOURS) if name != item.colour]
    return replace(item, colour=others[rng.integers(len(others))])


def _misplace(scene: Scene, rng: np.random.Generator) -> Scene:
    if scene.relation in _DIRECTIONS:
        return replace(scene, relation=str(rng.choice([r for r in _DIRECTIONS if r != scene.relation])))
    return replace(scene, background=str(rng.choice([b for b in BACKGROUNDS if b != scene.background])))


def _drop_or_add_item(scene: Scene, rng: np.random.Generator) -> Scene:
    items = list(scene.items)
    if len(items) > 1 and rng.random() < 0.5:
        del items[rng.integers(len(items))]
    else:
        items.insert(int(rng.integers(len(items) + 1)), Item(_other(items[0].noun, rng, alike=False)))
    return replace(scene, items=tuple(items[:3]))


def mangle(text: str, rng: np.random.Generator) -> str:
    """`text` with one or two letters of a longer word put in, left out or replaced."""
    words = text.split()
    places = [i for i, word in enumerate(words) if len(word) > 2]
    place = places[rng.integers(len(places))]
    letters = list(words[place])
    for _ in range(int(rng.integers(1, 3))):
        at = int(rng.integers(len(letters)))
        kind = rng.integers(3)
        letter = _LETTERS[rng.integers(len(_LETTERS))]
        if kind == 0:
            letters[at] = letter
        elif kind == 1:
            letters.insert(at, letter)
        elif len(letters) > 1:
            del letters[at]
    words[place] = "".join(letters)
    return " ".join(words)


def _cut(text: str, rng: np.random.Generator) -> str:
    """`text` without its last words."""
    words = text.split()
    return " ".join(words[: max(1, len(words) - int(rng.integers(1, 4)))])


def wrong_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that `scene` does not deserve.

    Half the time a noun is replaced (mostly by one that sounds alike); otherwise a number, colour, place or
    background is wrong, something is missing or added, or a word is misspelt. A background that is only left
    out is no mistake here: pictures do not tell whether it was spoken of.

    Args:
        scene: what the picture shows.
        rng: source of chance.

    Returns:
        A text that differs from `scene.caption()`.
    """
    right = scene.caption()
    while True:
        draw = rng.random()
        if draw < 0.5:
            wrong = _with_item(scene, rng, lambda item: _rename(item, rng)).caption()
            if rng.random() < 0.2:
                wrong = mangle(wrong, rng)
        elif draw < 0.58:
            wrong = _with_item(
                scene, rng, lambda item: replace(item, count=int(rng.integers(1, 4)))
            ).caption()
        elif draw < 0.66:
            wrong = _with_item(scene, rng, lambda item: _recolour(item, rng)).caption()
        elif draw < 0.76:
            wrong = _misplace(scene, rng).caption()
        elif draw < 0.84:
            wrong = _drop_or_add_item(scene, rng).caption()
        elif draw < 0.94:
            wrong = mangle(right, rng)
        else:
            wrong = _cut(replace(scene, background=None).caption(), rng)
        if wrong not in {right, replace(scene, background=None).caption()}:
            return wrong
