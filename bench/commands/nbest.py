"""`python -m bench nbest`: recognise a manifest once, so that everything after needs no model."""

import argparse
from pathlib import Path

from bench.manifest import read_manifest
from bench.nbest.recognition import write_nbest
from runtime.commands.console import EXIT_DONE
from runtime.commands.options import add_pipeline_arguments, make_pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_pipeline_arguments(parser)
    parser.add_argument("--data", required=True, type=Path, metavar="MANIFEST", help="JSON Lines or CSV")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="the n-best file, JSON Lines"
    )
    parser.add_argument(
        "--restart", action="store_true", help="start afresh instead of going on with the file"
    )


def run(args: argparse.Namespace) -> int:
    """Write the n-best file."""
    utterances = read_manifest(args.data)
    nbest = write_nbest(make_pipeline(args), utterances, args.output, resume=not args.restart)
    print(f"{args.output}: {len(nbest.utterances)} utterances")
    return EXIT_DONE
