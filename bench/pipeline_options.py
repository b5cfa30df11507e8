"""The options of every command that runs a bundle."""

import argparse

from runtime.pipeline import MultimodalASR
from runtime.provider_policy import ORT_NAMES


def add_pipeline_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that make a pipeline."""
    parser.add_argument("--bundle", metavar="DIR", required=required, help="bundle written by `make export`")
    parser.add_argument("--image-cache", metavar="NPZ", help="image embeddings, for manifests with image_id")
    parser.add_argument("--num-beams", type=int, default=5, metavar="K", help="beams (default %(default)s)")
    parser.add_argument("--language", metavar="L", help="language code or name (default: detected)")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="most tokens of a hypothesis (default: the checkpoint's)",
    )
    parser.add_argument(
        "--precision", metavar="P", help="fp32, int8 or fp16 (default: the fastest on the provider)"
    )
    parser.add_argument(
        "--provider", choices=sorted(ORT_NAMES), help="where to run (default: the best that works)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: one a physical core)")


def make_pipeline(args: argparse.Namespace) -> MultimodalASR:
    """Open the bundle as the options say."""
    return MultimodalASR(
        args.bundle,
        num_beams=args.num_beams,
        image_cache=args.image_cache,
        language=args.language,
        precision=args.precision,
        providers=args.provider,
        threads=args.threads,
        max_new_tokens=args.max_new_tokens,
    )
