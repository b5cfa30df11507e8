"""Every check that needs a GPU, in one run: `python -m bench gpu_check`.

Parity with float32 on the CPU, latency of each stage, throughput over batch, memory, node placement, copies
between host and device, forms of a step, and PyTorch in float16 on the same GPU. One table, one JSON file.
"""

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.commands.latency import write_report
from bench.gpu_check.check import PARITY_BATCH, Plan, check
from bench.gpu_check.measurements import Work
from bench.gpu_check.table import render
from bench.measure.system_info import system_info
from bench.peers.models import make_workload, prepare_models
from runtime.bundle.bundle import Bundle
from runtime.commands.console import EXIT_DONE
from runtime.errors import SettingsError
from runtime.sessions.factory import SessionFactory, SessionSettings, select_provider
from runtime.sessions.tensorrt.engines import EngineSettings
from runtime.sessions.tensorrt.profiles import EngineLimits

SCHEMA: Final = "earsight.gpu_check/1"
FILE_NAME: Final = "gpu_check.json"
FAILED: Final = 1
PRECISIONS: Final = ("fp32", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m bench gpu_check`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", metavar="DIR", type=Path, help="fp32 and fp16, with --fixed-steps")
    source.add_argument("--architecture", metavar="NAME", help="random weights of whisper-small, …")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help=f"folder for {FILE_NAME}")
    parser.add_argument(
        "--provider", default="cuda", choices=("cuda", "tensorrt"), help="default: %(default)s"
    )
    parser.add_argument("--precision", default="fp32,fp16", metavar="LIST", help="default: %(default)s")
    parser.add_argument("--device", metavar="N", type=int, default=0, help="number of the GPU (default: 0)")
    parser.add_argument(
        "--build-engines", action="store_true", help="build missing TensorRT engines (minutes)"
    )
    parser.add_argument("--whisper", metavar="DIR", type=Path, help="checkpoint of the bundle, for PyTorch")
    parser.add_argument("--clip", metavar="DIR", type=Path, help="checkpoint of the bundle, for PyTorch")
    parser.add_argument("--models", metavar="DIR", type=Path, default=Path("models/architectures"))
    parser.add_argument("--batches", default="1,4,16", metavar="LIST", help="default: %(default)s")
    parser.add_argument("--texts", default="1,64,1024", metavar="LIST", help="default: %(default)s")
    parser.add_argument("--beams", type=int, default=5, metavar="K", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=32, metavar="N", help="generated tokens (default: 32)")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="repetitions (default: 20)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU reference")


def run(args: argparse.Namespace) -> int:
    """Check, print the table, write the JSON.

    Returns:
        0 when everything that can fail passed, else 1.

    Raises:
        ProviderError: The provider cannot run here (exit status 2 at the command line).
        SettingsError: An argument is out of its range.
        BundleError: The bundle cannot be used.
        OutputError: The report cannot be written.
    """
    # First of all, so that a machine without a GPU is told so before anything is exported.
    provider = select_provider(args.provider, device_id=args.device)
    plan = make_plan(args)
    settings = session_settings(args, plan)
    bundle = Bundle.open(plan.work.bundle)
    report = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": system_info(),
        **SessionFactory(provider, settings).describe(),
        "bundle": bundle.identity,
        "workload": plan.work.workload.to_dict(),
        "rounds": plan.work.rounds,
        "seed": plan.work.seed,
    }
    report |= check(plan, provider, settings)
    sys.stdout.write(f"{render(report)}\n")
    write_report(report, args.output, FILE_NAME)
    return EXIT_DONE if report["passed"] else FAILED


def make_plan(args: argparse.Namespace) -> Plan:
    """Turn the arguments into a plan; with `--architecture`, make checkpoints and bundle first.

    Raises:
        SettingsError: An argument is out of its range.
    """
    precisions = tuple(part.strip() for part in args.precision.split(",") if part.strip())
    if not precisions or not set(precisions) <= set(PRECISIONS):
        raise SettingsError(f"--precision is {args.precision!r}; expected some of {', '.join(PRECISIONS)}")
    if args.rounds < 1:
        raise SettingsError(f"--rounds is {args.rounds}; expected 1 or more")
    batches, texts = numbers("--batches", args.batches), numbers("--texts", args.texts)
    bundle, whisper, clip = args.bundle, args.whisper, args.clip
    if args.architecture:
        # The CPU reference is float32 whatever runs on the GPU.
        wanted = sorted({"fp32", *precisions})
        folders = prepare_models(args.architecture, wanted, args.models, fixed_steps=True)
        bundle, whisper, clip = folders.bundle, folders.whisper, folders.clip
    workload = make_workload(bundle / "whisper", args.steps, args.beams, args.threads or os.cpu_count() or 1)
    return Plan(Work(bundle, workload, args.rounds), precisions, batches, texts, whisper, clip)


def session_settings(args: argparse.Namespace, plan: Plan) -> SessionSettings:
    """Return session settings whose engine limits cover the plan."""
    limits = EngineLimits(
        batch=max(*plan.batches, PARITY_BATCH),
        beams=args.beams,
        tokens=args.steps,
        texts=min(64, max(plan.texts)),
    )
    engines = EngineSettings(limits=limits, allow_build=args.build_engines)
    return SessionSettings(threads=args.threads, engines=engines)


def numbers(flag: str, text: str) -> tuple[int, ...]:
    """Parse a list like "1,4,16".

    Raises:
        SettingsError: An entry is no whole number from 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SettingsError(f"{flag} is {text!r}; expected whole numbers from 1, separated by commas")
    return tuple(dict.fromkeys(int(part) for part in parts))
