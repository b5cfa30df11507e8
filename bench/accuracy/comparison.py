"""What another precision or window of a bundle changes: n-best lists, word errors, the best alpha."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.nbest.records import NBestUtterance
from bench.nbest.table import NBestTable, build_table
from bench.text.normalizers import NOTEBOOK, Normalizer
from bench.text.normalizers import normalizer as normalizer_named
from bench.text.scoring import error_rate
from bench.tuning.fusion_lines import fusion_lines, trace_steps
from bench.tuning.surface import error_surface
from runtime.errors import NBestFileError

LENGTH_LIMITS_S = (2.0, 4.0, 8.0, 16.0, math.inf)  # upper ends of the classes of length
NORMAL_95 = 1.959964  # 97.5 % of a normal distribution lie below so many deviations
ALPHAS = np.round(np.arange(0.0, 1.05, 0.05), 2)


@dataclass(frozen=True, slots=True)
class ListChange:
    """How the n-best list of one utterance differs between two precisions.

    Attributes:
        id: Of the utterance.
        first_changed: Whether the first hypothesis has another text.
        kendall_tau: Agreement of the two orders over the texts that both lists have, tau-b in [-1, 1];
            None where fewer than two are shared, or all scores of a list are equal.
        overlap: Shared texts as a share of the longer list, in [0, 1].
        score_difference: Largest |difference of scores| over the shared texts; None where none is shared.
    """

    id: str
    first_changed: bool
    kendall_tau: float | None
    overlap: float
    score_difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return {name: getattr(self, name) for name in self.__slots__}


def kendall_tau_b(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Kendall's rank correlation with correction for ties (Kendall 1945).

    tau_b = (concordant - discordant) / sqrt((pairs - ties in x) * (pairs - ties in y))

    Args:
        x: Scores.
        y: As many scores of the same things.

    Returns:
        In [-1, 1]; None where either side has no two different values.
    """
    concordance, in_x, in_y = 0, 0, 0
    for i, j in itertools.combinations(range(len(x)), 2):
        sign_x = (x[i] > x[j]) - (x[i] < x[j])
        sign_y = (y[i] > y[j]) - (y[i] < y[j])
        concordance += sign_x * sign_y
        in_x += sign_x != 0
        in_y += sign_y != 0
    return concordance / math.sqrt(in_x * in_y) if in_x and in_y else None


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927): what the share of all such utterances may be.

    Args:
        count: Utterances that have a property.
        total: Utterances looked at, at least one.
    """
    share, spread = count / total, NORMAL_95**2 / total
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def list_change(reference: NBestUtterance, candidate: NBestUtterance) -> ListChange:
    """Compare two n-best lists of one utterance. Texts within a list are distinct."""
    old = {hypothesis.text: hypothesis.score for hypothesis in reference.hypotheses}
    new = {hypothesis.text: hypothesis.score for hypothesis in candidate.hypotheses}
    shared = [text for text in old if text in new]
    x, y = [old[text] for text in shared], [new[text] for text in shared]
    longer = max(len(old), len(new))
    return ListChange(
        id=reference.id,
        first_changed=_first(reference) != _first(candidate),
        kendall_tau=kendall_tau_b(x, y),
        overlap=len(shared) / longer if longer else 1.0,
        score_difference=max((abs(a - b) for a, b in zip(x, y, strict=True)), default=None),
    )


def _first(utterance: NBestUtterance) -> str | None:
    """Return the first text; None, which differs from every text, for an empty list."""
    return utterance.hypotheses[0].text if utterance.hypotheses else None


def compare_accuracy(
    reference: Sequence[NBestUtterance], candidate: Sequence[NBestUtterance], normalizer: Normalizer
) -> dict[str, Any]:
    """Compare the n-best lists of two precisions over the same utterances.

    Args:
        reference: Lists of the reference precision.
        candidate: Lists of the other precision, same utterances in any order.
        normalizer: For word errors; hypotheses are compared as they are.

    Returns:
        JSON-serialisable, see docs/comparing.md.

    Raises:
        NBestFileError: The two sides hold different utterances, or none.
    """
    by_id = {utterance.id: utterance for utterance in candidate}
    names = [utterance.id for utterance in reference]
    if not names or set(names) != set(by_id):
        odd = sorted(set(names) ^ set(by_id))
        raise NBestFileError(
            f"the two precisions hold {len(names)} and {len(by_id)} utterances, which differ in "
            f"{', '.join(odd[:5]) or 'nothing'}; expected the same ones, at least one"
        )
    ordered = [by_id[name] for name in names]
    changes = [list_change(old, new) for old, new in zip(reference, ordered, strict=True)]
    changed = sum(change.first_changed for change in changes)
    before, after = _error_figures(reference, normalizer), _error_figures(ordered, normalizer)
    notebook = normalizer_named(NOTEBOOK)
    return {
        "num_samples": len(names),
        **_both_sides(before, after, normalizer),
        "notebook": _both_sides(
            _error_figures(reference, notebook), _error_figures(ordered, notebook), notebook
        ),
        "best_alpha_change": _difference(after["best_alpha"], before["best_alpha"]),
        "best_alpha_exact_change": _difference(after["best_alpha_exact"], before["best_alpha_exact"]),
        "first_changed": changed / len(changes),
        "first_changed_interval": share_interval(changed, len(changes)),
        "kendall_tau": _spread([c.kendall_tau for c in changes if c.kendall_tau is not None]),
        "overlap": _spread([change.overlap for change in changes]),
        "score_difference": _spread([c.score_difference for c in changes if c.score_difference is not None]),
        "by_length": _by_length(reference, ordered, changes, normalizer),
        "per_utterance": [change.to_dict() for change in changes],
    }


def _both_sides(before: dict[str, Any], after: dict[str, Any], normalizer: Normalizer) -> dict[str, Any]:
    """Return the error figures of both sides, what they differ by, and the normaliser they depend on."""
    return {
        "normalizer": normalizer.to_dict(),
        "reference": before,
        "candidate": after,
        "wer_difference": after["wer"] - before["wer"],
    }


def _by_length(
    reference: Sequence[NBestUtterance],
    candidate: Sequence[NBestUtterance],
    changes: Sequence[ListChange],
    normalizer: Normalizer,
) -> list[dict[str, Any]]:
    """Return share of changed first hypotheses and both WERs by the utterances' length."""
    classes, low = [], 0.0
    for high in LENGTH_LIMITS_S:
        rows = [i for i, each in enumerate(reference) if low <= (each.duration_s or 0.0) < high]
        if rows:
            sides = ([side[i] for i in rows] for side in (reference, candidate))
            before, after = (_first_wer(side, normalizer) for side in sides)
            classes.append(
                {
                    "seconds": f"{low:g} s and more" if high == math.inf else f"{low:g} to {high:g} s",
                    "count": len(rows),
                    "first_changed": sum(changes[i].first_changed for i in rows) / len(rows),
                    "wer": [before, after],
                    "wer_difference": after - before,
                }
            )
        low = high
    return classes


def _first_wer(utterances: Sequence[NBestUtterance], normalizer: Normalizer) -> float:
    """Return the WER of the first hypotheses."""
    return float(_error_figures(utterances, normalizer)["wer"])


def _error_figures(utterances: Sequence[NBestUtterance], normalizer: Normalizer) -> dict[str, Any]:
    """Return WER of the first hypotheses and the best alpha, None without any picture."""
    table = build_table(utterances, normalizer)
    errors = int(table.errors[fusion_lines(table).choices(0.0)].sum())
    figures: dict[str, Any] = {"wer": error_rate(errors, table.total_words)}
    if not table.has_image.any():
        return figures | {"best_alpha": None, "best_alpha_exact": None, "best_wer": None}
    return figures | _best_alpha(table)


def _best_alpha(table: NBestTable) -> dict[str, float]:
    """Return the notebook's choice (first minimum of the grid) and the middle of the widest best range."""
    lines = fusion_lines(table)
    grid = [int(table.errors[lines.choices(float(alpha))].sum()) for alpha in ALPHAS]
    surface = error_surface(trace_steps(lines), table.errors, table.reference_words)
    return {
        "best_alpha": float(ALPHAS[int(np.argmin(grid))]),
        "best_alpha_exact": surface.widest_best_range().midpoint,
        "best_wer": error_rate(surface.best_errors, table.total_words),
    }


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Return mean, least and greatest, and how many values there are."""
    if not values:
        return {"mean": None, "least": None, "greatest": None, "count": 0}
    return {
        "mean": math.fsum(values) / len(values),
        "least": min(values),
        "greatest": max(values),
        "count": len(values),
    }


def first_changes(
    reference: Sequence[NBestUtterance], candidate: Sequence[NBestUtterance], limit: int
) -> list[tuple[str, str, str]]:
    """Return (id, reference's first text, candidate's first text) of utterances whose first text changed."""
    by_id = {utterance.id: utterance for utterance in candidate}
    pairs = [(old.id, _first(old) or "", _first(by_id[old.id]) or "") for old in reference]
    return [(name, old, new) for name, old, new in pairs if old != new][:limit]
