"""Command line: `python -m runtime`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.bundle.bundle import Bundle
from runtime.clip.cache import save_image_cache
from runtime.clip.pictures import picture_suffixes
from runtime.commands import doctor, engines, serve
from runtime.commands.console import EXIT_DONE, run_guarded
from runtime.commands.options import (
    add_alpha_argument,
    add_pipeline_arguments,
    add_session_arguments,
    make_pipeline,
    make_sessions,
)
from runtime.commands.triton import command as triton
from runtime.errors import ImageError, ImageNotFoundError, OutputError, SettingsError
from runtime.pipeline import MultimodalASR
from runtime.results import Transcription

PROGRAM = "python -m runtime"
NAMED = 10  # files that are passed over and named; of the others the number is told


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Speech recognition that looks at the picture which the speaker describes."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    transcribe = commands.add_parser(
        "transcribe", help="recognise audio files, with a picture where there is one"
    )
    transcribe.add_argument(
        "audio", nargs="+", metavar="AUDIO", help="audio files (wav, flac, ogg, opus, mp3, …)"
    )
    add_pipeline_arguments(transcribe)
    picture = transcribe.add_mutually_exclusive_group()
    picture.add_argument("--image", metavar="FILE", help="the picture that the speaker describes")
    picture.add_argument("--image-id", metavar="KEY", help="key of the picture in --image-cache")
    add_alpha_argument(transcribe)
    transcribe.add_argument(
        "--truncate",
        action="store_true",
        help="recognise only the beginning that fits the window (default: split longer recordings)",
    )
    transcribe.add_argument(
        "--json", action="store_true", help="one JSON object a file, with the whole n-best list"
    )

    embed = commands.add_parser("embed-images", help="write the embeddings of pictures to a cache")
    embed.add_argument("images", nargs="+", metavar="FILE|DIR", help="pictures, or folders of pictures")
    add_session_arguments(embed)
    embed.add_argument("--output", required=True, type=Path, metavar="NPZ", help="the cache; key = file name")

    check = commands.add_parser("doctor", help="print what this machine can run, and where")
    doctor.add_arguments(check)

    build = commands.add_parser("engines", help="build the TensorRT engines of a bundle ahead")
    engines.add_arguments(build)

    server = commands.add_parser(
        "serve", help="answer over HTTP, as OpenAI's clients ask, with pictures and alternatives"
    )
    serve.add_arguments(server)

    repository = commands.add_parser("triton", help="write a model repository for NVIDIA Triton")
    triton.add_arguments(repository)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Run the command that was parsed."""
    if args.command == "doctor":
        return doctor.run(args)
    if args.command == "engines":
        return engines.run(args)
    if args.command == "serve":
        return serve.run(args)
    if args.command == "triton":
        return triton.run(args)
    return _transcribe(args) if args.command == "transcribe" else _embed_images(args)


def _transcribe(args: argparse.Namespace) -> int:
    if args.image_id and not args.image_cache:
        raise SettingsError("--image-id names a key of an image cache; give the cache with --image-cache NPZ")
    if args.image and not Path(args.image).is_file():
        raise ImageNotFoundError(f"{args.image}: no such picture; expected an image file for --image")
    asr = make_pipeline(args, alpha=args.alpha)
    for audio in tqdm(
        args.audio, desc="transcribe", unit="file", disable=None if len(args.audio) > 1 else True
    ):
        result = asr.transcribe(audio, image_id=args.image_id, image_path=args.image, truncate=args.truncate)
        tqdm.write(_as_json(audio, result) if args.json else _as_text(audio, result, len(args.audio) > 1))
    return EXIT_DONE


def _as_json(audio: str, result: Transcription) -> str:
    return json.dumps({"audio": audio, **result.to_dict()}, ensure_ascii=False)


def _as_text(audio: str, result: Transcription, several: bool) -> str:
    no_speech = result.no_speech
    for note in (result.warning, no_speech.reason if no_speech else None):
        if note:
            print(f"{PROGRAM}: {audio}: {note}", file=sys.stderr)
    return f"{audio}\t{result.transcription}" if several else result.transcription


def _embed_images(args: argparse.Namespace) -> int:
    paths = _pictures([Path(image) for image in args.images])
    if not args.output.parent.is_dir():  # noticed before the work, not after it
        raise OutputError(
            f"{args.output.parent} is no folder; expected one that --output can be written into"
        )
    bundle = Bundle.open(args.bundle)
    asr = MultimodalASR(bundle, precision=args.precision, sessions=make_sessions(args, bundle))
    embeddings: dict[str, NDArray[np.float32]] = {}
    unusable: list[ImageError] = []
    for path in tqdm(paths, desc="embed-images", unit="picture", disable=None):
        try:
            embeddings[path.name] = asr.encode_images([path])[0]
        except ImageError as error:
            unusable.append(error)
    if embeddings:
        save_image_cache(args.output, embeddings)
        print(f"{args.output}: {len(embeddings)} pictures, {asr.image_encoder.dimension} numbers each")
    if unusable:
        reasons = "; ".join(map(str, unusable))
        raise ImageError(f"{len(unusable)} of {len(paths)} pictures are not in the cache: {reasons}")
    return EXIT_DONE


def _is_picture_name(path: Path) -> bool:
    # macOS keeps the attributes of p.jpg in ._p.jpg on foreign disks.
    return path.suffix.lower() in picture_suffixes() and not path.name.startswith("._") and not path.is_dir()


def _pictures(places: Sequence[Path]) -> list[Path]:
    """Return the files, and the pictures of the folders, each file name once; name what is passed over."""
    found: dict[str, Path] = {}
    passed_over: list[Path] = []
    for place in places:
        if not place.exists():
            raise ImageNotFoundError(f"{place}: no such file or folder; expected pictures")
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        for path in inside:
            if place.is_dir() and not _is_picture_name(path):
                passed_over.append(path)
                continue
            other = found.setdefault(path.name, path)
            if other != path:
                raise ImageError(
                    f"{other} and {path} have the same file name, which is the key of the cache; "
                    "rename one of them"
                )
    if passed_over:
        names = ", ".join(f"{path.name}/" if path.is_dir() else path.name for path in passed_over[:NAMED])
        more = f" and {len(passed_over) - NAMED} more" if len(passed_over) > NAMED else ""
        print(
            f"{PROGRAM}: {len(passed_over)} passed over, no pictures by their names: {names}{more}",
            file=sys.stderr,
        )
    if not found:
        raise ImageNotFoundError(
            f"no pictures in {', '.join(map(str, places))}; expected {', '.join(sorted(picture_suffixes()))}"
        )
    return list(found.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_args(argv)
    return run_guarded(f"{PROGRAM} {args.command}", lambda: run(args))
