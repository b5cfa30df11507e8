"""All checks of a GPU on one provider, into one report."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from bench.gpu_check.attention import AttentionWork, measure_attention
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
from bench.gpu_check.steps import compare_steps
from bench.gpu_check.torch_reference import measure_mixin, measure_torch_texts, torch_obstacle
from bench.measure.timing import ratio_of_medians
from runtime.sessions.factory import Provider, SessionFactory, SessionSettings
from runtime.whisper.decoder import DecoderGeometry

PARITY_BATCH: Final = 2
# How much faster than transformers' float16 n-best on the same GPU, by batch, for whisper-small.
WANTED_RATIOS: Final = {1: 3.0, 16: 2.0}
ATTENTION_TOKENS: Final = (16, 64, 256)  # generated before the step
ATTENTION_LAYERS: Final = 4  # enough to see a layer's time; all layers of the largest would fill the memory


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
    report: dict[str, Any] = {"parity": [], "speech": [], "steps": [], "copies": [], "placement": {}}
    reference = DeviceSpeech(
        "fp32", SessionFactory(Provider("cpu"), SessionSettings(threads=settings.threads))
    )
    reference.load(plan.work.bundle, plan.work.workload)
    turns = len(plan.precisions) * (3 + len(plan.batches)) + 3
    with tqdm(total=turns, desc="gpu_check", unit="check", disable=None, file=sys.stderr) as bar:
        for precision in plan.precisions:
            _check_precision(plan, precision, provider, settings, reference, report, bar)
        report["attention"] = _attention(plan, reference.model.geometry, provider, settings)
        bar.update()
        report["texts"] = _texts(plan, provider, settings, report["placement"])
        bar.update()
        report["torch"] = _compare_with_torch(plan, report) if provider.device == "cuda" else {}
        bar.update()
    judged = [*report["parity"], *report["copies"], *report["torch"].get("ratios", [])]
    judged += [form for steps in report["steps"] for form in steps["forms"].values()]
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
    measured = []
    for batch in plan.batches:
        entry = measure_speech(speech, plan.work, batch)
        measured.append(entry | step_floor(plan.work, precision, batch, bandwidth))
        bar.update()
    report["speech"] += measured
    report["steps"].append(compare_steps(plan.work, speech, measured, provider, settings))
    bar.update()
    del speech
    release()
    report["copies"].append(check_copies(plan.work, precision, provider, settings))
    bar.update()


def _attention(
    plan: Plan, geometry: DecoderGeometry, provider: Provider, settings: SessionSettings
) -> list[dict[str, Any]]:
    """Compare the forms of a step's self-attention in the shapes of the checkpoint."""
    provider = replace(provider, name="cuda") if provider.gpu else provider  # TensorRT has no such operator
    workload = plan.work.workload
    return [
        measure_attention(
            AttentionWork(
                batch=batch,
                beams=workload.beams,
                prompt=len(workload.prompt),
                tokens=tokens,
                layers=min(geometry.layers, ATTENTION_LAYERS),
                heads=geometry.heads,
                head_dim=geometry.head_dim,
                half="fp16" in plan.precisions,
            ),
            provider,
            settings,
            plan.work.rounds,
        )
        for batch in plan.batches
        for tokens in ATTENTION_TOKENS
    ]


def _texts(
    plan: Plan, provider: Provider, settings: SessionSettings, placement: dict[str, Any]
) -> dict[str, Any]:
    precision = "fp16" if "fp16" in plan.precisions else plan.precisions[0]
    sessions = SessionFactory(provider, settings)
    limits = settings.engines.limits
    largest = limits.texts if limits and provider.name == "tensorrt" else max(plan.texts)
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
