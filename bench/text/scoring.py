"""Error counts of words and characters, each pair of texts aligned once by jiwer.

Corpus error rates are ratios of sums, so once substitutions, deletions and insertions of every
(utterance, hypothesis) are known, any choice of hypotheses is scored by integer sums.

jiwer separates words at the space U+0020 alone. Here any white space does, a no-break or ideographic space, a
tab or a line separator included, in references and hypotheses alike.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

_WHITE_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Error counts of aligned pairs of texts, each array of shape (pairs,), int64.

    Attributes:
        substitutions: Units replaced.
        deletions: Units of the reference that are missing.
        insertions: Units that the reference lacks.
        reference_length: Units of the reference.
    """

    substitutions: IntArray
    deletions: IntArray
    insertions: IntArray
    reference_length: IntArray

    @property
    def errors(self) -> IntArray:
        """Substitutions + deletions + insertions, shape (pairs,)."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Error rate of all pairs together."""
        return error_rate(int(self.errors.sum()), int(self.reference_length.sum()))


def error_rate(errors: int, reference_length: int) -> float:
    """Return errors / reference_length, never clamped, so it can exceed 1.

    Without a single reference unit the ratio has no value; the number of errors (all of them
    insertions) is returned then, as jiwer does.
    """
    return float(errors) if reference_length == 0 else errors / reference_length


def count_word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Align pairs of texts word by word; words are separated by white space of any kind.

    Args:
        references: Normalised references; empty ones are allowed.
        hypotheses: As many normalised hypotheses; empty ones are allowed.
    """
    return _count(_words_apart(references), _words_apart(hypotheses), characters=False)


def count_character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Align pairs of texts character by character.

    Spaces between words count, as in jiwer's CER; white space of every kind is the same character.
    """
    return _count(_spaces_alike(references), _spaces_alike(hypotheses), characters=True)


def _words_apart(texts: Sequence[str]) -> list[str]:
    return [" ".join(text.split()) for text in texts]


def _spaces_alike(texts: Sequence[str]) -> list[str]:
    return [_WHITE_SPACE.sub(" ", text) for text in texts]


def _count(references: Sequence[str], hypotheses: Sequence[str], *, characters: bool) -> ErrorCounts:
    pairs = list(zip(references, hypotheses, strict=True))
    distinct = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
    table = np.zeros((len(distinct), 4), dtype=np.int64)
    if distinct:
        process = jiwer.process_characters if characters else jiwer.process_words
        output: Any = process([pair[0] for pair in distinct], [pair[1] for pair in distinct])
        for row, (reference, chunks) in enumerate(zip(output.references, output.alignments, strict=True)):
            table[row] = _row(len(reference), chunks)
    rows = table[[distinct[pair] for pair in pairs]] if pairs else table
    return ErrorCounts(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])


def _row(reference_length: int, chunks: Sequence[Any]) -> tuple[int, int, int, int]:
    """Sum one alignment: (substitutions, deletions, insertions, reference length)."""
    substitutions = deletions = insertions = 0
    for chunk in chunks:
        if chunk.type == "substitute":
            substitutions += chunk.ref_end_idx - chunk.ref_start_idx
        elif chunk.type == "delete":
            deletions += chunk.ref_end_idx - chunk.ref_start_idx
        elif chunk.type == "insert":
            insertions += chunk.hyp_end_idx - chunk.hyp_start_idx
    return substitutions, deletions, insertions, reference_length
