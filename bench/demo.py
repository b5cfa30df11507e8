"""`python -m bench demo`: the whole path on the bundled pocket models and corpus, and the report of it."""

import argparse
import sys
from pathlib import Path
from typing import Final

from bench.latency.bundle import BundleSettings, measure_bundle
from bench.latency.command import make_report
from bench.latency.command import write_report as write_latency
from bench.latency.tables import stage_table
from bench.manifest import Utterance, read_manifest
from bench.recognition import write_nbest
from bench.report import write_report
from bench.tuning import tune
from bench.tuning.command import summary_lines, write_tune_files
from runtime.console import EXIT_DONE
from runtime.errors import BundleNotFoundError
from runtime.pipeline import MultimodalASR

DATA: Final = Path(__file__).parent / "pocket" / "data"
DEFAULT_BUNDLE: Final = Path("models/pocket")
DEFAULT_OUTPUT: Final = Path("reports/demo")
LATENCY_UTTERANCES: Final = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--bundle", type=Path, default=DEFAULT_BUNDLE, metavar="DIR", help="(default %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="(default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Recognise dev and test, tune on dev, assess on test, measure latency, write the report."""
    if not (args.bundle / "bundle.json").is_file():
        raise BundleNotFoundError(
            f"{args.bundle}: no bundle there; `make demo` exports the pocket models to it"
        )
    manifests = {split: DATA / split / "manifest.jsonl" for split in ("dev", "test")}
    utterances = {split: read_manifest(path) for split, path in manifests.items()}
    asr = MultimodalASR(args.bundle)
    nbest = {
        split: write_nbest(asr, rows, args.output / f"{split}.jsonl", resume=False)
        for split, rows in utterances.items()
    }
    result = tune(nbest["dev"], test=nbest["test"])
    write_tune_files(args.output, result)
    settings = BundleSettings(args.bundle, manifests["test"], limit=LATENCY_UTTERANCES)
    latency = make_report(lambda: measure_bundle(settings, progress=sys.stderr.isatty()))
    write_latency(latency, args.output)
    page = write_report(args.output, result, nbest["test"], latency, _pictures(utterances["test"]))
    for line in (*summary_lines(result), "", stage_table(latency["stages"]), "", f"report: {page}"):
        print(line)  # noqa: T201
    return EXIT_DONE


def _pictures(utterances: list[Utterance]) -> dict[str, Path]:
    return {utterance.id: utterance.image for utterance in utterances if utterance.image is not None}
