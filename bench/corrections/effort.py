"""What a correct sentence costs the person who speaks: taps and seconds, with the picture and without it.

With the picture is measured. Without it is estimated: the list holds the same texts in another order, so the
right text stands elsewhere, and a text at that place costs what texts at such places did cost.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, Final

KINDS: Final = ("confirmed", "picked", "typed", "none")
COSTS: Final = ("taps", "seconds")

Row = Mapping[str, Any]


def effort(rows: Sequence[Row]) -> dict[str, Any]:
    """Report the effort.

    Args:
        rows: Rows of both manifests of a folder of corrections.

    Returns:
        `by_how`: utterances and mean taps and seconds by how the sentence came about. `per_correct_sentence`:
        all taps and seconds, those that led to nothing too, over the sentences that came out; of all rows,
        and, of those whose list was fused with a picture, `with_picture` and `without_picture` with the rank
        of the right text where it was in the list. A cost is null where no row of a kind tells it.
    """
    pictured = [row for row in rows if _has_picture(row)]
    costs = _costs(pictured)
    return {
        "by_how": {how: _summary(rows, how) for how in KINDS},
        "per_correct_sentence": {
            "all": {"utterances": len(rows), **_per_sentence([_kind(row) for row in rows], _costs(rows))},
            "with_picture": _at(pictured, [row.get("rank") for row in pictured], costs),
            "without_picture": _at(pictured, [_rank_without(row) for row in pictured], costs),
        },
    }


def _summary(rows: Sequence[Row], how: str) -> dict[str, Any]:
    return {
        "utterances": sum(_kind(row) == how for row in rows),
        **{name: by_kind.get(how) for name, by_kind in _costs(rows).items()},
    }


def _costs(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the mean of each cost by kind, of the rows that tell it."""
    told: dict[str, dict[str, list[float]]] = {name: {} for name in COSTS}
    for row in rows:
        for name in COSTS:
            if row.get(name) is not None:
                told[name].setdefault(_kind(row), []).append(row[name])
    return {name: {how: mean(values) for how, values in by_kind.items()} for name, by_kind in told.items()}


def _at(
    rows: Sequence[Row], ranks: Sequence[int | None], costs: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Report the lists with the right text at these ranks; None where it is not in the list."""
    listed = [rank for rank in ranks if rank is not None]
    kinds = [_kind_at(row, rank) for row, rank in zip(rows, ranks, strict=True)]
    return {
        "utterances": len(rows),
        "right_first": sum(rank == 0 for rank in listed),
        "right_in_list": len(listed),
        "mean_rank": mean(listed) if listed else None,
        **_per_sentence(kinds, costs),
    }


def _per_sentence(kinds: Sequence[str], costs: dict[str, dict[str, float]]) -> dict[str, float | None]:
    sentences = sum(kind != "none" for kind in kinds)
    result: dict[str, float | None] = {}
    for name, by_kind in costs.items():
        is_known = sentences > 0 and all(kind in by_kind for kind in kinds)
        result[name] = sum(by_kind[kind] for kind in kinds) / sentences if is_known else None
    return result


def _kind(row: Row) -> str:
    kind: str = row["group"]
    return kind


def _kind_at(row: Row, rank: int | None) -> str:
    if rank is None:
        return _kind(row) if _kind(row) == "none" else "typed"
    return "picked" if rank else "confirmed"


def _has_picture(row: Row) -> bool:
    return any(alternative.get("clip_score") is not None for alternative in row.get("shown", ()))


def _rank_without(row: Row) -> int | None:
    """Return the rank of the right text without the picture; None where the list would not hold it."""
    if row.get("rank") is None:
        return None
    rank: int | None = row["shown"][row["rank"]].get("rank_without_picture")
    return rank if rank is not None and rank < len(row["shown"]) else None
