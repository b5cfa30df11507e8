"""`python -m bench accuracy`: is another precision, or another window, as accurate as the reference?"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.accuracy.comparison import compare_accuracy, first_changes
from bench.commands.latency import write_report
from bench.commands.modes import mark_defaults, read_options
from bench.manifest import Utterance, read_manifest
from bench.measure.system_info import system_info
from bench.nbest.corpus import write_nbest
from bench.nbest.file import read_nbest
from bench.nbest.records import NBestUtterance
from bench.text.normalizers import DEFAULT_NORMALIZER, NORMALIZER_NAMES, language_code, normalizer
from runtime.bundle.bundle import Bundle
from runtime.commands.console import EXIT_DONE, EXIT_FAULT
from runtime.errors import SettingsError
from runtime.pipeline import MultimodalASR
from runtime.whisper.short_encoder import WINDOWS, Window

SCHEMA = "earsight.accuracy/1"
FILE_NAME = "accuracy.json"
SHOWN_CHANGES = 10


# What makes lists, which --nbest has.
RECOGNITION = (
    "reference_precision",
    "precision",
    "reference_window",
    "window",
    "beams",
    "max_new_tokens",
    "threads",
    "image_cache",
    "limit",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest change that counts as equally accurate.

    Attributes:
        wer: Absolute difference of word error rates, as a ratio.
        first_changed: Share of utterances whose first hypothesis changes. It is crossed where the interval
            of the share lies above it: of few utterances, one changed text more or less says nothing.
    """

    wer: float
    first_changed: float

    def crossed(self, result: dict[str, Any]) -> list[str]:
        """Return what is over its limit, as sentences."""
        found = []
        if result["wer_difference"] > self.wer:
            found.append(
                f"WER grew by {result['wer_difference'] * 100:.2f} points (limit {self.wer * 100:g})"
            )
        if result["first_changed_interval"][0] > self.first_changed:
            found.append(f"the first hypothesis {_changed(result)} (limit {self.first_changed * 100:g} %)")
        return found

    def undecided(self, result: dict[str, Any]) -> list[str]:
        """Return what is above its limit, but in too few utterances to tell, as sentences."""
        low, _ = result["first_changed_interval"]
        if low <= self.first_changed < result["first_changed"]:
            return [
                f"the first hypothesis {_changed(result)}, which may be the limit of "
                f"{self.first_changed * 100:g} %; give more utterances to tell"
            ]
        return []


def _changed(result: dict[str, Any]) -> str:
    """Return how many first hypotheses changed, with the interval."""
    share, count = result["first_changed"], result["num_samples"]
    low, high = (end * 100 for end in result["first_changed_interval"])
    return (
        f"changed in {round(share * count)} of {count}, {share * 100:.2f} % "
        f"(95 % interval {low:.1f} to {high:.1f} %)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m bench accuracy`."""
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle that has both precisions")
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help="audio, references and pictures")
    parser.add_argument("--reference-precision", default="fp32", metavar="P", help="default %(default)s")
    parser.add_argument("--precision", default="int8", metavar="P", help="default %(default)s")
    parser.add_argument(
        "--reference-window", default="full", choices=WINDOWS, help="of the encoder (default %(default)s)"
    )
    parser.add_argument("--window", default="full", choices=WINDOWS, help="default %(default)s")
    parser.add_argument(
        "--nbest",
        type=Path,
        nargs=2,
        metavar=("REFERENCE", "CANDIDATE"),
        help="instead of --bundle and --data: two n-best files, no model needed",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"folder for {FILE_NAME}")
    parser.add_argument("--beams", type=int, default=5, metavar="K", help="beams and hypotheses (default 5)")
    parser.add_argument("--language", metavar="L", help="default: detected")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="default: the checkpoint's")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one operator")
    parser.add_argument("--image-cache", type=Path, metavar="NPZ", help="embeddings for rows with image_id")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N utterances")
    parser.add_argument(
        "--normalizer",
        choices=NORMALIZER_NAMES,
        default=DEFAULT_NORMALIZER,
        help="for WER; the notebook's stands beside it (default %(default)s)",
    )
    parser.add_argument(
        "--max-wer-difference", type=float, default=0.005, metavar="R", help="absolute, default 0.005"
    )
    parser.add_argument(
        "--max-first-changed", type=float, default=0.03, metavar="R", help="share, default 0.03"
    )
    mark_defaults(parser, RECOGNITION)


def run(args: argparse.Namespace) -> int:
    """Compare, write accuracy.json, print a summary; status 1 when a limit is crossed."""
    if args.nbest:
        args = read_options(args, "--nbest", dict.fromkeys(RECOGNITION, "--bundle"))
    else:
        args = read_options(args, "--bundle")
    scorer = normalizer(args.normalizer, args.language)
    reference, candidate, source = _from_files(args) if args.nbest else _from_bundle(args)
    if args.nbest and args.language is None:
        recorded = source["settings"]["reference"]["settings"].get("language")
        scorer = normalizer(args.normalizer, language_code(recorded))
    result = compare_accuracy(reference, candidate, scorer)
    limits = Limits(args.max_wer_difference, args.max_first_changed)
    crossed = limits.crossed(result)
    report = {"schema": SCHEMA, "system": system_info(), **source, **result, "crossed": crossed}
    path = write_report(report, args.output, FILE_NAME)
    print(summary(result))
    for name, old, new in first_changes(reference, candidate, SHOWN_CHANGES):
        print(f"  {name}: {old!r} -> {new!r}")
    for kind, sentences in (("crossed", crossed), ("undecided", limits.undecided(result))):
        for sentence in sentences:
            print(f"{kind}: {sentence}")
    print(path)
    return EXIT_FAULT if crossed else EXIT_DONE


Lists = tuple[Sequence[NBestUtterance], Sequence[NBestUtterance], dict[str, Any]]


def _from_files(args: argparse.Namespace) -> Lists:
    if args.bundle or args.data:
        raise SettingsError("--nbest takes the place of --bundle and --data; give one or the other")
    reference, candidate = (read_nbest(path) for path in args.nbest)
    settings = {"reference": reference.header.to_dict(), "candidate": candidate.header.to_dict()}
    return reference.utterances, candidate.utterances, {"settings": settings}


def _from_bundle(args: argparse.Namespace) -> Lists:
    if not args.bundle or not args.data:
        raise SettingsError("--bundle and --data are needed, or --nbest REFERENCE CANDIDATE")
    sides = ((args.reference_precision, args.reference_window), (args.precision, args.window))
    if sides[0] == sides[1]:
        raise SettingsError(
            f"both sides are {args.precision!r} with window {args.window!r}; expected two different "
            "precisions or windows"
        )
    if args.limit is not None and args.limit < 1:
        raise SettingsError(f"--limit is {args.limit}; it must be 1 or more")
    bundle = Bundle.open(args.bundle)
    utterances = read_manifest(args.data)[: args.limit]
    lists = [recognise(args, bundle, precision, window, utterances) for precision, window in sides]
    settings = {
        "reference_precision": args.reference_precision,
        "precision": args.precision,
        "reference_window": args.reference_window,
        "window": args.window,
        "max_new_tokens": args.max_new_tokens,
        "beams": args.beams,
        "language": args.language,
        "limit": args.limit,
    }
    return lists[0], lists[1], {"bundle": bundle.identity, "settings": settings}


def recognise(
    args: argparse.Namespace,
    bundle: Bundle,
    precision: str,
    window: Window,
    utterances: Sequence[Utterance],
) -> Sequence[NBestUtterance]:
    """Recognise all utterances on the CPU; the n-best file stays in the output folder.

    The pipeline is gone at the end: two precisions of a large model need not fit into memory together.
    """
    asr = MultimodalASR(
        bundle,
        num_beams=args.beams,
        language=args.language,
        precision=precision,
        providers="cpu",
        threads=args.threads,
        image_cache=args.image_cache,
        max_new_tokens=args.max_new_tokens,
        window=window,
    )
    name = precision if window == "full" else f"{precision}-{window}"
    return write_nbest(asr, utterances, args.output / f"{name}.jsonl", resume=False).utterances


def summary(result: dict[str, Any]) -> str:
    """Return the main figures, one a line."""
    old, new, notebook = result["reference"], result["candidate"], result["notebook"]
    lines = [
        f"{result['num_samples']} utterances; texts are {result['normalizer']['description']}",
        f"WER                     {old['wer'] * 100:.2f} % -> {new['wer'] * 100:.2f} %",
        f"WER, notebook           {notebook['reference']['wer'] * 100:.2f} % -> "
        f"{notebook['candidate']['wer'] * 100:.2f} % (texts are {notebook['normalizer']['description']})",
        f"first hypothesis        {_changed(result)}",
    ]
    for name, label in (
        ("kendall_tau", "Kendall tau of the lists"),
        ("overlap", "overlap of the lists"),
        ("score_difference", "|difference of scores|"),
    ):
        spread = result[name]
        if spread["count"]:
            lines.append(
                f"{label:<24}mean {spread['mean']:.4f}, {spread['least']:.4f} to {spread['greatest']:.4f}"
            )
    for each in result["by_length"]:
        before, after = (wer * 100 for wer in each["wer"])
        lines.append(
            f"{each['seconds']:<24}{each['count']} utterances, first changed "
            f"{each['first_changed'] * 100:.1f} %, WER {before:.2f} % -> {after:.2f} %"
        )
    if old["best_alpha"] is not None and new["best_alpha"] is not None:
        lines.append(
            f"best alpha              {old['best_alpha']:.2f} -> {new['best_alpha']:.2f} on the grid, "
            f"{old['best_alpha_exact']:.4f} -> {new['best_alpha_exact']:.4f} exact"
        )
    return "\n".join(lines)
