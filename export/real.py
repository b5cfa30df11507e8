"""Make bundles of OpenAI's Whisper tiny.en and base, from installed packages, with the pocket CLIP."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from export.sources.packages import MODELS, PackagedModel, assemble, known_model, origin
from runtime.bundle.bundle import Bundle
from runtime.commands.console import EXIT_DONE

POCKET_CLIP: Final = Path(__file__).parents[1] / "bench" / "pocket" / "models" / "clip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m export real`."""
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        help=f"this model alone, of {', '.join(MODELS)}; may be given several times",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("models"),
        help="folder of the bundles, each under its model's name (default %(default)s)",
    )
    parser.add_argument(
        "--clip", metavar="ID|DIR", default=str(POCKET_CLIP), help="CLIP: hub id or folder (default: pocket)"
    )
    parser.add_argument(
        "--precision", default="fp32,int8", metavar="LIST", help="as of an export (default %(default)s)"
    )
    parser.add_argument("--verbose", action="store_true", help="log what the libraries have to say")


def run(args: argparse.Namespace) -> int:
    """Write what is missing, model by model.

    Raises:
        WeightsUnavailableError: A package is not installed, or does not hold what was published.
        SettingsError: A model or precision is unknown.
        ParityError: A graph differs from PyTorch.
        OutputError: A bundle cannot be written.
    """
    models = [known_model(name) for name in dict.fromkeys(args.only or MODELS)]
    origins = [origin(model) for model in models]  # all packages are there, before hours or seconds are spent
    # Imported here, so that a missing package is told at once: torch and transformers take seconds to load.
    from export.console import outcome, quieten_libraries

    if not args.verbose:
        quieten_libraries()
    precisions = tuple(part.strip() for part in args.precision.split(",") if part.strip())
    for model, line in zip(models, origins, strict=True):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        sys.stdout.write(f"{outcome(*write_model(model, args.clip, args.output / model.name, precisions))}\n")
        sys.stdout.flush()
    return EXIT_DONE


def write_model(
    model: PackagedModel, clip: str, output: Path, precisions: tuple[str, ...]
) -> tuple[Bundle, bool]:
    """Write the bundle of one packaged model, unless it is there and up to date.

    Args:
        model: Which.
        clip: CLIP, hub id or folder.
        output: Bundle folder.
        precisions: Of "fp32", "int8", "fp16".

    Returns:
        The bundle, and whether it was written now.

    Raises:
        WeightsUnavailableError: A package is not installed, or does not hold what was published.
        CheckpointError: CLIP cannot be used.
        SettingsError: A precision is unknown.
        ParityError: A graph differs from PyTorch.
        OutputError: The bundle cannot be written.
    """
    from export.bundle_writer import ExportRequest, write_bundle
    from export.checkpoints import Source

    with tempfile.TemporaryDirectory(prefix="earsight-") as folder:
        whisper = Path(folder) / model.name
        assemble(model, whisper)
        return write_bundle(ExportRequest(Source(str(whisper)), Source(clip), output, precisions))
