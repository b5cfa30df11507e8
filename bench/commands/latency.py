"""`python -m bench latency`: measure a bundle on one's own audio, or an architecture beside its peers."""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.commands.modes import mark_defaults, read_options
from bench.latency.architecture import ArchitectureSettings, is_text, measure_architecture
from bench.latency.bundle import BundleSettings, measure_bundle
from bench.latency.clips import ClipSettings, measure_clips
from bench.latency.side_by_side import Rounds
from bench.latency.tables import report_text
from bench.measure.system_info import system_info
from bench.peers.registry import SPEECH_PRECISIONS
from bench.report.plots import draw_accuracy_over_time
from runtime.commands.console import EXIT_DONE
from runtime.errors import OutputError, SettingsError
from runtime.files.write_whole import write_json
from runtime.sessions.obstacles import ORT_NAMES
from runtime.sessions.processors import usable_processors
from runtime.whisper.beam_settings import DISTINCT
from runtime.whisper.short_encoder import WINDOWS

SCHEMA = "earsight.latency/1"
FILE_NAME = "latency.json"
PEERS = tuple(name for name in SPEECH_PRECISIONS if name != "earsight")
# Options by the mode that reads them; all modes read the others.
ALONE = ("provider", "window", "distinct", "max_new_tokens", "image_cache", "batches", "cold_runs", "pareto")
BESIDE_PEERS = ("checkpoint", "busy")
RANDOM_SPEECH = ("steps", "batch", "seconds")
RANDOM_TEXTS = ("texts",)
RANDOM = (*RANDOM_SPEECH, *RANDOM_TEXTS, "slow_repeats", "seed")
SELECTIVE = (*ALONE, *BESIDE_PEERS, *RANDOM, "language", "limit", "models", "beams")
# More load than this before the first measurement means that something else uses the cores.
BUSY_SHARE = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m bench latency`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", type=Path, metavar="DIR", help="measure this bundle on the audio of --data")
    what.add_argument(
        "--architecture",
        metavar="NAME",
        help="measure random weights of whisper-tiny … whisper-large-v3 with a fixed number of steps, "
        "or the text encoder of clip-vit-base-patch32, …",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"folder for {FILE_NAME}")
    parser.add_argument(
        "--precision",
        metavar="LIST",
        help="fp32,int8,… (a bundle without --against: one; default: the runtime's choice)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of one operator (default: all cores)"
    )
    parser.add_argument("--beams", type=int, default=5, metavar="K", help="beams and hypotheses (default 5)")
    parser.add_argument(
        "--against", default="", metavar="LIST", help=f"peers in the same run, of {','.join(PEERS)}"
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("models/architectures"),
        metavar="DIR",
        help="checkpoints and converted models, kept for the next run (default %(default)s)",
    )
    parser.add_argument(
        "--repeats", type=int, metavar="N", help="measured rounds (default: bundle 3, architecture 10)"
    )
    parser.add_argument(
        "--warm-up", type=int, metavar="N", help="discarded rounds (default: bundle 3, architecture 2)"
    )
    _add_bundle_arguments(parser.add_argument_group("with --bundle"))
    _add_alone_arguments(parser.add_argument_group("with --bundle, without --against"))
    _add_peer_arguments(parser.add_argument_group("with --bundle and --against"))
    _add_architecture_arguments(parser.add_argument_group("with --architecture"))
    mark_defaults(parser, SELECTIVE)


def _add_bundle_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", type=Path, metavar="MANIFEST", help="audio, references and pictures")
    group.add_argument("--language", metavar="L", help="default: detected, which takes a decoder step")
    group.add_argument("--limit", type=int, default=50, metavar="N", help="most utterances (default 50)")


def _add_alone_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--provider", choices=sorted(ORT_NAMES), help="default: the best that works")
    group.add_argument(
        "--window", choices=WINDOWS, default=WINDOWS[0], help="of the encoder (default %(default)s)"
    )
    group.add_argument(
        "--distinct",
        choices=DISTINCT,
        default=DISTINCT[0],
        help="what hypotheses differ in (default %(default)s)",
    )
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of a hypothesis")
    group.add_argument("--image-cache", type=Path, metavar="NPZ", help="embeddings for rows with image_id")
    group.add_argument("--batches", default="1,2,4,8", metavar="LIST", help="batch sizes of the throughput")
    group.add_argument("--cold-runs", type=int, default=3, metavar="N", help="fresh processes (default 3)")
    group.add_argument(
        "--pareto", default="", metavar="LIST", help="beams, such as 1,3,5: WER against time, every precision"
    )


def _add_peer_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="the Whisper that the bundle was made of (default: the package that holds it)",
    )
    group.add_argument(
        "--busy",
        type=int,
        default=0,
        metavar="N",
        help="processes that keep the processor busy meanwhile (default none)",
    )


def _add_architecture_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", type=int, default=32, metavar="N", help="generated tokens (default 32)")
    group.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="length of the utterances, the rest of the window being padding; then the short encoder takes "
        "part (default: the whole window)",
    )
    group.add_argument("--batch", type=int, default=1, metavar="N", help="utterances at once (default 1)")
    group.add_argument("--texts", type=int, default=64, metavar="N", help="captions at once, for CLIP")
    group.add_argument(
        "--slow-repeats", type=int, default=1, metavar="N", help="rounds of the notebook's call"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and inputs")


def run(args: argparse.Namespace) -> int:
    """Measure, write latency.json, print its tables."""
    progress = sys.stderr.isatty()
    if args.bundle and args.against:
        clips = clip_settings(args)
        report = make_report(lambda: measure_clips(clips, progress))
    elif args.bundle:
        settings = bundle_settings(args)
        report = make_report(lambda: measure_bundle(settings, progress))
    else:
        architecture = architecture_settings(args)
        report = make_report(lambda: measure_architecture(architecture, progress))
    path = write_report(report, args.output)
    if report["mode"] == "clips":
        draw_accuracy_over_time(report, args.output)
    print(report_text(report))
    print(path)
    return EXIT_DONE


def make_report(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure, and put the result between what the machine was like before and what it makes doubtful."""
    report = {
        "schema": SCHEMA,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": system_info(),
        **measure(),
    }
    report["warnings"] = warnings(report)
    return report


def bundle_settings(args: argparse.Namespace) -> BundleSettings:
    """Build the settings of a bundle from the command line.

    Raises:
        SettingsError: `--data` is missing, or an argument belongs to another mode.
    """
    unread = dict.fromkeys(RANDOM, "--architecture")
    if args.against:
        args = read_options(args, "--against", unread | dict.fromkeys(ALONE, "--bundle without --against"))
    else:
        unread |= dict.fromkeys((*BESIDE_PEERS, "models"), "--against")
        args = read_options(args, "--bundle without --against", unread)
    if args.data is None:
        raise SettingsError("--bundle needs --data MANIFEST: the audio to measure on")
    if args.precision and "," in args.precision and not args.against:
        raise SettingsError(
            f"--precision is {args.precision!r}; with --bundle give one, or use --pareto for all"
        )
    return BundleSettings(
        bundle=args.bundle,
        data=args.data,
        precision=args.precision,
        provider=args.provider,
        threads=args.threads,
        beams=args.beams,
        language=args.language,
        image_cache=args.image_cache,
        repeats=3 if args.repeats is None else args.repeats,
        warm_up=3 if args.warm_up is None else args.warm_up,
        limit=args.limit,
        batches=_numbers("--batches", args.batches),
        cold_runs=args.cold_runs,
        pareto_beams=_numbers("--pareto", args.pareto),
        window=args.window,
        max_new_tokens=args.max_new_tokens,
        distinct=args.distinct,
    )


def clip_settings(args: argparse.Namespace) -> ClipSettings:
    """Build the settings of a bundle beside its peers from the command line.

    Raises:
        SettingsError: `--data` is missing, a number is out of range, or an argument belongs to another mode.
    """
    bundle = bundle_settings(args)
    args = read_options(args, "--against")
    return ClipSettings(
        bundle,
        peers=_names(args.against),
        precisions=_names(args.precision or "int8,fp32"),
        checkpoint=args.checkpoint,
        models=args.models,
        busy=args.busy,
    )


def architecture_settings(args: argparse.Namespace) -> ArchitectureSettings:
    """Build the settings of a side-by-side run from the command line.

    Raises:
        SettingsError: A number is out of range, or an argument belongs to `--bundle`.
    """
    if args.data is not None:
        raise SettingsError("--data belongs to --bundle: random weights say nothing about real audio")
    args = read_options(args, "--architecture", _unread_by_architecture(args))
    for name in ("batch", "texts"):
        if getattr(args, name) < 1:
            raise SettingsError(f"--{name} is {getattr(args, name)}; it must be 1 or more")
    return ArchitectureSettings(
        architecture=args.architecture,
        peers=_names(args.against),
        precisions=_names(args.precision or "int8,fp32"),
        steps=args.steps,
        beams=args.beams,
        threads=usable_processors() if args.threads is None else args.threads,
        batch=args.batch,
        seconds=args.seconds,
        texts=args.texts,
        rounds=Rounds(
            measured=10 if args.repeats is None else args.repeats,
            warm_up=2 if args.warm_up is None else args.warm_up,
            slow=args.slow_repeats,
        ),
        models=args.models,
        seed=args.seed,
    )


def _unread_by_architecture(args: argparse.Namespace) -> dict[str, str]:
    """Return the options that random weights have no use for, each with the mode that has."""
    unread = dict.fromkeys((*ALONE, *BESIDE_PEERS, "language", "limit"), "--bundle")
    if is_text(args.architecture):
        unread |= dict.fromkeys((*RANDOM_SPEECH, "beams"), "--architecture whisper-…")
    else:
        unread |= dict.fromkeys(RANDOM_TEXTS, "--architecture clip-…")
    if "notebook" not in _names(args.against):
        unread["slow_repeats"] = "--against notebook"
    return unread


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError as error:
        raise SettingsError(
            f"{option} is {text!r}; expected whole numbers with commas, such as 1,2,4"
        ) from error


def warnings(report: dict[str, Any]) -> list[str]:
    """Return what a reader must know before trusting the figures."""
    found = []
    load, cores = report["system"]["load_average"], report["system"]["cpu"]["usable_cores"]
    if load and load[0] > BUSY_SHARE * cores:
        found.append(
            f"the machine was busy: load average {load[0]:.1f} on {cores} cores before the first run"
        )
    found += [
        f"{name} varied by more than 10 % although its work is the same each time"
        for name in report.get("unstable_stages", [])
    ]
    for part in [report, *report.get("paddings", {}).values()]:
        found += [
            f"{system['name']} varied by more than 10 % (coefficient of variation)"
            for system in part.get("systems", [])
            if system["stages"]["whole"]["unstable"]
        ]
    return found


def write_report(report: dict[str, Any], folder: Path, name: str = FILE_NAME) -> Path:
    """Write a report as JSON.

    Raises:
        OutputError: The folder or file cannot be written.
    """
    try:
        return write_json(folder / name, report)
    except OutputError as error:
        raise OutputError(f"{error}; choose another --output") from error
