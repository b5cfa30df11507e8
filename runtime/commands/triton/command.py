"""`python -m runtime triton`: a model repository for NVIDIA Triton, with a bundle in it."""

import argparse
import shlex
from pathlib import Path

from runtime.bundle.bundle import Bundle
from runtime.commands.console import EXIT_DONE
from runtime.commands.options import add_alpha_argument, add_pipeline_arguments
from runtime.commands.triton.config import ALPHA, FILES, OPTIONS
from runtime.commands.triton.repository import TritonSettings, write_repository
from runtime.fusion import checked_alpha
from runtime.sessions.obstacles import parse_provider

# Options that the configuration does not repeat: the bundle is copied, the GPU is Triton's.
_NOT_REPEATED = frozenset({"help", "bundle", "device", "output", "alpha", "instances", "provider"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m runtime triton`."""
    add_pipeline_arguments(parser)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the repository; other models in it stay"
    )
    add_alpha_argument(parser)
    parser.add_argument(
        "--instances",
        type=int,
        default=1,
        metavar="N",
        help="pipelines at a time, on each GPU or on the CPU (default %(default)s)",
    )
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Write the repository and print what it holds.

    Raises:
        SettingsError: A setting is out of its range, or the bundle lacks the precision.
        BundleError: The bundle cannot be used.
        OutputError: The repository cannot be written.
    """
    alpha = "" if args.alpha is None else repr(checked_alpha(args.alpha))
    provider = parse_provider(args.provider or "cpu")
    files = {Path(value).name: Path(value) for name in FILES if (value := getattr(args, name))}
    options = shlex.join([*_options(args), "--provider", provider])
    settings = TritonSettings(
        provider=provider,
        precision=args.precision,
        instances=args.instances,
        parameters={OPTIONS: options, ALPHA: alpha},
        files=files,
    )
    for path in write_repository(Bundle.open(args.bundle), args.output, settings):
        print(path)
    return EXIT_DONE


def _options(args: argparse.Namespace) -> list[str]:
    """Return the options that differ from their defaults, as a command line; files by their names alone."""
    given: list[str] = []
    for action in args.parser._actions:
        value = getattr(args, action.dest, None)
        if action.dest in _NOT_REPEATED or value == action.default:
            continue
        if action.nargs == 0:
            given.append(action.option_strings[0])
        else:
            told = Path(value).name if value and action.dest in FILES else value
            given.append(f"{action.option_strings[0]}={told}")
    return given
