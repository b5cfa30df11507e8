"""The plots of the report: error surface, groups, depth of the n-best list, spread of the best alpha."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from runtime.files.write_whole import write_text, write_whole

# Readable on light and on dark ground; INK becomes the text colour of the page.
INK: Final = "#0a0b0c"
BLUE: Final = "#3b82f6"
ORANGE: Final = "#e08a0b"
GREEN: Final = "#12a37a"
GREY: Final = "#8a8f98"
SIZE_INCHES: Final = (5.2, 3.4)  # 374 points: about one to one on a phone, so that letters stay readable
ALPHA_TICKS: Final = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "earsight",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A finished plot.

    Attributes:
        name: File name without suffix.
        title: Heading.
        caption: What is seen, in words.
        svg: For the page: transparent, in the page's text colour, ids made unique.
    """

    name: str
    title: str
    caption: str
    svg: str


def draw_plots(report: Mapping[str, Any], folder: Path) -> list[Plot]:
    """Draw all plots that the data allow, and write each as SVG and PNG into `folder`.

    Args:
        report: The content of `tune.json`.
        folder: Made if missing.

    Raises:
        OutputError: It cannot be written.
    """
    shown = report["test"] or report
    data = "test data" if report["test"] else "tuning data"
    plots = [
        finish_plot(
            folder,
            "error-surface",
            "WER over α",
            _surface_caption(report)
            + ("The test data are drawn at the same α. " if report["test"] else "")
            + "The axis is stretched towards 0, where most choices change.",
            lambda axes: _surface(axes, report),
        ),
        finish_plot(
            folder,
            "nbest-depth",
            "Depth of the n-best list",
            f"Lowest WER that the first n hypotheses allow ({data}), beside what was reached.",
            lambda axes: _depth(axes, shown),
        ),
    ]
    labels = shown["groups"] or shown["speakers"]
    if labels:
        kind = "group" if shown["groups"] else "speaker"
        plots.append(
            finish_plot(
                folder,
                "groups",
                f"WER by {kind}",
                f"Speech only against α = {shown['chosen']['alpha']:.3g} ({data}).",
                lambda axes: _groups(axes, labels),
            )
        )
    spread = report["confidence"]["best_alpha"]
    if spread is not None:
        plots.append(
            finish_plot(
                folder,
                "best-alpha",
                "Where the best α lands",
                f"Best α of {report['confidence']['replicates']:,} bootstrap replicas of the tuning data.",
                lambda axes: _spread(axes, spread),
            )
        )
    sure = report["correctness"]["test" if report["test"] else "development"]
    if sure is not None:
        plots.append(
            finish_plot(
                folder,
                "reliability",
                "How sure, how right",
                f"Share of texts that are right over their confidence, in bins of equal size ({data}); "
                f"calibration error {sure['calibration_error']:.1%}, Brier score {sure['brier']:.3f}.",
                lambda axes: _reliability(axes, sure),
            )
        )
    return plots


def _surface_caption(report: Mapping[str, Any]) -> str:
    if not report["tuned_scales"]:
        return (
            "Exact error surface of the tuning data with its confidence band; dots are the 21 grid values. "
        )
    return (
        "Tuning data at the tuned scales with their confidence band; grey: their exact error surface at the "
        "notebook's scales, whose dots are the 21 grid values. "
    )


def draw_accuracy_over_time(report: Mapping[str, Any], folder: Path) -> Plot:
    """Draw word error rate over milliseconds of a side-by-side run, as SVG and PNG into `folder`.

    Args:
        report: The content of `latency.json` of a bundle beside its peers.
        folder: Made if missing.

    Raises:
        OutputError: It cannot be written.
    """
    return finish_plot(
        folder,
        "wer-over-ms",
        "Errors over time",
        "Word error rate of first texts over the median time of a whole call; down and left is better.",
        lambda axes: _accuracy_over_time(axes, report),
    )


def _accuracy_over_time(axes: Any, report: Mapping[str, Any]) -> None:
    for system in report["systems"]:
        name = system["name"]
        milliseconds = system["stages"]["whole"]["percentiles"]["p50"]["seconds"] * 1e3
        wer = report["accuracy"][name]["wer"]
        colour = BLUE if name.startswith("earsight") else ORANGE
        axes.plot(milliseconds, wer, "o", color=colour)
        axes.annotate(name.replace("_", " "), (milliseconds, wer), (4, 4), textcoords="offset points")
    axes.set_xlim(left=0.0)
    axes.margins(x=0.25, y=0.15)
    axes.set_xlabel("milliseconds, median")
    axes.set_ylabel("WER")
    _percent(axes, "y")


def _reliability(axes: Any, sure: Mapping[str, Any]) -> None:
    axes.plot([0.0, 1.0], [0.0, 1.0], color=GREY, linestyle=":", label="perfect")
    axes.plot(
        [part["confidence"] for part in sure["bins"]],
        [part["right"] for part in sure["bins"]],
        "o-",
        color=BLUE,
        label="measured",
    )
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.0)
    axes.set_xlabel("confidence")
    axes.set_ylabel("texts that are right")
    _percent(axes, "x")
    _percent(axes, "y")
    axes.legend(loc="best")


def finish_plot(folder: Path, name: str, title: str, caption: str, draw: Callable[[Any], None]) -> Plot:
    """Draw one plot, and write it as SVG and PNG.

    Args:
        folder: Where; made if missing.
        name: As in `Plot`.
        title: As in `Plot`.
        caption: As in `Plot`.
        draw: Draws on matplotlib's axes.

    Raises:
        OutputError: It cannot be written.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        draw(figure.add_subplot())
        buffer = BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        svg = buffer.getvalue().decode()
        write_text(folder / f"{name}.svg", svg)  # which makes the folder
        with write_whole(folder / f"{name}.png") as beside:
            figure.savefig(beside, format="png", dpi=160, metadata={"Software": None})
    return Plot(name, title, caption, _inline(svg, name, title))


def _inline(svg: str, name: str, title: str) -> str:
    """Cut the XML prologue, size by style, unique ids, page's text colour."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = body.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
    return body.replace(INK, "currentColor")


def _percent(axes: Any, axis: str) -> None:
    getattr(axes, f"{axis}axis").set_major_formatter(lambda value, _: f"{value:.0%}")


def _stretched(alpha: Any) -> Any:
    """Square root; the margin left of 0 stays at 0."""
    return np.sqrt(np.maximum(alpha, 0.0))


def _alpha_axis(axes: Any) -> None:
    axes.set_xscale("function", functions=(_stretched, np.square))
    axes.set_xlim(0.0, 1.0)
    axes.set_xticks(ALPHA_TICKS, [f"{tick:g}" for tick in ALPHA_TICKS])
    axes.set_xlabel("α, weight of the picture")


def _surface(axes: Any, report: Mapping[str, Any]) -> None:
    exact, band = report["exact"], report["confidence"]["band"]
    alphas = [row["alpha"] for row in band]
    if band[0]["low"] is not None:
        lows, highs = [row["low"] for row in band], [row["high"] for row in band]
        axes.fill_between(alphas, lows, highs, color=BLUE, alpha=0.15, linewidth=0)
    if not report["tuned_scales"]:
        colour, label = BLUE, "tuning data"
    else:  # the surface is at the notebook's scales, the band is not
        colour, label = GREY, "tuning data, notebook's scales"
        axes.plot(alphas, [row["wer"] for row in band], color=BLUE, linewidth=1.6, label="tuning data")
    axes.stairs(exact["wer"], exact["breakpoints"], baseline=None, color=colour, linewidth=1.6, label=label)
    grid = report["grid_results"]
    axes.plot([row["alpha"] for row in grid], [row["wer"] for row in grid], "o", ms=3, color=colour)
    if report["test"]:
        test = report["test"]["confidence"]["band"]
        axes.plot(
            [row["alpha"] for row in test],
            [row["wer"] for row in test],
            color=ORANGE,
            linewidth=1.6,
            label="test data",
        )
    alpha = report["chosen"]["alpha"]
    axes.axvline(alpha, color=INK, linewidth=1, linestyle="--")
    axes.plot([], [], color=INK, linewidth=1, linestyle="--", label=f"chosen α = {alpha:.3g}")
    _alpha_axis(axes)
    _percent(axes, "y")
    axes.set_ylabel("WER")
    axes.legend(loc="best")


def _depth(axes: Any, shown: Mapping[str, Any]) -> None:
    depths = [row["hypotheses"] for row in shown["oracle_by_depth"]]
    axes.plot(
        depths, [row["oracle_wer"] for row in shown["oracle_by_depth"]], "o-", color=GREEN, label="oracle"
    )
    axes.axhline(shown["baseline"]["wer"], color=GREY, linestyle=":", label="speech only")
    axes.axhline(shown["chosen"]["wer"], color=ORANGE, linestyle="--", label="with picture, chosen α")
    axes.set_xticks(depths)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("hypotheses in the list")
    axes.set_ylabel("WER")
    _percent(axes, "y")
    axes.legend(loc="best")


def _groups(axes: Any, labels: Mapping[str, Mapping[str, Any]]) -> None:
    names: Sequence[str] = list(labels)[:20]
    places = np.arange(len(names))
    axes.barh(places - 0.2, [labels[n]["baseline_wer"] for n in names], 0.38, color=GREY, label="speech only")
    axes.barh(places + 0.2, [labels[n]["wer"] for n in names], 0.38, color=ORANGE, label="with picture")
    axes.set_yticks(places, [f"{name} ({labels[name]['utterances']})" for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("WER")
    _percent(axes, "x")
    axes.legend(loc="best")


def _spread(axes: Any, spread: Mapping[str, Any]) -> None:
    axes.vlines(
        [row["alpha"] for row in spread["shares"]],
        0.0,
        [row["share"] for row in spread["shares"]],
        color=BLUE,
        linewidth=3,
    )
    _alpha_axis(axes)
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("share of replicas")
    _percent(axes, "y")
