"""Accuracy against latency: which settings are worth choosing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Point:
    """One setting, measured.

    Attributes:
        precision: Of the weights.
        beams: Beams and hypotheses.
        wer: Corpus word error rate of the text returned, as a ratio.
        milliseconds: Median latency of an utterance.
        options: Further settings that differ between points, as the report names them.
        notebook_wer: The same as the notebook scores texts; None where it was not counted.
    """

    precision: str
    beams: int
    wer: float
    milliseconds: float
    options: str = ""
    notebook_wer: float | None = None


def pareto_front(points: Sequence[Point]) -> list[bool]:
    """Tell for each point whether no other is at least as good in both and better in one."""
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(other: Point, point: Point) -> bool:
    no_worse = other.wer <= point.wer and other.milliseconds <= point.milliseconds
    return no_worse and (other.wer < point.wer or other.milliseconds < point.milliseconds)


def pareto_report(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return the points for a report, fastest first, each with whether it is on the front."""
    marked = zip(points, pareto_front(points), strict=True)
    ordered = sorted(marked, key=lambda pair: (pair[0].milliseconds, pair[0].wer))
    return [asdict(point) | {"on_front": on_front} for point, on_front in ordered]


def pareto_table(report: Sequence[dict[str, Any]]) -> str:
    """Return the points as a text table; a star marks the front."""
    lines = [f"{'precision':<10}{'beams':>6}{'options':>16}{'ms':>10}{'WER %':>9}{'notebook':>10}  front"]
    lines += [
        f"{row['precision']:<10}{row['beams']:>6}{row['options'] or '–':>16}{row['milliseconds']:>10.1f}"
        f"{row['wer'] * 100:>9.2f}{_percent(row['notebook_wer']):>10}  {'*' if row['on_front'] else ''}"
        for row in report
    ]
    return "\n".join(lines)


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate * 100:.2f}"
