"""The options of every command that runs a bundle, and the pipeline that they make."""

import argparse

from runtime.pipeline import MultimodalASR
from runtime.provider_policy import ORT_NAMES


def add_session_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add what says which graphs run and where."""
    parser.add_argument("--bundle", metavar="DIR", required=required, help="bundle written by `make export`")
    parser.add_argument(
        "--precision", metavar="P", help="fp32, int8 or fp16 (default: the fastest on the provider)"
    )
    parser.add_argument(
        "--provider", choices=sorted(ORT_NAMES), help="where to run (default: the best that works)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: one a physical core)")


def add_pipeline_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add all that makes a pipeline, but alpha."""
    add_session_arguments(parser, required=required)
    parser.add_argument(
        "--image-cache", metavar="NPZ", help="image embeddings, written by `python -m runtime embed-images`"
    )
    parser.add_argument("--num-beams", type=int, default=5, metavar="K", help="beams (default %(default)s)")
    parser.add_argument("--language", metavar="L", help="language code or name (default: detected)")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="most tokens of a hypothesis (default: the checkpoint's)",
    )
    parser.add_argument(
        "--static-steps",
        action="store_true",
        help="decode in fixed shapes, as recorded CUDA graphs on a GPU (bundle exported with --static-steps)",
    )


def make_pipeline(args: argparse.Namespace, *, alpha: float = 0.3) -> MultimodalASR:
    """Open the bundle as the options of `add_pipeline_arguments` say."""
    return MultimodalASR(
        args.bundle,
        alpha=alpha,
        num_beams=args.num_beams,
        image_cache=args.image_cache,
        language=args.language,
        precision=args.precision,
        providers=args.provider,
        threads=args.threads,
        max_new_tokens=args.max_new_tokens,
        static_steps=args.static_steps,
    )
