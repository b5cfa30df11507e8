"""What a choice of hypotheses is worth: error rates as a whole, by label, and at the limits of the lists."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.nbest.records import NBestUtterance
from bench.nbest.table import NBestTable
from bench.text.scoring import IntArray, count_character_errors, error_rate
from bench.tuning.fusion_lines import Steps


@dataclass(frozen=True, slots=True)
class ScoredChoice:
    """One hypothesis for each of N utterances, with its errors.

    Attributes:
        pairs: int64, shape (N,): flat index of the chosen hypothesis.
        word_errors: int64, shape (N,).
        character_errors: int64, shape (N,).
        reference_characters: int64, shape (N,).
    """

    pairs: IntArray
    word_errors: IntArray
    character_errors: IntArray
    reference_characters: IntArray


def score_choice(table: NBestTable, pairs: IntArray) -> ScoredChoice:
    """Look up word errors and count character errors of a choice."""
    characters = count_character_errors(table.references, [table.texts[pair] for pair in pairs])
    return ScoredChoice(pairs, table.errors[pairs], characters.errors, characters.reference_length)


def corpus_wer(table: NBestTable, pairs: IntArray) -> float:
    """WER of a choice, never clamped."""
    return error_rate(int(table.errors[pairs].sum()), table.total_words)


def rates(table: NBestTable, choice: ScoredChoice, rows: IntArray | None = None) -> dict[str, Any]:
    """Return WER, CER and counts over all utterances, or over some rows."""
    chosen = np.arange(table.size) if rows is None else rows
    words = int(table.reference_words[chosen].sum())
    pairs = choice.pairs[chosen]
    return {
        "utterances": len(chosen),
        "reference_words": words,
        "wer": error_rate(int(choice.word_errors[chosen].sum()), words),
        "cer": error_rate(
            int(choice.character_errors[chosen].sum()), int(choice.reference_characters[chosen].sum())
        ),
        "substitutions": int(table.counts.substitutions[pairs].sum()),
        "deletions": int(table.counts.deletions[pairs].sum()),
        "insertions": int(table.counts.insertions[pairs].sum()),
    }


def rates_by_label(
    table: NBestTable,
    label: Callable[[NBestUtterance], str | None],
    baseline: ScoredChoice,
    chosen: ScoredChoice,
) -> dict[str, dict[str, Any]]:
    """Return rates before and after, and the limits of the lists, for every label (group or speaker), sorted.

    Utterances without a label count nowhere; without any label the result is empty.
    """
    rows_of: dict[str, list[int]] = {}
    for row, utterance in enumerate(table.utterances):
        name = label(utterance)
        if name is not None:
            rows_of.setdefault(name, []).append(row)
    lowest, distinct = np.minimum.reduceat(table.errors, table.first[:-1]), distinct_texts(table)
    result = {}
    for name in sorted(rows_of):
        rows = np.array(rows_of[name], dtype=np.int64)
        before, after = rates(table, baseline, rows), rates(table, chosen, rows)
        words = int(table.reference_words[rows].sum())
        result[name] = after | {
            "baseline_wer": before["wer"],
            "baseline_cer": before["cer"],
            "oracle_wer": error_rate(int(lowest[rows].sum()), words),
            "distinct_texts": float(distinct[rows].mean()),
        }
    return result


def distinct_texts(table: NBestTable) -> IntArray:
    """Return how many different texts the normaliser leaves of every list, int64, shape (N,)."""
    bounds = itertools.pairwise(table.first)
    return np.array([len(set(table.texts[begin:end])) for begin, end in bounds], dtype=np.int64)


def list_limits(table: NBestTable, steps: Steps) -> dict[str, float]:
    """Return what could be reached: best and worst of every list, and the best that some alpha chooses."""
    begins = table.first[:-1]
    lowest = np.minimum.reduceat(table.errors, begins)
    highest = np.maximum.reduceat(table.errors, begins)
    reached = np.minimum.reduce([table.errors[p] for p in (steps.at_zero, steps.start, steps.at_one)])
    for pairs in (steps.at, steps.after):
        np.minimum.at(reached, steps.utterance, table.errors[pairs])
    words = table.total_words
    return {
        "oracle_wer": error_rate(int(lowest.sum()), words),
        "anti_oracle_wer": error_rate(int(highest.sum()), words),
        "envelope_oracle_wer": error_rate(int(reached.sum()), words),
        "distinct_texts": float(distinct_texts(table).mean()),
    }


def oracle_by_depth(table: NBestTable) -> list[dict[str, Any]]:
    """Return the oracle WER of the first n hypotheses by ASR score, for n = 1 up to the longest list."""
    sizes = table.sizes
    owner = np.repeat(np.arange(table.size), sizes)
    order = np.lexsort((-table.scores, owner))  # stable: equal scores keep the list's order
    rank = np.arange(len(owner)) - table.first[owner]
    lowest = np.full(table.size, np.iinfo(np.int64).max)
    curve = []
    for depth in range(int(sizes.max())):
        pairs = order[rank == depth]
        np.minimum.at(lowest, owner[pairs], table.errors[pairs])
        curve.append(
            {"hypotheses": depth + 1, "oracle_wer": error_rate(int(lowest.sum()), table.total_words)}
        )
    return curve


def changed_utterances(
    table: NBestTable, baseline: ScoredChoice, chosen: ScoredChoice
) -> dict[str, list[dict[str, Any]]]:
    """List utterances with fewer ("improved") and with more ("worsened") errors, largest change first."""
    difference = chosen.word_errors - baseline.word_errors
    lists: dict[str, list[dict[str, Any]]] = {"improved": [], "worsened": []}
    for row in np.argsort(-np.abs(difference), kind="stable"):
        if difference[row] == 0:
            break
        lists["improved" if difference[row] < 0 else "worsened"].append(
            {
                "id": table.utterances[row].id,
                "reference": table.references[row],
                "before": table.texts[baseline.pairs[row]],
                "after": table.texts[chosen.pairs[row]],
                "errors_before": int(baseline.word_errors[row]),
                "errors_after": int(chosen.word_errors[row]),
            }
        )
    return lists
