"""How the words of the corpus sound, as espeak-ng spells them: targets of the auxiliary CTC loss."""

import shutil
import subprocess
from typing import Final

from bench.pocket.captions import OPENINGS, RELATIONS
from bench.pocket.vocabulary import BACKGROUNDS, NOUNS, NUMBERS, OBJECT_COLOURS
from runtime.errors import AudioError

_STRESS: Final = "',%=_:|;#\""


def words() -> list[str]:
    """Every word that a caption can have, sorted."""
    names = [name for noun in NOUNS for name in (noun.name, noun.plural)]
    phrases = [*RELATIONS, *OPENINGS, *NUMBERS.values(), *OBJECT_COLOURS, *BACKGROUNDS, "a an on with"]
    return sorted({*names, *(word for phrase in phrases for word in phrase.split())})


def lexicon(voice: str = "en-us") -> dict[str, tuple[str, ...]]:
    """Word → phonemes, without stress.

    Raises:
        AudioError: espeak-ng is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise AudioError("espeak-ng is not there; install the package espeak-ng to train")
    found = {}
    for word in words():
        command = [program, "-q", "-x", "--sep=_", "-v", voice, word]
        spelt = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[word] = tuple(
            p for part in spelt.strip().replace(" ", "_").split("_") if (p := part.strip(_STRESS))
        )
    return found
