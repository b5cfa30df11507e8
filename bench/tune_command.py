"""`python -m bench tune`: find the alpha with the lowest word error rate, and say what it is worth."""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.explain import explain
from bench.manifest import read_manifest
from bench.nbest_file import NBestFile, read_nbest
from bench.normalizers import NORMALIZER_NAMES
from bench.pipeline_options import add_pipeline_arguments, make_pipeline
from bench.recognition import write_nbest
from bench.system_info import system_info
from bench.tune_options import TuneOptions
from bench.tuning import TuneResult, tune
from runtime.console import EXIT_DONE
from runtime.errors import OutputError, SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--nbest", type=Path, metavar="FILE", help="n-best file; needs no model")
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help="in place of --nbest, with --bundle")
    parser.add_argument(
        "--test",
        type=Path,
        metavar="FILE",
        help="n-best file (or, with --data, manifest) to assess the alpha on",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="for tune.json and the report"
    )
    parser.add_argument(
        "--normalizer", choices=NORMALIZER_NAMES, default="notebook", help="(default %(default)s)"
    )
    parser.add_argument("--asr-score", choices=("mean", "sum"), default="mean", help="(default %(default)s)")
    parser.add_argument("--select", choices=("exact", "grid"), default="exact", help="(default %(default)s)")
    parser.add_argument("--tune-scale", action="store_true", help="also tune ASR temperature and CLIP scale")
    parser.add_argument("--replicates", type=int, default=10_000, metavar="N", help="(default %(default)s)")
    parser.add_argument("--folds", type=int, default=10, metavar="K", help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default %(default)s)")
    add_pipeline_arguments(parser, required=False)


def run(args: argparse.Namespace) -> int:
    """Tune, write the files and print the table."""
    options = TuneOptions(
        normalizer=args.normalizer,
        asr_score=args.asr_score,
        select=args.select,
        tune_scale=args.tune_scale,
        replicates=args.replicates,
        folds=args.folds,
        seed=args.seed,
    )
    development, test = _nbest_files(args)
    result = tune(development, options, test)
    write_tune_files(args.output, result)
    for line in summary_lines(result):
        print(line)  # noqa: T201
    return EXIT_DONE


def _nbest_files(args: argparse.Namespace) -> tuple[NBestFile, NBestFile | None]:
    """Read the n-best files, or make them from manifests."""
    if (args.nbest is None) == (args.data is None):
        raise SettingsError("got both or none of --nbest and --data; expected one of them")
    if args.nbest is not None:
        return read_nbest(args.nbest), None if args.test is None else read_nbest(args.test)
    if args.bundle is None:
        raise SettingsError("--data needs --bundle, the folder that `make export` wrote")
    manifest = read_manifest(args.data)
    test_manifest = None if args.test is None else read_manifest(args.test)
    asr = make_pipeline(args)
    development = write_nbest(asr, manifest, args.output / "nbest.jsonl")
    if test_manifest is None:
        return development, None
    return development, write_nbest(asr, test_manifest, args.output / "nbest-test.jsonl")


def write_tune_files(output: Path, result: TuneResult) -> Path:
    """Write `tune.json` and `explanations.jsonl` (one utterance a line), each whole or not at all.

    Returns:
        The path of `tune.json`.

    Raises:
        OutputError: The folder cannot be written.
    """
    report = result.to_dict() | {"system": system_info()}
    explanations = (
        json.dumps(explanation.to_dict(), ensure_ascii=False)
        for explanation in explain(result.table, result.steps, result.chosen_alpha)
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        _replace(output / "explanations.jsonl", "\n".join(explanations) + "\n")
        return _replace(
            output / "tune.json", json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        )
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from error


def _replace(path: Path, text: str) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    return beside.replace(path)


def summary_lines(result: TuneResult) -> Iterator[str]:
    """Yield the report for people at a terminal."""
    report = result.to_dict()
    yield "    α      WER"
    for row in report["grid_results"]:
        mark = "  <- best of the grid" if row["alpha"] == report["best_alpha"] else ""
        yield f" {row['alpha']:4.2f}  {row['wer']:7.2%}{mark}"
    exact = report["exact"]
    yield ""
    yield f"exact: WER {exact['best_wer']:.2%} at α = {exact['alpha']:.4g}; ranges with the lowest WER:"
    for interval in exact["best_intervals"][:5]:
        yield f"  {interval['low']:.6g} … {interval['high']:.6g}"
    yield f"smallest α within one standard error: {exact['smallest_within_one_standard_error']:.4g}"
    yield f"chosen α ({result.options.select}): {result.chosen_alpha:.4g}"
    validation = report["cross_validation"]
    if validation is not None:
        yield f"cross-validated ({validation['scheme']}): WER {validation['wer']:.2%}"
    if report["scale"] is not None:
        scale = report["scale"]
        yield (
            f"with scales: WER {scale['wer']:.2%} at ASR temperature {scale['asr_temperature']:g}, "
            f"CLIP scale {scale['clip_scale']:g}, α = {scale['alpha']:.4g}"
        )
    yield from _assessment_lines("tuning data", report)
    if report["test"] is not None:
        yield from _assessment_lines("test data (α frozen)", report["test"])
    yield ""
    yield result.interpretation
    yield from result.development.statements
    if result.test is not None:
        yield from (f"Test: {statement}" for statement in result.test.statements)


def _assessment_lines(title: str, part: dict[str, Any]) -> Iterator[str]:
    confidence = part["confidence"]
    yield ""
    yield f"{title}: {part['num_samples']} utterances, {part['num_with_image']} with a picture"
    for name, interval in (
        ("WER, speech only", confidence["baseline_wer"]),
        (f"WER, α = {part['chosen']['alpha']:.4g}", confidence["wer"]),
        ("difference", confidence["delta_wer"]),
    ):
        ends = "" if interval["low"] is None else f"  [{interval['low']:.2%}, {interval['high']:.2%}]"
        yield f"  {name:<20}{interval['estimate']:8.2%}{ends}"
    yield f"  {'CER, speech only':<20}{part['baseline']['cer']:8.2%}"
    yield f"  {'CER, chosen α':<20}{part['chosen']['cer']:8.2%}"
    for key in ("oracle_wer", "envelope_oracle_wer", "anti_oracle_wer"):
        yield f"  {key.removesuffix('_wer').replace('_', ' ') + ' WER':<20}{part[key]:8.2%}"
    probability = confidence["probability_of_improvement"]
    if probability is not None:
        yield f"  {'P(improvement)':<20}{probability:8.2%}  over {confidence['units']} {confidence['unit']}s"
    shuffle = part["controls"]["image_shuffle"]
    if shuffle is not None:
        yield f"  {'pictures shuffled':<20}{shuffle['wer']:8.2%}"
    yield f"  {len(part['improved'])} utterances improved, {len(part['worsened'])} worsened"
    for label in ("groups", "speakers"):
        for name, row in part[label].items():
            yield (
                f"  {label[:-1]} {name}: {row['utterances']} utterances, "
                f"WER {row['baseline_wer']:.2%} -> {row['wer']:.2%}, "
                f"CER {row['baseline_cer']:.2%} -> {row['cer']:.2%}"
            )
