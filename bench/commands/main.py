"""Command line: `python -m bench`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from runtime.commands.console import packages_needed, run_guarded

PROGRAM: Final = "python -m bench"

# Command -> (module with add_arguments and run, help). A module is imported only when its command is used.
COMMANDS: Final = MappingProxyType(
    {
        "nbest": ("bench.commands.nbest", "recognise a manifest into an n-best file"),
        "plan": ("bench.commands.plan", "what n-best lists of a large corpus will take"),
        "tune": ("bench.commands.tune", "find the alpha with the lowest word error rate"),
        "retune": ("bench.commands.retune", "tune on the corrections that a server kept"),
        "latency": ("bench.commands.latency", "measure latency per stage, and peers beside it"),
        "serve": ("bench.commands.serve", "load on a server: latency, throughput, highest rate"),
        "wer": ("bench.commands.wer", "word and character error rate at one alpha"),
        "accuracy": ("bench.commands.accuracy", "what a precision changes against another"),
        "compare": ("bench.commands.compare", "what changed between two reports"),
        "demo": ("bench.commands.demo", "tune and measure tiny.en, or else the pocket models (the default)"),
        "gpu_check": ("bench.commands.gpu_check", "every check that needs a GPU, in one run"),
    }
)


def make_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser, with the options of one command; the others only carry their line of help."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Measure accuracy and latency, and tune alpha."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        if name == command:
            import_module(module).add_arguments(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["demo"]
    command = next((argument for argument in arguments if argument in COMMANDS), None)
    with packages_needed(f"{PROGRAM} {command or 'demo'}"):
        args = make_parser(command).parse_args(arguments)
        if args.command is None:
            args = make_parser("demo").parse_args(["demo", *arguments])
        module: Any = import_module(COMMANDS[args.command][0])
    return run_guarded(f"{PROGRAM} {args.command}", lambda: int(module.run(args)))
