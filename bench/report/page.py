"""Writing `index.html`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from bench.nbest.human_clips import HeardClips
from bench.nbest.records import NBestFile
from bench.report.examples import select_examples
from bench.report.plots import draw_plots
from bench.tuning import TuneResult
from runtime.files.write_whole import write_text

PERCENTILES: Final = ("p50", "p90", "p95", "p99")


def write_report(
    output: Path,
    result: TuneResult,
    nbest: NBestFile,
    latency: Mapping[str, Any] | None = None,
    images: Mapping[str, Path] | None = None,
    demo: Mapping[str, Any] | None = None,
    clips: HeardClips | None = None,
) -> Path:
    """Write `index.html` and the folder `plots` into a folder.

    Args:
        output: The folder; made if missing.
        result: The tuning run.
        nbest: Lists to show examples of: of the test data if there are any, else of the tuning data.
        latency: Content of `latency.json`, or None.
        images: Picture file of each utterance id; utterances without one are shown without.
        demo: Of the demo: `recogniser` and `corpus` in words, `max_new_tokens`; `fallback`, why these are not
            the real ones, and `without_clips`, why people are left out, or None.
        clips: Of the demo: what was heard of people.

    Returns:
        The path of the page. It loads nothing from elsewhere.

    Raises:
        OutputError: The folder cannot be written.
    """
    report = result.to_dict()
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            shown=report["test"] or report,
            data="test data" if report["test"] else "tuning data",
            plots=draw_plots(report, output / "plots"),
            examples=select_examples(result, nbest, images or {}),
            latency=latency,
            percentiles=PERCENTILES,
            demo=demo,
            clips=clips,
        )
    )
    return write_text(output / "index.html", page)


def environment() -> Environment:
    """Return what renders the templates of this folder; figures that are None are dashes."""
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["points"] = _points
    environment.filters["milliseconds"] = _milliseconds
    return environment


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def _points(difference: float | None) -> str:
    """Difference of two rates in percentage points, signed."""
    return "–" if difference is None else f"{100.0 * difference:+.1f}".replace("-", "−")


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}" if seconds < 1.0 else f"{1e3 * seconds:.0f}"
