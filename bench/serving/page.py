"""The page of a report of load: figures, latency over rate, and the table behind them."""

from pathlib import Path
from typing import Any

from bench.report.page import environment
from bench.report.plots import BLUE, GREEN, GREY, INK, ORANGE, Plot, finish_plot
from bench.serving.table import server_line, shown_ms, shown_statuses
from runtime.files.write_whole import write_text


def write_page(report: dict[str, Any], folder: Path) -> Path:
    """Write `index.html` and the folder `plots`.

    Args:
        report: The content of `serve.json`.
        folder: Made if missing.

    Raises:
        OutputError: It cannot be written.
    """
    template = environment().get_template("serve.html.jinja")
    page = template.render(
        report=report,
        plots=_plots(report, folder / "plots"),
        server_line=server_line(report["server"]),
        shown_ms=shown_ms,
        shown_statuses=shown_statuses,
    )
    return write_text(folder / "index.html", page)


def _plots(report: dict[str, Any], folder: Path) -> list[Plot]:
    server = report["server"]
    return [
        finish_plot(
            folder,
            "latency-over-rate",
            "Latency over rate",
            "Poisson arrivals; time from when a request was to be sent to the last byte of its answer, "
            f"of the answers with status 200. Dashed: {server['bound_s']:g} s.",
            lambda axes: _latency(axes, server),
        ),
        finish_plot(
            folder,
            "goodput",
            "Answers over rate",
            f"Answers with status 200 a second, and those within {server['bound_s']:g} s. "
            "Dotted: what Offline reached.",
            lambda axes: _goodput(axes, server, report["offline"]["samples_per_s"]),
        ),
    ]


def _latency(axes: Any, server: dict[str, Any]) -> None:
    rows = [row for row in server["rates"] if row["latency"] is not None]
    for name, colour in (("p50", GREEN), ("p90", BLUE), ("p99", ORANGE)):
        seconds = [row["latency"]["percentiles"][name]["seconds"] for row in rows]
        axes.plot([row["rate"] for row in rows], seconds, "o-", ms=4, color=colour, label=name)
    axes.axhline(server["bound_s"], color=INK, linewidth=1, linestyle="--")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("latency, s")
    _rate_axis(axes)


def _goodput(axes: Any, server: dict[str, Any], offline: float) -> None:
    rates = [row["rate"] for row in server["rates"]]
    for key, colour, label in (
        ("answered_per_s", BLUE, "answered"),
        ("goodput_per_s", ORANGE, "within the bound"),
    ):
        axes.plot(rates, [row[key] for row in server["rates"]], "o-", ms=4, color=colour, label=label)
    axes.axhline(offline, color=GREY, linestyle=":", label="Offline")
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("answers a second")
    _rate_axis(axes)


def _rate_axis(axes: Any) -> None:
    axes.set_xlim(left=0.0)
    axes.set_xlabel("requests a second")
    axes.legend(loc="best")
