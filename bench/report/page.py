"""The page: what `tune.json` and `latency.json` say, for people."""

import base64
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jinja2

from bench.explain import Explanation, explain
from bench.fusion_lines import fusion_lines, trace_steps
from bench.nbest_records import NBestFile
from bench.nbest_table import NBestTable, build_table
from bench.report.plots import depth_curve, error_curve, group_bars, save_figure
from bench.tuning import TuneResult
from runtime.errors import OutputError
from runtime.image_files import load_image

SHOWN_UTTERANCES: Final = 12
THUMBNAIL: Final = 128  # pixels of the longer side


def write_report(
    output: Path,
    result: TuneResult,
    nbest: NBestFile,
    latency: Mapping[str, Any] | None = None,
    images: Mapping[str, Path] | None = None,
) -> Path:
    """Write `index.html` and its plots as PNG and SVG.

    Args:
        output: Folder.
        result: The tuning run.
        nbest: The lists that are shown, at the chosen alpha: those of the test set where there is one.
        latency: Content of `latency.json`, or None.
        images: Picture file of each utterance id; utterances without one are shown without.

    Returns:
        The page.

    Raises:
        OutputError: The folder cannot be written.
    """
    report = result.to_dict()
    part = report["test"] or report
    table = build_table(nbest.utterances, result.normalizer, result.options.asr_score)
    steps = trace_steps(fusion_lines(table))
    shown = list(_most_telling(list(explain(table, steps, result.chosen_alpha))))
    try:
        output.mkdir(parents=True, exist_ok=True)
        page = (
            _environment()
            .get_template("index.html.j2")
            .render(
                report=report,
                part=part,
                is_test=report["test"] is not None,
                plots=_plots(output, result, report, part, table),
                latency=latency,
                utterances=[(entry, _thumbnail((images or {}).get(entry.id))) for entry in shown],
            )
        )
        path = output / "index.html"
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{output}: the report cannot be written: {error}") from error
    return path


def _plots(
    output: Path, result: TuneResult, report: Mapping[str, Any], part: Mapping[str, Any], table: NBestTable
) -> dict[str, str]:
    alpha = result.chosen_alpha
    figures = {"wer-over-alpha": error_curve(result.table, alpha, "Tuning data: WER over α")}
    if report["test"] is not None:
        figures["wer-over-alpha-test"] = error_curve(
            table, alpha, "Test data: WER over α, α frozen from tuning"
        )
    if part["groups"]:
        figures["groups"] = group_bars(part["groups"], "WER by group")
    figures["oracle-by-depth"] = depth_curve(
        part["oracle_by_depth"], "Best possible choice among the first n"
    )
    return {name: save_figure(figure, output, name) for name, figure in figures.items()}


def _most_telling(explanations: list[Explanation]) -> Iterator[Explanation]:
    """Choose improved and worsened utterances first, then those where the choice changed, then the rest."""

    def gain(entry: Explanation) -> int:
        if not entry.hypotheses:
            return 0
        return entry.hypotheses[entry.before].errors - entry.hypotheses[entry.after].errors

    improved = sorted((e for e in explanations if gain(e) > 0), key=gain, reverse=True)
    worsened = sorted((e for e in explanations if gain(e) < 0), key=gain)
    changed = [e for e in explanations if gain(e) == 0 and e.before != e.after]
    rest = [e for e in explanations if e.before == e.after and len(e.hypotheses) > 1]
    kept = [*improved[: SHOWN_UTTERANCES - 4], *worsened[:3], *changed[:1]]
    yield from (kept + rest)[:SHOWN_UTTERANCES]


def _thumbnail(path: Path | None) -> str | None:
    """Return a small PNG as a data address."""
    if path is None:
        return None
    picture = load_image(path)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1%}"
    environment.filters["ms"] = lambda seconds: f"{seconds * 1e3:.2f}"
    return environment
