"""An n-best file as arrays: flat lists of hypotheses, their scores and their error counts.

Hypotheses of all utterances stand one after another; `first[u]` is where those of utterance `u` start.
An utterance for which nothing was recognised gets one empty hypothesis, which is what it returns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from bench.nbest.records import NBestHypothesis, NBestUtterance
from bench.text.normalizers import Normalizer
from bench.text.scoring import ErrorCounts, IntArray, count_word_errors
from runtime.errors import NBestFileError
from runtime.fusion_settings import AsrScore

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
NOTHING_RECOGNISED = NBestHypothesis(text="", score=0.0)


@dataclass(frozen=True, slots=True)
class NBestTable:
    """N utterances with H hypotheses in all.

    Attributes:
        utterances: The utterances, in file order.
        first: int64, shape (N + 1,): `first[u]:first[u + 1]` are the hypotheses of utterance u.
        scores: float64, shape (H,): ASR scores (natural log).
        cosines: float64, shape (H,): cosines with the picture, NaN without one.
        shuffled: float64, shape (H,): cosines with another utterance's picture, NaN without one.
        references: Normalised references, N of them.
        texts: Normalised hypotheses, H of them.
        counts: Word errors of the hypotheses, arrays of shape (H,).
        errors: int64, shape (H,): word errors of each hypothesis.
        reference_words: int64, shape (N,).
        has_image: bool, shape (N,): whether clip scores are there.
        normalizer: What was applied to references and hypotheses.
    """

    utterances: tuple[NBestUtterance, ...]
    first: IntArray
    scores: FloatArray
    cosines: FloatArray
    shuffled: FloatArray
    references: list[str]
    texts: list[str]
    counts: ErrorCounts
    reference_words: IntArray
    has_image: BoolArray
    normalizer: Normalizer
    errors: IntArray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", self.counts.errors)

    @property
    def size(self) -> int:
        """Number of utterances."""
        return len(self.utterances)

    @property
    def sizes(self) -> IntArray:
        """Hypotheses of each utterance, int64, shape (N,), at least 1."""
        return np.diff(self.first)

    @property
    def total_words(self) -> int:
        """Words of all references."""
        return int(self.reference_words.sum())


def build_table(
    utterances: Sequence[NBestUtterance], normalizer: Normalizer, asr_score: AsrScore = "mean"
) -> NBestTable:
    """Turn utterances into arrays and count the errors of every hypothesis once.

    Args:
        utterances: At least one.
        normalizer: Applied to references and hypotheses before words are counted.
        asr_score: "mean" takes `score`; "sum" takes the sum of log-probabilities (`asr_sum`, or
            `score` x `num_tokens`).

    Raises:
        NBestFileError: `asr_score` is "sum" and an utterance tells neither sum nor number of tokens.
    """
    lists = [utterance.hypotheses or (NOTHING_RECOGNISED,) for utterance in utterances]
    first = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(hypotheses) for hypotheses in lists], out=first[1:])
    flat = [hypothesis for hypotheses in lists for hypothesis in hypotheses]
    references, texts, counts = _scored(utterances, lists, normalizer)
    if asr_score == "sum":
        scores = [
            log_probability_sum(utterance, hypothesis)
            for utterance, hypotheses in zip(utterances, lists, strict=True)
            for hypothesis in hypotheses
        ]
    else:
        scores = [hypothesis.score for hypothesis in flat]
    return NBestTable(
        utterances=tuple(utterances),
        first=first,
        scores=np.array(scores, dtype=np.float64),
        cosines=_numbers([hypothesis.clip_score for hypothesis in flat]),
        shuffled=_numbers([hypothesis.clip_score_shuffled for hypothesis in flat]),
        references=references,
        texts=texts,
        counts=counts,
        reference_words=counts.reference_length[first[:-1]],
        has_image=np.array([utterance.has_image for utterance in utterances], dtype=np.bool_),
        normalizer=normalizer,
    )


def rescored(table: NBestTable, normalizer: Normalizer) -> NBestTable:
    """Return the same lists scored with another normaliser; the table itself where it has that one."""
    if table.normalizer.name == normalizer.name and table.normalizer.language == normalizer.language:
        return table
    lists = [utterance.hypotheses or (NOTHING_RECOGNISED,) for utterance in table.utterances]
    references, texts, counts = _scored(table.utterances, lists, normalizer)
    return replace(
        table,
        references=references,
        texts=texts,
        counts=counts,
        reference_words=counts.reference_length[table.first[:-1]],
        normalizer=normalizer,
    )


def _scored(
    utterances: Sequence[NBestUtterance],
    lists: Sequence[tuple[NBestHypothesis, ...]],
    normalizer: Normalizer,
) -> tuple[list[str], list[str], ErrorCounts]:
    """Return normalised references, normalised hypotheses and their errors.

    Hypotheses that normalising makes equal stay two hypotheses: it changes their scoring, not the list.
    """
    references = [normalizer.apply(utterance.reference) for utterance in utterances]
    texts = [normalizer.apply(hypothesis.text) for hypotheses in lists for hypothesis in hypotheses]
    paired = [reference for reference, hyps in zip(references, lists, strict=True) for _ in hyps]
    return references, texts, count_word_errors(paired, texts)


def _numbers(values: Sequence[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def log_probability_sum(utterance: NBestUtterance, hypothesis: NBestHypothesis) -> float:
    """Return the sum of a hypothesis' log-probabilities.

    Raises:
        NBestFileError: The file tells neither sum nor number of tokens.
    """
    if hypothesis is NOTHING_RECOGNISED:
        return 0.0
    if hypothesis.asr_sum is not None:
        return hypothesis.asr_sum
    if hypothesis.num_tokens is not None:
        return hypothesis.score * hypothesis.num_tokens
    raise NBestFileError(
        f"utterance {utterance.id!r}: the sum of log-probabilities was asked for, but its hypotheses have "
        "neither asr_sum nor num_tokens; write the n-best file anew, or take the mean as the ASR score"
    )
