"""The options of every command that runs a bundle, and the pipeline that they make."""

import argparse
from pathlib import Path
from typing import Final

from runtime.audio.segmentation import DEFAULT_PAUSE_S
from runtime.bundle.bundle import Bundle
from runtime.fusion import DEFAULT_ALPHA
from runtime.pipeline import MultimodalASR
from runtime.recognizer import LEAST_TOKENS, TOKENS_PER_SECOND
from runtime.sessions.factory import SessionFactory, SessionSettings
from runtime.sessions.obstacles import ORT_NAMES
from runtime.sessions.opening import open_sessions
from runtime.sessions.tensorrt.engines import EngineSettings
from runtime.speech_gate.gate import DEFAULT_GATE, SpeechGate
from runtime.whisper.beam_settings import DISTINCT
from runtime.whisper.short_encoder import WINDOWS, Window

SERVER_WINDOW: Final[Window] = "auto"  # somebody waits for the answer


def add_session_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add what says which graphs run and where."""
    parser.add_argument("--bundle", metavar="DIR", required=required, help="bundle written by `make export`")
    parser.add_argument(
        "--precision", metavar="P", help="fp32, int8, fp16 or bf16 (default: the fastest on the provider)"
    )
    parser.add_argument(
        "--provider", choices=sorted(ORT_NAMES), help="where to run (default: the best that works)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: one a physical core)")
    parser.add_argument(
        "--spin-us",
        type=int,
        default=SessionSettings().spin_us,
        metavar="N",
        help="microseconds that an idle thread waits actively before it sleeps (default %(default)s)",
    )
    parser.add_argument(
        "--device", type=int, default=0, metavar="N", help="number of the GPU (default %(default)s)"
    )
    parser.add_argument(
        "--tf32", action="store_true", help="quicker float32 on a GPU, with 10 bits of mantissa"
    )
    parser.add_argument(
        "--gpu-memory-mib",
        type=int,
        metavar="N",
        help="limit of CUDA's arena (default: all of the GPU's memory)",
    )
    parser.add_argument(
        "--engines",
        type=Path,
        metavar="DIR",
        help="TensorRT engines, built by `python -m runtime engines` (default: beside the graphs)",
    )


def add_alpha_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--alpha`; None where it is not given."""
    parser.add_argument(
        "--alpha",
        type=float,
        help=f"weight of the picture, 0 to 1 (default: that of --fusion, else {DEFAULT_ALPHA})",
    )


def add_server_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all that makes a server's pipeline: the same options, its own window, and alpha."""
    add_pipeline_arguments(parser)
    parser.set_defaults(window=SERVER_WINDOW)
    add_alpha_argument(parser)


def add_pipeline_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add all that makes a pipeline, but alpha."""
    add_session_arguments(parser, required=required)
    parser.add_argument(
        "--image-cache", metavar="NPZ", help="image embeddings, written by `python -m runtime embed-images`"
    )
    parser.add_argument("--num-beams", type=int, default=5, metavar="K", help="beams (default %(default)s)")
    parser.add_argument(
        "--num-hypotheses", type=int, metavar="N", help="length of the n-best list, 1 to K (default: K)"
    )
    parser.add_argument("--language", metavar="L", help="language code or name (default: detected)")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="most tokens of a hypothesis (default: as --tokens-per-second says, within the checkpoint's)",
    )
    parser.add_argument(
        "--tokens-per-second",
        type=float,
        metavar="R",
        help=f"most tokens that a second of sound adds to {LEAST_TOKENS} without --max-new-tokens; inf for "
        f"the checkpoint's limit (default: {TOKENS_PER_SECOND['en']:g} of English, else "
        f"{TOKENS_PER_SECOND['other']:g})",
    )
    parser.add_argument(
        "--fixed-steps",
        action="store_true",
        help="decode in fixed shapes, as recorded CUDA graphs on a GPU (bundle exported with --fixed-steps)",
    )
    parser.add_argument(
        "--window",
        choices=WINDOWS,
        default=WINDOWS[0],
        help="encode all of the model's window, or what the speech needs where that is less and (auto) "
        "the export measured that it may stand in (default %(default)s)",
    )
    parser.add_argument(
        "--distinct",
        choices=DISTINCT,
        help="what the hypotheses of a list differ in: tokens, or words, punctuation aside "
        "(default: as --fusion was tuned, else tokens)",
    )
    parser.add_argument(
        "--fusion", metavar="FILE", help="fusion.json of `python -m bench tune`: how to fuse with the picture"
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=DEFAULT_PAUSE_S,
        metavar="S",
        help="shortest pause, seconds, that splits a recording longer than the window (default %(default)s)",
    )
    _add_gate_arguments(parser.add_argument_group("no speech, no text"))


def _add_gate_arguments(group: argparse._ArgumentGroup) -> None:
    gate = DEFAULT_GATE
    group.add_argument(
        "--silence-dbfs",
        type=float,
        default=gate.silence_dbfs,
        metavar="DB",
        help="silent if its loudest 0.1 s are below this level (default %(default)s dBFS)",
    )
    group.add_argument(
        "--no-speech-threshold",
        type=float,
        default=gate.no_speech_prob,
        metavar="P",
        help="probability above which the model hears no speech (default %(default)s)",
    )
    group.add_argument(
        "--log-prob-threshold",
        type=float,
        default=gate.log_prob,
        metavar="L",
        help="mean log-probability below which a text is improbable (default %(default)s)",
    )
    group.add_argument(
        "--keep-all-text", action="store_true", help="give the model's text even where there is no speech"
    )


def _speech_gate(args: argparse.Namespace) -> SpeechGate | None:
    if args.keep_all_text:
        return None
    return SpeechGate(
        silence_dbfs=args.silence_dbfs,
        no_speech_prob=args.no_speech_threshold,
        log_prob=args.log_prob_threshold,
    )


def make_sessions(args: argparse.Namespace, bundle: Bundle) -> SessionFactory:
    """Choose where a bundle runs, as the options of `add_session_arguments` say."""
    return open_sessions(
        bundle,
        providers=args.provider,
        device_id=args.device,
        precision=args.precision,
        settings=SessionSettings(
            threads=args.threads,
            spin_us=args.spin_us,
            tf32=args.tf32,
            gpu_memory_bytes=None if args.gpu_memory_mib is None else args.gpu_memory_mib * 2**20,
            engines=EngineSettings(folder=args.engines),
        ),
    )


def make_pipeline(
    args: argparse.Namespace, *, alpha: float | None = None, beside: MultimodalASR | None = None
) -> MultimodalASR:
    """Open the bundle as the options of `add_pipeline_arguments` say.

    Args:
        args: The options.
        alpha: Weight of the picture; None for that of the fusion.
        beside: A pipeline of the same options, threads aside, whose bundle and image cache
            serve this one, too.
    """
    bundle = Bundle.open(args.bundle) if beside is None else beside.bundle
    return MultimodalASR(
        bundle,
        alpha=alpha,
        fusion=args.fusion,
        num_beams=args.num_beams,
        num_hypotheses=args.num_hypotheses,
        image_cache=args.image_cache if beside is None else beside.image_embeddings,
        language=args.language,
        precision=args.precision,
        sessions=make_sessions(args, bundle),
        max_new_tokens=args.max_new_tokens,
        tokens_per_second=args.tokens_per_second,
        fixed_steps=args.fixed_steps,
        window=args.window,
        distinct=args.distinct,
        speech_gate=_speech_gate(args),
        pause_s=args.pause,
    )
