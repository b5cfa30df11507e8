"""The numbers of a JSON report by name, in which direction each improves, and what they depend on."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from runtime.errors import EarsightError

# Keys that tell the entries of a list apart, in this order. Several may be needed at once.
ENTRY_KEYS = (
    "name",
    "system",
    "against",
    "stage",
    "precision",
    "beams",
    "options",
    "batch",
    "alpha",
    "share",
    "group",
    "speaker",
    "id",
)
# The same for lists whose entries hold such keys as results, or have others.
ENTRY_KEYS_OF = {
    "folds": ("held_out",),
    "grid": ("asr_temperature", "clip_scale"),
    "by_length": ("seconds",),
}
# What holds a part for every label of the data; a label says nothing of what is measured.
LABELLED = ("groups", "speakers")
# Larger is better for these last parts of a name; for all others smaller is.
LARGER_IS_BETTER = (
    "rtfx",
    "utterances_per_s",
    "samples_per_s",
    "answered_per_s",
    "goodput_per_s",
    "highest_rate",
    "wer_reduction",
    "gigabytes_per_second",
    "kendall_tau",
    "distinct_texts",
)
# The same, told by the beginning of any part of the name.
LARGER_PARTS = ("overlap", "kendall", "hypotheses_shared", "probability_of_improvement", "ratios")
# Metrics that depend on the text normaliser, told by a part of the name.
ERROR_RATE = re.compile(r"(?:^|[._])(?:wer|cer)(?:$|[._\[])")
# Raw values and counts are no metrics; nor is what stands at places that the data choose.
SKIPPED = (
    "raw_s",
    "warm_up_raw_s",
    "per_round",
    "interval_95",
    "required_samples",
    "count",
    "per_utterance",
    "peak_memory_raw_bytes",
    "band",
    "shares",
    "improved",
    "worsened",
)
CIRCUMSTANCES = (
    "system",
    "settings",
    "options",
    "data",
    "bundle",
    "nbest",
    "test_nbest",
    "schema",
    "normalizer",
    "seed",
)


class ComparisonError(EarsightError, ValueError):
    """Two reports cannot be compared, or a threshold names no metric of them."""


class Metric(NamedTuple):
    """One number of a report.

    Attributes:
        name: Its path, parts joined by dots.
        measure: The same without labels and entries of lists: what is measured, not of whom.
        value: The number.
    """

    name: str
    measure: str
    value: float


def metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return every number of a report by its path, circumstances and raw values left out.

    Raises:
        ComparisonError: Two numbers have the same path.
    """
    return {name: metric.value for name, metric in metrics_by_name(report).items()}


def metrics_by_name(report: Mapping[str, Any]) -> dict[str, Metric]:
    """Return every number of a report with what it measures; see `metrics`."""
    found: dict[str, Metric] = {}
    for metric in _numbers({key: value for key, value in report.items() if key not in CIRCUMSTANCES}):
        if metric.name in found:
            raise ComparisonError(
                f"a report has two numbers called {metric.name}; expected entries of a list to differ in one "
                f"of {', '.join(ENTRY_KEYS)}: rename one of them in what was measured, and measure again"
            )
        found[metric.name] = metric
    return found


def _numbers(
    value: Any, path: str = "", measure: str = "", skipped: Sequence[str] = SKIPPED
) -> Iterator[Metric]:
    """Yield the numbers below a path, without those under `skipped` keys."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int | float):
        yield Metric(path, measure, float(value))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key in skipped:
                continue
            below, measured = _joined(path, key), _joined(measure, key)
            if key in LABELLED and isinstance(inner, Mapping):
                for label, part in inner.items():
                    yield from _numbers(part, _joined(below, label), measured)
            elif isinstance(inner, Sequence) and not isinstance(inner, str):
                yield from _entries(inner, below, measured, ENTRY_KEYS_OF.get(key, ENTRY_KEYS))
            else:
                yield from _numbers(inner, below, measured)


def _entries(values: Sequence[Any], path: str, measure: str, keys: Sequence[str]) -> Iterator[Metric]:
    """Yield the numbers of a list whose entries are told apart by `keys`; none of other lists."""
    for inner in values:
        if isinstance(inner, Mapping):
            naming = [key for key in keys if isinstance(inner.get(key), str | int | float)]
            if naming:
                named = ",".join(f"{inner[key]}" for key in naming)
                yield from _numbers(inner, f"{path}[{named}]", measure, (*SKIPPED, *naming))


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def circumstances(report: Mapping[str, Any]) -> dict[str, str]:
    """Return what the figures of a report depend on, flat, as text."""
    return dict(_texts({key: report[key] for key in CIRCUMSTANCES if key in report}, ""))


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "load_average":
                yield from _texts(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def larger_is_better(name: str) -> bool:
    """Tell in which direction a metric improves, from its name."""
    parts = name.split(".")
    return parts[-1] in LARGER_IS_BETTER or any(part.startswith(LARGER_PARTS) for part in parts)


def depends_on_words(name: str) -> bool:
    """Tell whether a metric is an error rate of the report's own normaliser."""
    return ERROR_RATE.search(name) is not None and "notebook" not in re.split(r"[._]", name)
