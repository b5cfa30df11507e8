"""The plots of the report, as matplotlib figures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.fusion_lines import fusion_lines
from bench.nbest_table import NBestTable
from bench.resampling import bootstrap, resampling_units
from bench.selection import grid_errors

BAND_REPLICATES: Final = 2000
SPEECH, PICTURE, MUTED = "#8a5a00", "#00629b", "#767676"  # readable on white, apart for colour-blind readers


def alphas_to_draw(chosen: float) -> list[float]:
    """Return where the curve is drawn: densely near 0, where choices change, and at the chosen alpha."""
    low = np.geomspace(1e-3, 0.1, 40)
    return sorted({0.0, chosen, *low.tolist(), *np.linspace(0.1, 1.0, 37).tolist()})


def error_curve(table: NBestTable, chosen: float, title: str, seed: int = 0) -> Figure:
    """Draw WER over alpha with its 95 % band (percentiles over resampled speakers, else utterances)."""
    alphas = alphas_to_draw(chosen)
    errors = grid_errors(table, fusion_lines(table), alphas).astype(float)
    low, high = _band(table, errors, seed)
    wer = errors.sum(axis=0) / max(table.total_words, 1)
    figure, axes = _figure(title)
    axes.fill_between(alphas, low, high, color=PICTURE, alpha=0.15, linewidth=0, label="95 % band")
    axes.plot(alphas, wer, color=PICTURE, linewidth=2, label="WER")
    axes.axhline(wer[0], color=SPEECH, linewidth=1, linestyle="--", label="speech only (α = 0)")
    at = alphas.index(chosen)
    axes.plot(
        [chosen], [wer[at]], marker="o", color="black", linestyle="none", label=f"chosen α = {chosen:.4g}"
    )
    # Nearly everything happens below 0.1; a linear stretch keeps 0 on the axis.
    axes.set_xscale("symlog", linthresh=0.01, linscale=0.6)
    axes.set_xlim(0.0, 1.0)
    axes.set_xticks([0, 0.01, 0.03, 0.1, 0.3, 1.0], ["0", "0.01", "0.03", "0.1", "0.3", "1"])
    axes.set_xlabel("α (weight of the picture)")
    _percent(axes, "word error rate")
    axes.legend(frameon=False, fontsize=8)
    return figure


def group_bars(groups: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    """Draw WER per group, speech only beside the chosen alpha."""
    figure, axes = _figure(title)
    places = np.arange(len(groups))
    for offset, key, colour, label in (
        (-0.2, "baseline_wer", SPEECH, "speech only"),
        (0.2, "wer", PICTURE, "with picture"),
    ):
        bars = axes.bar(
            places + offset, [row[key] for row in groups.values()], 0.38, color=colour, label=label
        )
        axes.bar_label(bars, fmt=lambda value: f"{value:.1%}", fontsize=8)
    axes.set_xticks(places, list(groups))
    _percent(axes, "word error rate")
    axes.legend(frameon=False, fontsize=8)
    return figure


def depth_curve(depths: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw the oracle WER over the number of hypotheses that may be chosen from."""
    figure, axes = _figure(title)
    numbers = [row["hypotheses"] for row in depths]
    axes.plot(numbers, [row["oracle_wer"] for row in depths], color=PICTURE, marker="o", linewidth=2)
    axes.set_xticks(numbers)
    axes.set_xlabel("hypotheses to choose from")
    _percent(axes, "oracle word error rate")
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as PNG and SVG.

    Returns:
        The SVG, without its XML declaration, to stand inside a page.
    """
    figure.savefig(folder / f"{name}.png", dpi=150)
    buffer = io.StringIO()
    # A fixed salt and no date: the same figures make the same file.
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    return text[text.index("<svg") :]


def _band(table: NBestTable, errors: npt.NDArray[np.float64], seed: int) -> tuple[Any, Any]:
    units = resampling_units(table.utterances)
    sums = np.zeros((len(units.names), errors.shape[1]))
    words = np.zeros(len(units.names))
    np.add.at(sums, units.index, errors)
    np.add.at(words, units.index, table.reference_words.astype(float))
    ratios = bootstrap(sums, words, BAND_REPLICATES, seed).ratios
    return np.percentile(ratios, 2.5, axis=0), np.percentile(ratios, 97.5, axis=0)


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _percent(axes: Axes, label: str) -> None:
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel(label)
