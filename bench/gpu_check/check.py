"""All checks of a GPU on one provider, into one report."""

import gc
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from bench.gpu_check.measurements import (
    Work,
    check_copies,
    check_parity,
    measure_speech,
    measure_texts,
    step_floor,
)
from bench.gpu_check.steps import compare_steps
from bench.gpu_check.torch_reference import compare_with_torch
from bench.peers.earsight import cpu_sessions
from runtime.sessions.factory import Provider, SessionFactory, SessionSettings

PARITY_BATCH: Final = 2


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
    work = plan.work
    report: dict[str, Any] = {"parity": [], "speech": [], "steps": [], "copies": [], "placement": {}}
    reference = work.speech("fp32", cpu_sessions(settings.threads))
    bandwidth = provider.gpu.bandwidth if provider.gpu else 0
    turns = len(plan.precisions) * (3 + len(plan.batches)) + 2
    with tqdm(total=turns, desc="gpu_check", unit="check", disable=None, file=sys.stderr) as bar:
        for precision in plan.precisions:
            sessions = SessionFactory(provider, settings)
            speech = work.speech(precision, sessions)
            report["placement"] |= sessions.describe()["placement"]
            report["parity"].append(check_parity(reference, speech, work, PARITY_BATCH))
            bar.update()
            measured = []
            for batch in plan.batches:
                floor = step_floor(work, precision, batch, bandwidth)
                measured.append(measure_speech(speech, work, batch) | floor)
                bar.update()
            report["speech"] += measured
            report["steps"].append(compare_steps(work, speech, measured, provider, settings))
            bar.update()
            del speech
            gc.collect()  # and with it its GPU memory
            report["copies"].append(check_copies(work, precision, provider, settings))
            bar.update()
        sessions = SessionFactory(provider, settings)
        texts = "fp16" if "fp16" in plan.precisions else plan.precisions[0]
        report["texts"] = measure_texts(work, texts, sessions, plan.texts)
        report["placement"] |= sessions.describe()["placement"]
        bar.update()
        report["torch"] = {}
        if provider.device == "cuda":
            raw = report["texts"]["raw_s"]
            report["torch"] = compare_with_torch(work, plan.whisper, plan.clip, report["speech"], raw)
        bar.update()
    judged = [*report["parity"], *report["copies"], *report["torch"].get("ratios", [])]
    judged += [form for steps in report["steps"] for form in steps["forms"].values()]
    report["passed"] = all(entry["passed"] for entry in judged if entry.get("passed") is not None)
    return report
