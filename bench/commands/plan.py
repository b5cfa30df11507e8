"""`python -m bench plan`: what n-best lists of a large corpus will take, from recorded runs of small ones."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench.nbest.run_record import RunRecord
from bench.scale.cost import HOUR, CostModel, Plan, fit, plan, predict
from runtime.commands.console import EXIT_DONE
from runtime.errors import SettingsError
from runtime.files.write_whole import write_json

SCHEMA: Final = "earsight.plan/1"
COLUMNS: Final = (
    "workers",
    "machines",
    "wall",
    "processor s/h",
    "GPU s/h",
    "memory/machine",
    "driver",
    "file",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--records",
        nargs="+",
        required=True,
        type=Path,
        metavar="FILE",
        help="runs to fit on, written by `python -m bench nbest --record`",
    )
    parser.add_argument("--hours", type=float, metavar="H", help="hours of speech")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], metavar="N", help="numbers of workers")
    parser.add_argument(
        "--per-machine", type=int, metavar="M", help="workers on one machine (default: the most measured)"
    )
    parser.add_argument(
        "--utterance-s", type=float, metavar="S", help="mean length of an utterance (default: as measured)"
    )
    parser.add_argument("--against", type=Path, metavar="FILE", help="predict this recorded run as well")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write all of it as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the plan.

    Raises:
        SettingsError: A record cannot be used, or something was asked for that was not measured.
        OutputError: The file cannot be written.
    """
    if args.hours is None and args.against is None:
        raise SettingsError("got neither --hours nor --against; expected one of them at least")
    model = fit([RunRecord.read(path) for path in args.records])
    print(_model_text(model))
    report: dict[str, Any] = {"schema": SCHEMA, "model": asdict(model)}
    if args.against is not None:
        there = RunRecord.read(args.against)
        expected = predict(model, there.utterances, there.speech_s, there.workers, there.workers)
        cpu_s = expected.cpu_s_per_hour * there.speech_s / HOUR
        print(
            f"{args.against}: {expected.wall_s:.1f} s expected, {there.wall_s:.1f} s measured: "
            f"{expected.wall_s / there.wall_s:.3f}; of processor {cpu_s:.1f} and {there.cpu_s:.1f} s: "
            f"{cpu_s / there.cpu_s:.3f}"
        )
        report["against"] = {"measured_s": there.wall_s, "measured_cpu_s": there.cpu_s, **asdict(expected)}
    if args.hours is not None:
        plans = [
            plan(model, args.hours, workers, per_machine=args.per_machine, utterance_s=args.utterance_s)
            for workers in args.workers
        ]
        print(_table(args.hours, plans))
        report["plans"] = [asdict(each) for each in plans]
    if args.output is not None:
        write_json(args.output, report)
    return EXIT_DONE


def _model_text(model: CostModel) -> str:
    lengths = ", all of about one length" if model.one_length else ""
    return "; ".join(
        (
            f"of a worker: an utterance {model.per_utterance_s:.3f} s, a second of speech "
            f"{model.per_speech_s:.4f} s, with another worker on its machine {model.contention:.1%} more",
            f"of the driver: a row {model.driver_s * 1e3:.2f} ms",
            f"fitted on utterances of {model.utterance_s:.2f} s{lengths}",
        )
    )


def _table(hours: float, plans: list[Plan]) -> str:
    first = plans[0]
    rows: list[tuple[str, ...]] = [COLUMNS, *(_row(each) for each in plans)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [
        f"{hours:,g} hours of speech: {first.utterances:,.0f} utterances, {first.audio_bytes / 1e9:,.1f} GB",
        *("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows),
        f"{_driver(first)}; the storage hands out "
        f"{plans[-1].audio_bytes_per_s / 1e6:,.1f} MB/s for {plans[-1].workers}; "
        f"with {plans[-1].workers} the bottleneck is the {plans[-1].bottleneck}",
    ]
    return "\n".join(lines)


def _driver(each: Plan) -> str:
    if each.driver_limit is None:
        return "how many workers keep the driver busy was not measured: record a run with --workers"
    return f"the driver is busy with {each.driver_limit:,.0f} workers"


def _row(each: Plan) -> tuple[str, ...]:
    return (
        f"{each.workers:,}",
        f"{each.machines:,}",
        _duration(each.wall_s),
        f"{each.cpu_s_per_hour:,.0f}",
        "-" if each.gpu_s_per_hour is None else f"{each.gpu_s_per_hour:,.0f}",
        f"{each.machine_bytes / 1e9:.2f} GB",
        f"{each.driver_bytes / 1e9:.2f} GB",
        f"{each.output_bytes / 1e9:,.2f} GB",
    )


def _duration(seconds: float) -> str:
    if seconds < HOUR:
        return f"{seconds:.0f} s"
    return f"{seconds / HOUR:,.1f} h" if seconds < 48 * HOUR else f"{seconds / 24 / HOUR:,.1f} days"
