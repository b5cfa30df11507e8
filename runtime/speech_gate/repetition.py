"""Does a text run in a loop? Autoregressive models write "Thank you. Thank you. Thank you." without end.

The mean log-probability of such a text is high, because a loop is the surer the longer it is.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from runtime.results import SegmentTranscription

# A text that zlib shrinks more repeats itself without end (openai/whisper, `compression_ratio_threshold`).
MOST_COMPRESSION: Final = 2.4
# From how many repetitions in a row a text runs in a loop. People say "no no no" and "very very".
WORD_REPEATS: Final = 6
PHRASE_REPEATS: Final = 4
LONGEST_PHRASE: Final = 6  # words
# Chinese and Japanese write no blanks: what stands between two marks counts as a word.
_BETWEEN_WORDS: Final = re.compile(r"[\s。、！？，．…]+")


class Loop(NamedTuple):
    """A phrase that is said again and again.

    Attributes:
        phrase: Its words, in lower case.
        times: How often it stands there in a row, at least `PHRASE_REPEATS`.
        first: Place of its first word among the words of the text.
        behind: Place behind its last one.
    """

    phrase: str
    times: int
    first: int
    behind: int


def repeats_itself(text: str) -> bool:
    """Whether a text runs in a loop.

    Either zlib shrinks it to less than 1 / 2.4, which short texts never reach; or it ends in one word said
    six times, or in two to six words said four times: "thank you thank you thank you thank you".
    """
    words = words_of(text)
    return _is_compressible(text) or any(loop.behind == len(words) for loop in loops(words))


def loops(words: Sequence[str]) -> Iterator[Loop]:
    """Yield the loops of a text, by the length of their phrase; "a a" repeats itself where "a" does."""
    for size in range(1, LONGEST_PHRASE + 1):
        first = 0
        for place in range(size, len(words) + 1):
            if place < len(words) and words[place] == words[place - size]:
                continue
            times = (place - first) // size
            if times >= (WORD_REPEATS if size == 1 else PHRASE_REPEATS):
                # What ends in the middle of the phrase began in the middle of it as well.
                begin = place - times * size
                yield Loop(" ".join(words[begin : begin + size]), times, begin, place)
            first = place - size + 1


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are compared: without case and the marks around them."""
    words = (word.strip(".,;:!?…-") for word in _BETWEEN_WORDS.split(text.casefold()))
    return [word for word in words if word]


def loop_warning(segments: Sequence[SegmentTranscription]) -> str | None:
    """Return a warning of the longest loop in the texts of a recording, also of one over several segments."""
    words = [(word, segment) for segment in segments for word in words_of(segment.transcription)]
    longest = max(loops([word for word, _ in words]), key=lambda loop: loop.behind - loop.first, default=None)
    if longest is not None:
        told = f"{longest.phrase!r} is there {longest.times} times in a row"
        start_s, end_s = words[longest.first][1].start_s, words[longest.behind - 1][1].end_s
    else:
        segment = next((s for s in segments if _is_compressible(s.transcription)), None)
        if segment is None:
            return None
        told, start_s, end_s = "the same is there again and again", segment.start_s, segment.end_s
    return f"Repeats itself: {told}, as in the loops of a model; listen to {start_s:.1f} to {end_s:.1f} s"


def _is_compressible(text: str) -> bool:
    content = text.encode()
    return len(content) > MOST_COMPRESSION * len(zlib.compress(content))
