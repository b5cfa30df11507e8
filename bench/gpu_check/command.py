"""Every check that needs a GPU, in one run: `python -m bench.gpu_check`.

Parity with float32 on the CPU, latency of each stage, throughput over batch, memory, node placement, copies
between host and device, and PyTorch in float16 on the same GPU. One table, one JSON file.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from bench.gpu_check.measurements import (
    DeviceSpeech,
    Work,
    check_copies,
    check_parity,
    measure_speech,
    measure_texts,
    release,
    step_floor,
)
from bench.gpu_check.table import render
from bench.gpu_check.torch_reference import measure_mixin, measure_torch_texts, torch_obstacle
from bench.latency.timing import ratio_of_medians
from bench.peers.models import make_workload, prepare_models
from bench.system_info import system_info
from runtime.bundle import Bundle
from runtime.console import EXIT_DONE, run_guarded
from runtime.errors import OutputError, SettingsError
from runtime.providers import Provider, SessionFactory, SessionSettings, select_provider
from runtime.tensorrt import EngineSettings
from runtime.tensorrt_profiles import EngineLimits

SCHEMA: Final = "earsight.gpu_check/1"
FILE_NAME: Final = "gpu_check.json"
FAILED: Final = 1
PRECISIONS: Final = ("fp32", "fp16")
PARITY_BATCH: Final = 2
# How much faster than transformers' float16 n-best on the same GPU, by batch, for whisper-small.
WANTED_RATIOS: Final = {1: 3.0, 16: 2.0}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run measures.

    Attributes:
        work: Bundle, prompt, tokens, beams, rounds.
        precisions: Of the bundle, on the GPU.
        batches: Numbers of utterances.
        texts: Numbers of texts for CLIP.
        whisper: Whisper checkpoint for the comparison with PyTorch; None leaves it out.
        clip: CLIP checkpoint likewise.
    """

    work: Work
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    texts: tuple[int, ...]
    whisper: Path | None = None
    clip: Path | None = None


def check(plan: Plan, provider: Provider, settings: SessionSettings) -> dict[str, Any]:
    """Run all checks on one provider.

    Args:
        plan: What to measure.
        provider: Where. Any provider will do; the CPU serves to test the script itself.
        settings: How sessions are opened.

    Returns:
        The part of the report that depends on the measurement; `passed` sums up what can pass or fail.

    Raises:
        ProviderError: A graph did not go to the provider.
        BundleError: The bundle cannot be used.
    """
    report: dict[str, Any] = {"parity": [], "speech": [], "copies": [], "placement": {}}
    reference = DeviceSpeech(
        "fp32", SessionFactory(Provider("cpu"), SessionSettings(threads=settings.threads))
    )
    reference.load(plan.work.bundle, plan.work.workload)
    turns = len(plan.precisions) * (2 + len(plan.batches)) + 2
    with tqdm(total=turns, desc="gpu_check", unit="check", disable=None, file=sys.stderr) as bar:
        for precision in plan.precisions:
            _check_precision(plan, precision, provider, settings, reference, report, bar)
        report["texts"] = _texts(plan, provider, settings, report["placement"])
        bar.update()
        report["torch"] = _compare_with_torch(plan, report) if provider.device == "cuda" else {}
        bar.update()
    judged = [*report["parity"], *report["copies"], *report["torch"].get("ratios", [])]
    report["passed"] = all(entry["passed"] for entry in judged if entry.get("passed") is not None)
    return report


def _check_precision(
    plan: Plan,
    precision: str,
    provider: Provider,
    settings: SessionSettings,
    reference: DeviceSpeech,
    report: dict[str, Any],
    bar: "tqdm[Any]",
) -> None:
    sessions = SessionFactory(provider, settings)
    speech = DeviceSpeech(precision, sessions)
    speech.load(plan.work.bundle, plan.work.workload)
    report["placement"] |= sessions.describe()["placement"]
    report["parity"].append(check_parity(reference, speech, plan.work, PARITY_BATCH))
    bar.update()
    bandwidth = provider.gpu.bandwidth if provider.gpu else 0
    for batch in plan.batches:
        entry = measure_speech(speech, plan.work, batch)
        entry |= step_floor(plan.work, precision, batch, bandwidth)
        report["speech"].append(entry)
        bar.update()
    del speech
    release()
    report["copies"].append(check_copies(plan.work, precision, provider, settings))
    bar.update()


def _texts(
    plan: Plan, provider: Provider, settings: SessionSettings, placement: dict[str, Any]
) -> dict[str, Any]:
    precision = "fp16" if "fp16" in plan.precisions else plan.precisions[0]
    sessions = SessionFactory(provider, settings)
    largest = settings.engines.limits.texts if provider.name == "tensorrt" else max(plan.texts)
    raw = measure_texts(plan.work, precision, sessions, plan.texts, largest)
    placement |= sessions.describe()["placement"]
    return {"precision": precision, "raw_s": {str(count): values for count, values in raw.items()}}


def _compare_with_torch(plan: Plan, report: dict[str, Any]) -> dict[str, Any]:
    """Measure PyTorch and set the ratios (PyTorch over this project: above 1 is faster here)."""
    obstacle = torch_obstacle()
    if plan.whisper is None or plan.clip is None:
        obstacle = obstacle or "no checkpoints were given (--whisper, --clip)"
    if obstacle or plan.whisper is None or plan.clip is None:
        return {"left_out": obstacle}
    mixin = measure_mixin(plan.whisper, plan.work, plan.batches)
    texts = measure_torch_texts(plan.clip, plan.work, plan.texts)
    ratios = []
    for entry in report["speech"]:
        if entry["precision"] != "fp16":
            continue
        stages = entry["stages"]
        parts = zip(stages["encoder"]["raw_s"], stages["decoding"]["raw_s"], strict=True)
        ratio = ratio_of_medians(mixin[entry["batch"]], [sum(both) for both in parts])
        wanted = WANTED_RATIOS.get(entry["batch"])
        ratios.append(
            {
                "what": f"n-best, batch {entry['batch']}",
                **ratio.to_dict(),
                "wanted": wanted,
                "passed": None if wanted is None else ratio.value >= wanted,
            }
        )
    for count, raw in texts.items():
        ratio = ratio_of_medians(raw, report["texts"]["raw_s"][str(count)])
        ratios.append({"what": f"CLIP text, {count}", **ratio.to_dict(), "wanted": None, "passed": None})
    return {"left_out": None, "ratios": ratios, "raw_s": {str(batch): raw for batch, raw in mixin.items()}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m bench.gpu_check`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", metavar="DIR", type=Path, help="bundle with fp32 and fp16 graphs")
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
        "bundle": {"name": bundle.name, "sha256": bundle.digest},
        "workload": plan.work.workload.to_dict(),
        "rounds": plan.work.rounds,
        "seed": plan.work.seed,
    }
    report |= check(plan, provider, settings)
    sys.stdout.write(f"{render(report)}\n")
    write_report(report, args.output)
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
        folders = prepare_models(args.architecture, sorted({"fp32", *precisions}), args.models)
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


def write_report(report: dict[str, Any], folder: Path) -> Path:
    """Write the report into a folder, which is created.

    Raises:
        OutputError: It cannot be written.
    """
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    program = "python -m bench.gpu_check"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    return run_guarded(program, lambda: run(args))
