"""What changed between two JSON reports, and whether it is too much: for continuous integration."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench.measure.metrics import (
    ComparisonError,
    Metric,
    circumstances,
    depends_on_words,
    larger_is_better,
    metrics_by_name,
)
from runtime.bundle.json_files import parse_json
from runtime.commands.console import EXIT_DONE, EXIT_FAULT
from runtime.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Threshold:
    """The largest worsening that is let pass.

    Attributes:
        pattern: Metric name; `*` and `?` as in file names.
        percent: Of the first report's value.
    """

    pattern: str
    percent: float

    @classmethod
    def parse(cls, text: str) -> "Threshold":
        """Read "metric=percent".

        Raises:
            SettingsError: It is not of that form, or the percentage is negative or no number.
        """
        pattern, separator, number = text.rpartition("=")
        try:
            percent = float(number)
        except ValueError:
            percent = math.nan
        if not separator or not pattern or not (math.isfinite(percent) and percent >= 0):
            raise SettingsError(
                f"threshold {text!r} cannot be read; expected metric=percent, "
                "such as 'stages.whole.percentiles.p50.seconds=10'"
            )
        return cls(pattern, percent)


@dataclass(frozen=True, slots=True)
class Change:
    """One metric in two reports.

    Attributes:
        name: Path of the metric, parts joined by dots.
        before: Value of the first report, None where it is missing.
        after: Value of the second report, None where it is missing.
        limit: Largest worsening let pass, percent; None without a threshold.
        measure: As in `Metric`; empty where it is the name.
    """

    name: str
    before: float | None
    after: float | None
    limit: float | None = None
    measure: str = ""

    @property
    def percent(self) -> float | None:
        """Change in percent of the first value; None where either is missing, infinite from zero."""
        if self.before is None or self.after is None:
            return None
        if self.before == self.after:
            return 0.0
        if self.before == 0:
            return math.copysign(math.inf, self.after)
        return (self.after - self.before) / abs(self.before) * 100

    @property
    def worsening(self) -> float:
        """Percent by which the metric got worse, negative where it got better. A lost metric is the worst."""
        percent = self.percent
        if percent is None:
            return math.inf if self.after is None else 0.0
        return -percent if larger_is_better(self.measure or self.name) else percent

    @property
    def crossed(self) -> bool:
        """Whether the metric got worse by more than its threshold."""
        return self.limit is not None and self.worsening > self.limit


def compare(
    before: Mapping[str, Any], after: Mapping[str, Any], thresholds: Sequence[Threshold] = ()
) -> list[Change]:
    """Compare two reports.

    Args:
        before: The report that counts as the standard.
        after: The newer report.
        thresholds: The last one that matches a metric holds for it.

    Returns:
        All metrics, in the order of the first report; those that only the second has at the end.

    Raises:
        ComparisonError: The reports have different schemas; or a threshold matches no metric, or an error
            rate that the two reports scored with different normalisers; or a report has two numbers of one
            name.
    """
    if before.get("schema") != after.get("schema"):
        raise ComparisonError(
            f"the reports have schemas {before.get('schema')!r} and {after.get('schema')!r}; "
            "expected the same"
        )
    old, new = metrics_by_name(before), metrics_by_name(after)
    names = [*old, *(name for name in new if name not in old)]
    for threshold in thresholds:
        if not any(fnmatchcase(name, _escaped(threshold.pattern)) for name in names):
            raise ComparisonError(
                f"threshold {threshold.pattern!r} matches no metric; metrics are {', '.join(names[:8])}, …"
            )
    changes = [_change(name, old.get(name), new.get(name), thresholds) for name in names]
    if sides := other_normalizers(before, after):
        unlike = [
            change.name for change in changes if change.limit is not None and depends_on_words(change.measure)
        ]
        if unlike:
            raise ComparisonError(
                f"{unlike[0]} has a threshold, but the reports score texts with {sides[0]!r} and "
                f"{sides[1]!r}; measure one of them again with the other's --normalizer, or set the "
                "threshold on 'notebook.*'"
            )
    return changes


def _change(
    name: str, before: Metric | None, after: Metric | None, thresholds: Sequence[Threshold]
) -> Change:
    known = before or after
    return Change(
        name,
        None if before is None else before.value,
        None if after is None else after.value,
        _limit(name, thresholds),
        "" if known is None else known.measure,
    )


def other_normalizers(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the names of both reports' normalisers where they differ, else None."""
    old, new = (_normalizer_name(report.get("normalizer")) for report in (before, after))
    return (old, new) if old and new and old != new else None


def _normalizer_name(stated: object) -> str:
    """Read the name, which older reports state without a description."""
    name = stated.get("name") if isinstance(stated, Mapping) else stated
    return name if isinstance(name, str) else ""


def _escaped(pattern: str) -> str:
    """Let square brackets stand for themselves: names of list entries have them."""
    return pattern.replace("[", "[[]")


def _limit(name: str, thresholds: Sequence[Threshold]) -> float | None:
    found = [threshold.percent for threshold in thresholds if fnmatchcase(name, _escaped(threshold.pattern))]
    return found[-1] if found else None


def table(changes: Sequence[Change], show_all: bool) -> str:
    """Return a text table: metrics that changed or have a threshold, or all."""
    shown = [
        change for change in changes if show_all or change.limit is not None or change.before != change.after
    ]
    if not shown:
        return "no metric changed"
    width = max(len(change.name) for change in shown)
    lines = [f"{'metric':<{width}}{'before':>14}{'after':>14}{'change':>10}{'limit':>9}"]
    for change in shown:
        percent = "" if change.percent is None else f"{change.percent:+.1f} %"
        limit = "" if change.limit is None else f"{change.limit:g} %"
        mark = "  CROSSED" if change.crossed else ""
        values = f"{_shown(change.before):>14}{_shown(change.after):>14}{percent:>10}{limit:>9}"
        lines.append(f"{change.name:<{width}}{values}{mark}")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:.6g}"


def read_report(path: Path) -> dict[str, Any]:
    """Read a JSON report.

    Raises:
        ComparisonError: It is missing, no JSON, or no object.
    """
    try:
        report = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ComparisonError(f"{path} cannot be read as a JSON report: {error}") from error
    if not isinstance(report, dict):
        raise ComparisonError(f"{path} holds a {type(report).__name__}; expected a report, a JSON object")
    return report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m bench compare`."""
    parser.add_argument("before", type=Path, metavar="A.json", help="report that counts as the standard")
    parser.add_argument("after", type=Path, metavar="B.json", help="report to compare with it")
    parser.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="METRIC=PERCENT",
        help="exit with status 1 when the metric got worse by more (repeatable; * and ? as in file names)",
    )
    parser.add_argument("--all", action="store_true", help="show unchanged metrics, too")


def run(args: argparse.Namespace) -> int:
    """Print the table; status 1 when a threshold is crossed."""
    before, after = read_report(args.before), read_report(args.after)
    changes = compare(before, after, [Threshold.parse(text) for text in args.threshold])
    old, new = circumstances(before), circumstances(after)
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            print(f"{name}: {old.get(name, 'missing')} -> {new.get(name, 'missing')}")
    if sides := other_normalizers(before, after):
        print(
            f"error rates cannot be compared: {sides[0]!r} and {sides[1]!r} score texts differently; "
            "those under notebook can"
        )
    print(table(changes, args.all))
    crossed = [change.name for change in changes if change.crossed]
    if crossed:
        print(f"{len(crossed)} threshold(s) crossed: {', '.join(crossed)}")
        return EXIT_FAULT
    return EXIT_DONE
