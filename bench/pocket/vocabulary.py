"""The words of the pocket corpus: nouns that are easily misheard for one another, and colours."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Noun:
    """One kind of object: its name, its plural and the emoji that depicts it."""

    name: str
    plural: str
    emoji: str

    @property
    def article(self) -> str:
        """The indefinite article, `a` or `an`."""
        return "an" if self.name[0] in "aeiou" else "a"


# Each row lists names that sound alike (rhymes and near-rhymes); a name may sound like more than its row.
_ROWS: Final = (
    "bear 🐻, pear 🍐, chair 🪑, deer 🦌/deer, ear 👂",
    "sheep 🐑/sheep, ship 🚢, chick 🐤, chip 🍟",
    "goat 🐐, boat ⛵, coat 🧥, bone 🦴, phone ☎️",
    "mouse 🐭/mice, house 🏠, mouth 👄",
    "cat 🐱, hat 🎩, bat 🦇, rat 🐀, crab 🦀",
    "bee 🐝, key 🔑, tree 🌲, leaf 🍁/leaves",
    "clock ⏰, sock 🧦, rock 🪨, lock 🔒, fox 🦊/foxes, box 📦/boxes",
    "snake 🐍, cake 🎂, snail 🐌, whale 🐋, scale ⚖️, train 🚆, plane ✈️",
    "moon 🌙, spoon 🥄, shoe 👞, boot 👢",
    "dog 🐶, frog 🐸, log 🪵, doll 🪆",
    "car 🚗, star ⭐, cart 🛒, heart ❤️, dart 🎯",
    "duck 🦆, truck 🚚, drum 🥁, bus 🚌/buses, cup ☕, sun 🌞",
    "bread 🍞, bed 🛏️, bell 🔔, shell 🐚, egg 🥚, leg 🦵, pen 🖊️, hen 🐔",
    "ring 💍, king 🤴, pig 🐷, fish 🐟/fish",
    "corn 🌽, horn 📯, door 🚪, ball ⚽",
    "rose 🌹, nose 👃, bow 🏹",
    "kite 🪁, bike 🚲, light 💡, tie 👔, pie 🥧, eye 👁️",
    "crown 👑, clown 🤡, cow 🐮, tower 🗼, flower 🌻",
    "pan 🍳, can 🥫, hand ✋, ant 🐜, lamp 🪔",
    "rocket 🚀, racket 🎾, parrot 🦜, carrot 🥕, rabbit 🐰",
    "lemon 🍋, melon 🍈, candle 🕯️, camel 🐫",
    "seal 🦭, wheel 🛞, shield 🛡️",
)


def _parse(row: str) -> tuple[Noun, ...]:
    nouns = []
    for entry in row.split(", "):
        name, depiction = entry.split(" ")
        emoji, _, plural = depiction.partition("/")
        nouns.append(Noun(name, plural or f"{name}s", emoji))
    return tuple(nouns)


ROWS: Final[tuple[tuple[Noun, ...], ...]] = tuple(_parse(row) for row in _ROWS)
NOUNS: Final[tuple[Noun, ...]] = tuple(noun for row in ROWS for noun in row)

# Of objects (saturated, as a tint) and of backgrounds (paler), RGB.
OBJECT_COLOURS: Final = {
    "red": (225, 40, 40),
    "green": (40, 165, 60),
    "blue": (50, 95, 225),
    "yellow": (240, 205, 40),
    "pink": (245, 120, 190),
}
BACKGROUNDS: Final = {
    "white": (246, 246, 246),
    "black": (25, 25, 28),
    "gray": (150, 150, 155),
    "green": (165, 220, 160),
    "blue": (160, 200, 240),
}
NUMBERS: Final = {1: "one", 2: "two", 3: "three"}


def sound_alikes(noun: Noun) -> tuple[Noun, ...]:
    """The other nouns of the row: what `noun` is most easily misheard for."""
    row = next(row for row in ROWS if noun in row)
    return tuple(other for other in row if other != noun)
