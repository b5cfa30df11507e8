"""Spoken descriptions: the scenes of the captions as people word them when they are asked what they see."""

from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from bench.pocket.captions import Scene, Split, draw_scene, split_of

# (probability, with a single thing first, with several things first)
OPENINGS: Final[tuple[tuple[float, str, str], ...]] = (
    (0.05, "", ""),
    (0.20, "there is", "there are"),
    (0.10, "i see", "i see"),
    (0.25, "the picture shows", "the picture shows"),
    (0.05, "in the picture there is", "in the picture there are"),
    (0.35, "this is a picture of", "this is a picture of"),
)
_RELATIONS: Final = {"left of": "to the left of", "right of": "to the right of"}
MAX_WORDS: Final = 16


@dataclass(frozen=True)
class Description(Scene):
    """A scene with the way in which somebody words it; its own `opening` is not used.

    Attributes:
        wording: Which of `OPENINGS` the sentence begins with.
    """

    wording: int = 0

    def caption(self) -> str:
        """The sentence, in lower case and without punctuation; numbers are words."""
        relation = _RELATIONS.get(self.relation, self.relation)
        things = Scene(self.items, relation).caption()
        ground = f"on a {self.background} background" if self.background else ""
        return " ".join(filter(None, (self.opening_words(), things, ground)))

    def opening_words(self) -> str:
        """What the sentence begins with, "there is"; it agrees with the number of the first things."""
        _, one, several = OPENINGS[self.wording]
        return one if self.items[0].count == 1 else several

    def plain(self) -> str:
        """The caption without any opening: what decides which split all descriptions of a scene belong to."""
        return Scene(self.items, self.relation, self.background).caption()


def describe(scene: Scene, rng: np.random.Generator) -> Description:
    """Word a scene, with an opening drawn from `rng`."""
    values = {field.name: getattr(scene, field.name) for field in fields(Scene)} | {"opening": None}
    return Description(**values, wording=int(rng.choice(len(OPENINGS), p=[entry[0] for entry in OPENINGS])))


def draw_description(rng: np.random.Generator, split: Split) -> Description:
    """A description of a scene whose plain caption belongs to `split`; at most `MAX_WORDS` words."""
    while True:
        found = describe(draw_scene(rng, split), rng)
        if split_of(found.plain()) == split and len(found.caption().split()) <= MAX_WORDS:
            return found


def draw_plain_description(rng: np.random.Generator, split: Split) -> Description:
    """A description as the corpus has them: one kind of thing or two, neither backgrounds nor left and right.

    Whether a picture can help depends on the list of hypotheses, and five of them cover the readings of one
    or two unclear words, not those of a long sentence.
    """
    while True:
        found = draw_description(rng, split)
        kinds = len(found.items)
        plain = found.background is None and found.relation not in _RELATIONS
        if plain and kinds < 3 and (kinds == 1 or rng.random() < 0.5):
            return found
