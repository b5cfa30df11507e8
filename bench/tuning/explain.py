"""Why an utterance came out as it did: probabilities, margin, and the alphas at which the choice flips."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.nbest.table import NBestTable
from bench.tuning.fusion_lines import lines_of, trace_steps
from runtime.fusion import rank
from runtime.fusion_settings import FusionSettings


@dataclass(frozen=True, slots=True)
class ExplainedHypothesis:
    """One hypothesis at the chosen alpha.

    Attributes:
        text: As recognised.
        asr_score: Score of the n-best file.
        asr_probability: Softmax of the scores over the list.
        clip_score: Cosine, None without a picture.
        clip_probability: Softmax of the scaled cosines, None without a picture.
        fused_score: Fused score at alpha; the ASR probability without a picture.
        errors: Word errors against the reference.
    """

    text: str
    asr_score: float
    asr_probability: float
    clip_score: float | None
    clip_probability: float | None
    fused_score: float
    errors: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """One utterance at the chosen alpha.

    Attributes:
        id: Of the utterance.
        reference: As in the file.
        speaker: Or None.
        group: Or None.
        image_id: Or None.
        alpha: The chosen alpha.
        hypotheses: In the order of the n-best list.
        before: Index of the choice at alpha = 0.
        after: Index of the choice at `alpha`.
        margin: Fused score of the choice less that of the runner-up; None with one hypothesis.
        flips: (alpha, index chosen above it) for every change of choice, ascending.
        nearest_flip: The flip closest to `alpha`, None if there is none.
    """

    id: str
    reference: str
    speaker: str | None
    group: str | None
    image_id: str | None
    alpha: float
    hypotheses: tuple[ExplainedHypothesis, ...]
    before: int
    after: int
    margin: float | None
    flips: tuple[tuple[float, int], ...]
    nearest_flip: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)


def explain(table: NBestTable, fusion: FusionSettings) -> Iterator[Explanation]:
    """Explain every utterance, in file order, at the alpha and the scales of `fusion`."""
    alpha, steps = fusion.alpha, trace_steps(lines_of(table, fusion))
    order = np.argsort(steps.utterance, kind="stable")  # stable: ascending in alpha within an utterance
    bounds = np.searchsorted(steps.utterance[order], np.arange(table.size + 1))
    for row, utterance in enumerate(table.utterances):
        begin, end = int(table.first[row]), int(table.first[row + 1])
        mine = order[bounds[row] : bounds[row + 1]]
        flips = tuple((float(steps.alpha[step]), int(steps.after[step]) - begin) for step in mine)
        if steps.start[row] != steps.at_zero[row]:  # a tie at 0 that any weight of the picture resolves
            flips = ((0.0, int(steps.start[row]) - begin), *flips)
        pictured = bool(table.has_image[row])
        cosines = table.cosines[begin:end] if pictured else np.zeros(end - begin)
        scores = fusion.fuse(table.scores[begin:end], cosines, alpha if pictured else 0.0)
        ranked = rank(scores.fused)
        margin = float(scores.fused[ranked[0]] - scores.fused[ranked[1]]) if len(ranked) > 1 else None
        hypotheses = tuple(
            ExplainedHypothesis(
                text=hypothesis.text,
                asr_score=float(table.scores[begin + i]),
                asr_probability=float(scores.asr[i]),
                clip_score=hypothesis.clip_score,
                clip_probability=float(scores.clip[i]) if pictured else None,
                fused_score=float(scores.fused[i]),
                errors=int(table.errors[begin + i]),
            )
            for i, hypothesis in enumerate(utterance.hypotheses)
        )
        yield Explanation(
            id=utterance.id,
            reference=utterance.reference,
            speaker=utterance.speaker,
            group=utterance.group,
            image_id=utterance.image_id,
            alpha=alpha,
            hypotheses=hypotheses,
            before=int(steps.at_zero[row]) - begin,
            after=int(ranked[0]),
            margin=margin,
            flips=flips,
            nearest_flip=min((a for a, _ in flips), key=lambda a: abs(a - alpha), default=None),
        )
