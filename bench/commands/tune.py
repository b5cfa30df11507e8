"""`python -m bench tune`: find the alpha with the lowest word error rate, and say what it is worth."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.commands.modes import mark_defaults, read_options
from bench.manifest import Utterance, read_manifest
from bench.measure.system_info import system_info
from bench.nbest.corpus import write_nbest
from bench.nbest.file import NBestFile, read_nbest
from bench.report import write_report
from bench.text.normalizers import DEFAULT_NORMALIZER, NORMALIZER_NAMES
from bench.tuning.alpha import TuneResult, tune
from bench.tuning.explain import explain
from bench.tuning.options import TuneOptions
from bench.tuning.table import summary_lines
from runtime.bundle.json_files import parse_json
from runtime.commands.console import EXIT_DONE
from runtime.commands.options import add_pipeline_arguments, make_pipeline
from runtime.errors import SettingsError
from runtime.files.write_whole import write_json, write_text

__all__ = ["add_arguments", "run", "summary_lines", "write_tune_files"]


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
    parser.add_argument("--asr-score", choices=("mean", "sum"), default="mean", help="(default %(default)s)")
    add_tuning_arguments(parser)
    add_pipeline_arguments(parser, required=False)
    mark_defaults(parser, _recognition_options())


def _recognition_options() -> list[str]:
    """Return the options that make lists, which --nbest has; a language is how texts are compared, too."""
    parser = argparse.ArgumentParser()
    add_pipeline_arguments(parser, required=False)
    return [name for name in vars(parser.parse_args([])) if name != "language"]


def add_tuning_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that tunes."""
    parser.add_argument(
        "--normalizer",
        choices=NORMALIZER_NAMES,
        default=DEFAULT_NORMALIZER,
        help="for WER; the notebook's stands beside it (default %(default)s)",
    )
    parser.add_argument("--select", choices=("exact", "grid"), default="exact", help="(default %(default)s)")
    parser.add_argument("--tune-scale", action="store_true", help="also tune ASR temperature and CLIP scale")
    parser.add_argument("--replicates", type=int, default=10_000, metavar="N", help="(default %(default)s)")
    parser.add_argument("--folds", type=int, default=10, metavar="K", help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default %(default)s)")


def tune_options(args: argparse.Namespace) -> TuneOptions:
    """Return what the options of `add_tuning_arguments` say, and the language."""
    return TuneOptions(
        normalizer=args.normalizer,
        language=args.language,
        select=args.select,
        tune_scale=args.tune_scale,
        replicates=args.replicates,
        folds=args.folds,
        seed=args.seed,
    )


def run(args: argparse.Namespace) -> int:
    """Tune, write the files and print the table."""
    if (args.nbest is None) == (args.data is None):
        raise SettingsError("got both or none of --nbest and --data; expected one of them")
    if args.nbest is None:
        args = read_options(args, "--data")
    else:
        args = read_options(args, "--nbest", dict.fromkeys(_recognition_options(), "--data"))
    options = replace(tune_options(args), asr_score=args.asr_score)
    development, test, pictures = _nbest_files(args)
    result = tune(development, options, test)
    write_tune_files(args.output, result)
    page = write_report(args.output, result, test or development, _latency(args.output), pictures)
    use = f"use it with --fusion {args.output / 'fusion.json'}"
    for line in (*summary_lines(result), "", f"report: {page}", use):
        print(line)
    return EXIT_DONE


def _latency(output: Path) -> dict[str, Any] | None:
    """Return the latency report that `bench latency` left in the same folder, None if there is none."""
    path = output / "latency.json"
    if not path.is_file():
        return None
    try:
        report: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path}: not JSON ({error}); delete it or measure again") from error
    return report


def _nbest_files(args: argparse.Namespace) -> tuple[NBestFile, NBestFile | None, dict[str, Path]]:
    """Read the n-best files, or make them from manifests; and name the pictures of the last of them."""
    if args.nbest is not None:
        return read_nbest(args.nbest), None if args.test is None else read_nbest(args.test), {}
    if args.bundle is None:
        raise SettingsError("--data needs --bundle, the folder that `make export` wrote")
    manifest = read_manifest(args.data)
    test_manifest = None if args.test is None else read_manifest(args.test)
    asr = make_pipeline(args)
    development = write_nbest(asr, manifest, args.output / "nbest.jsonl")
    if test_manifest is None:
        return development, None, pictures_of(manifest)
    test = write_nbest(asr, test_manifest, args.output / "nbest-test.jsonl")
    return development, test, pictures_of(test_manifest)


def pictures_of(utterances: Sequence[Utterance]) -> dict[str, Path]:
    """Return the picture file of every utterance that has one."""
    return {utterance.id: utterance.image for utterance in utterances if utterance.image is not None}


def write_tune_files(output: Path, result: TuneResult, more: Mapping[str, Any] | None = None) -> Path:
    """Write `tune.json`, `fusion.json` and `explanations.jsonl` (one utterance a line), each whole.

    Args:
        output: The folder; made if missing.
        result: The tuning run.
        more: What `tune.json` is to say beside it.

    Returns:
        The path of `tune.json`.

    Raises:
        OutputError: The folder cannot be written.
    """
    report = result.to_dict() | {"system": system_info()} | dict(more or {})
    explanations = (
        json.dumps(explanation.to_dict(), ensure_ascii=False)
        for explanation in explain(result.table, result.fusion)
    )
    write_text(output / "explanations.jsonl", "\n".join(explanations) + "\n")
    result.fusion.save(output / "fusion.json")
    return write_json(output / "tune.json", report)
