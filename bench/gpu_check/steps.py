"""A decoder step with a growing cache, in fixed shapes, and replayed as a recorded graph, side by side."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.gpu_check.measurements import Work, measure_speech, same_shares
from bench.measure.timing import Stopwatch, summarize
from bench.peers.earsight import EarsightSpeech
from runtime.errors import ProviderError, SettingsError
from runtime.sessions.factory import Provider, SessionFactory, SessionSettings
from runtime.whisper.fixed_decoder import FixedWhisperModel


def compare_steps(
    work: Work,
    growing: EarsightSpeech,
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
    kept = ("batch", "step_bytes", "floor_s")
    rows = [{name: entry[name] for name in kept} | {"raw_s": {}, "median_s": {}} for entry in measured]
    _add_steps(rows, "growing", measured)
    forms: dict[str, Any] = {"growing": {"identical_hypotheses": 1.0, "passed": None}}
    for form in ("fixed", "recorded"):
        if form == "recorded" and provider.name != "cuda":
            forms[form] = {"left_out": f"the provider {provider.name} records no graphs"}
            continue
        sessions = SessionFactory(provider, replace(settings, cuda_graph=form == "recorded"))
        try:
            speech = work.speech(growing.precision, sessions, FixedWhisperModel)
        except (SettingsError, ProviderError) as error:
            forms[form] = {"left_out": str(error)}
            continue
        forms[form] = _compare(work, growing, speech, rows[-1]["batch"])
        _add_steps(rows, form, (measure_speech(speech, work, row["batch"]) for row in rows))
        del speech
        gc.collect()  # and with it its GPU memory
    return {"precision": growing.precision, "forms": forms, "rows": rows}


def _add_steps(rows: Sequence[dict[str, Any]], form: str, measured: Iterable[Mapping[str, Any]]) -> None:
    for row, entry in zip(rows, measured, strict=True):
        if "step" in entry["stages"]:  # a single generated token comes out of the prompt
            row["raw_s"][form] = entry["stages"]["step"]["raw_s"]
            row["median_s"][form] = summarize(row["raw_s"][form]).median


def _compare(work: Work, growing: EarsightSpeech, speech: EarsightSpeech, batch: int) -> dict[str, Any]:
    features = work.features(batch)
    expected = growing.run(features, work.workload, Stopwatch())
    # Twice: the first time graphs are recorded, the second time they are replayed.
    found = [speech.run(features, work.workload, Stopwatch()) for _ in range(2)]
    identical = min(same_shares(expected, each)[0] for each in found)
    # In float16, products of other lengths may round otherwise and let close candidates change places.
    passed = identical == 1.0 if speech.precision == "fp32" else None
    return {"identical_hypotheses": identical, "passed": passed}
