"""Build the TensorRT engines of a bundle ahead, so that no request has to wait for them."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from tqdm import tqdm

from runtime.bundle.bundle import Bundle
from runtime.bundle.graph import Graph
from runtime.commands.console import EXIT_DONE
from runtime.sessions.factory import SessionFactory, SessionSettings, select_provider
from runtime.sessions.tensorrt.engines import EngineSettings, plan_engine
from runtime.sessions.tensorrt.profiles import EngineLimits, build_profile, limits_of, read_inputs

_LIMIT_HELP = {
    "batch": "utterances at a time",
    "beams": "beams of the search",
    "tokens": "generated tokens",
    "prompt": "tokens of the prompt",
    "continuations": "continuations of one position",
    "texts": "texts at a time",
    "text_length": "tokens of a text",
    "images": "pictures at a time",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m runtime engines`."""
    parser.add_argument("--bundle", metavar="DIR", type=Path, required=True, help="bundle with fp16 graphs")
    parser.add_argument("--precision", default="fp16", choices=("fp16", "fp32"), help="default: %(default)s")
    parser.add_argument(
        "--folder", metavar="DIR", type=Path, help="where engines go (default: beside the graphs)"
    )
    parser.add_argument("--device", metavar="N", type=int, default=0, help="number of the GPU (default: 0)")
    for name, default in asdict(EngineLimits()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="N",
            type=int,
            default=default,
            help=f"at most so many {_LIMIT_HELP[name]} (default: {default})",
        )
    parser.add_argument(
        "--optimization-level", metavar="0-5", type=int, default=3, help="default: %(default)s"
    )
    parser.add_argument("--workspace-mib", metavar="N", type=int, help="scratch memory of the builder")
    parser.add_argument("--context-model", action="store_true", help="also write EP-context models")
    parser.add_argument("--plan", action="store_true", help="print the shapes and stop; needs no GPU")


def engine_limits(args: argparse.Namespace) -> EngineLimits:
    """Turn the arguments into the largest requests.

    Raises:
        SettingsError: An argument is out of its range.
    """
    return EngineLimits(**{each.name: getattr(args, each.name) for each in fields(EngineLimits)})


def engine_settings(args: argparse.Namespace) -> EngineSettings:
    """Turn the arguments into settings that allow building.

    Raises:
        SettingsError: An argument is out of its range.
    """
    return EngineSettings(
        limits=engine_limits(args),
        folder=args.folder,
        allow_build=True,
        workspace_bytes=None if args.workspace_mib is None else args.workspace_mib * 2**20,
        optimization_level=args.optimization_level,
        context_model=args.context_model,
    )


def run(args: argparse.Namespace) -> int:
    """Build what is missing and print where it lies.

    Raises:
        ProviderError: TensorRT cannot run here, or did not take a graph.
        BundleError: The bundle cannot be used.
        SettingsError: An argument is out of its range, or the bundle lacks the precision.
    """
    settings = engine_settings(args)
    bundle = Bundle.open(args.bundle)
    graphs = bundle.graphs(args.precision)
    if args.plan:
        sys.stdout.write(f"{plan_text(graphs, engine_limits(args))}\n")
        return EXIT_DONE
    provider = select_provider("tensorrt", device_id=args.device)
    assert provider.gpu is not None  # TensorRT was proven
    assert provider.tensorrt is not None
    sessions = SessionFactory(provider, SessionSettings(engines=settings))
    for graph in tqdm(graphs, desc="engines", unit="graph", disable=None, file=sys.stderr):
        plan = plan_engine(graph, settings, provider.gpu, provider.tensorrt)
        before, started = plan.is_built, time.perf_counter()
        sessions.open(graph)
        how = "was there" if before else f"built in {time.perf_counter() - started:.0f} s"
        sys.stdout.write(f"{graph.path.name}: {how}: {plan.store.folder(plan.key)}\n")
    return EXIT_DONE


def plan_text(graphs: Sequence[Graph], limits: EngineLimits) -> str:
    """Return the profile of every graph as text.

    Args:
        graphs: Which ones.
        limits: The largest requests.
    """
    lines = []
    for graph in graphs:
        profile = build_profile(graph.name, read_inputs(graph.path), limits_of(graph, limits))
        lines.append(f"{graph.path.name} (profile {profile.digest()})")
        for name, sizes in profile.inputs.items():
            corners = (
                "x".join(str(getattr(size, c)) for size in sizes) for c in ("smallest", "usual", "largest")
            )
            lines.append(f"  {name:<20} {'  '.join(corners)}")
    return "\n".join(lines)
