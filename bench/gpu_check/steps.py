"""A decoder step with a growing cache, in fixed shapes, and replayed as a recorded graph, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from bench.gpu_check.measurements import DeviceSpeech, Work, measure_speech, release, same_shares
from bench.measure.timing import Stopwatch, summarize
from runtime.errors import ProviderError, SettingsError
from runtime.sessions.factory import Provider, SessionFactory, SessionSettings
from runtime.whisper.fixed_decoder import FixedWhisperModel

STEP_FORMS: Final = ("growing", "fixed", "recorded")


class FixedSpeech(DeviceSpeech):
    """`DeviceSpeech` whose decoder runs in fixed shapes; recorded where the sessions' settings say so."""

    model_kind = FixedWhisperModel


def compare_steps(
    work: Work,
    growing: DeviceSpeech,
    measured: Sequence[Mapping[str, Any]],
    provider: Provider,
    settings: SessionSettings,
) -> dict[str, Any]:
    """Time a step in every form that the provider has.

    Args:
        work: What is measured.
        growing: The opened default, whose precision is taken.
        measured: Its entries of `measure_speech` with those of `step_floor`, one a batch.
        provider: Where. CUDA alone records graphs; the others leave that form out.
        settings: How sessions are opened.

    Returns:
        `precision`; `forms`, for each either the reason why it is `left_out` or `identical_hypotheses` (share
        of the n-best entries that equal the growing form's) and `passed`; and `rows`, one a batch, with the
        raw seconds of a step in each form, their medians, and the time that its bytes need, `floor_s`.
    """
    rows = [_row(entry) for entry in measured]
    forms: dict[str, Any] = {"growing": {"identical_hypotheses": 1.0, "passed": None}}
    for form in STEP_FORMS[1:]:
        if form == "recorded" and provider.name != "cuda":
            forms[form] = {"left_out": f"the provider {provider.name} records no graphs"}
            continue
        sessions = SessionFactory(provider, replace(settings, cuda_graph=form == "recorded"))
        speech = FixedSpeech(growing.precision, sessions)
        try:
            speech.load(work.bundle, work.workload)
        except (SettingsError, ProviderError) as error:
            forms[form] = {"left_out": str(error)}
            continue
        forms[form] = _compare(work, growing, speech, rows[-1]["batch"])
        for row in rows:
            stages = measure_speech(speech, work, row["batch"])["stages"]
            _add_step(row, form, stages)
        del speech
        release()
    return {"precision": growing.precision, "forms": forms, "rows": rows}


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: entry[name] for name in ("batch", "step_bytes", "floor_s")}
    row = {**kept, "raw_s": {}, "median_s": {}}
    _add_step(row, "growing", entry["stages"])
    return row


def _add_step(row: dict[str, Any], form: str, stages: Mapping[str, Any]) -> None:
    if "step" in stages:  # a single generated token comes out of the prompt
        row["raw_s"][form] = stages["step"]["raw_s"]
        row["median_s"][form] = summarize(stages["step"]["raw_s"]).median


def _compare(work: Work, growing: DeviceSpeech, speech: DeviceSpeech, batch: int) -> dict[str, Any]:
    features = work.features(batch)
    expected = growing.run(features, work.workload, Stopwatch())
    # Twice: the first time graphs are recorded, the second time they are replayed.
    found = [speech.run(features, work.workload, Stopwatch()) for _ in range(2)]
    identical = min(same_shares(expected, each)[0] for each in found)
    # In float16, products of other lengths may round otherwise and let close candidates change places.
    passed = identical == 1.0 if speech.precision == "fp32" else None
    return {"identical_hypotheses": identical, "passed": passed}
