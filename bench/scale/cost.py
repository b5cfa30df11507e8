"""A model of cost: from recorded runs of `python -m bench nbest` to runs of other sizes.

For U utterances, S seconds of speech and W workers, M of them on a machine:

    work   = (a·U + b·S) · (1 + k·(M − 1))            seconds of all workers together
    tail   = work / U · B / 2, where W > 1            the others wait for the last block of B rows
    wall   = start + max(work / W + tail, d·U)        d: what the driver does for a row

`a` is the encoder's window and all else that an utterance costs, `b` the decoding and reading of a second of
speech, `k` what one more worker on the machine costs the others (memory bandwidth, shared caches).
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from bench.nbest.blocks import BLOCK
from bench.nbest.run_record import RunRecord
from runtime.errors import SettingsError

HOUR: Final = 3600.0
CONTENTIONS: Final = np.linspace(0.0, 1.0, 401)  # values of k that are tried
LEAST_SHARE: Final = 0.5  # of a manifest's rows that a run must have recognised to say what a row costs
SAME_LENGTH: Final = 0.1  # spread of mean lengths below which a and b cannot be told apart
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CostModel:
    """The fitted model.

    Attributes:
        per_utterance_s: a, seconds of a worker.
        per_speech_s: b, seconds of a worker for a second of speech.
        contention: k.
        cpu_share: Seconds of processor in a second of a worker that has the machine for itself.
        start_s: From the start to the first utterance.
        driver_s: d, seconds of the driver for a row.
        worker_bytes: Memory of a worker.
        driver_bytes: Memory of the driver: for no row, and for each.
        output_bytes: Of the n-best file, for a row.
        audio_bytes: Of the recordings, for a second of speech.
        utterance_s: Mean length of the utterances that it was fitted on.
        one_length: Whether they all had about that length, so that a stands for b as well.
        most_workers: Most workers on one machine that it was fitted on.
        on_gpu: Whether a worker had a GPU.
    """

    per_utterance_s: float
    per_speech_s: float
    contention: float
    cpu_share: float
    start_s: float
    driver_s: float
    worker_bytes: float
    driver_bytes: tuple[float, float]
    output_bytes: float
    audio_bytes: float
    utterance_s: float
    one_length: bool
    most_workers: int
    on_gpu: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is expected to take.

    Attributes:
        utterances: U.
        speech_s: S, seconds.
        workers: W.
        machines: So many, with M workers each.
        wall_s: Seconds from start to end.
        work_s: Seconds of all workers together.
        cpu_s_per_hour: Seconds of processor for an hour of speech.
        gpu_s_per_hour: Seconds of a GPU for an hour of speech; None where none was used.
        machine_bytes: Memory of the workers of one machine.
        driver_bytes: Memory of the driver.
        output_bytes: Size of the n-best file.
        audio_bytes: Size of the recordings.
        audio_bytes_per_s: Rate at which the storage must hand them out.
        bottleneck: "workers" or "driver".
        driver_limit: So many workers keep the driver busy; more make nothing faster. None where the driver's
            share was not measured: no run had workers.
    """

    utterances: float
    speech_s: float
    workers: int
    machines: int
    wall_s: float
    work_s: float
    cpu_s_per_hour: float
    gpu_s_per_hour: float | None
    machine_bytes: float
    driver_bytes: float
    output_bytes: float
    audio_bytes: float
    audio_bytes_per_s: float
    bottleneck: str
    driver_limit: float | None


def fit(records: Sequence[RunRecord]) -> CostModel:
    """Fit the model.

    Args:
        records: Runs of one bundle with one group of settings, on one kind of machine; one worker, two, …

    Raises:
        SettingsError: There is none, one recognised nothing, or they differ in more than size and workers.
    """
    _require_alike(records)
    rows = _column(records, "utterances")
    speech = _column(records, "speech_s")
    work = _column(records, "work_s")
    others = _column(records, "workers") - 1
    lengths = speech / rows
    one_length = float(np.ptp(lengths)) < SAME_LENGTH * float(lengths.mean())
    contention, a, b = _fit_work(rows, speech, work, others, one_length=one_length)
    apart = [record for record in records if record.crew != "in process"]
    alone = (a * rows + b * speech).sum()
    return CostModel(
        per_utterance_s=a,
        per_speech_s=b,
        contention=contention,
        cpu_share=float(_column(records, "cpu_s").sum() / alone),
        start_s=statistics.median(record.start_s for record in apart or records),
        driver_s=statistics.median([record.driver_cpu_s / record.utterances for record in apart] or [0.0]),
        worker_bytes=max(record.peak_memory_bytes for record in records),
        driver_bytes=_line([(record.rows, record.driver_memory_bytes) for record in apart or records]),
        output_bytes=sum(record.output_bytes for record in records) / sum(record.rows for record in records),
        audio_bytes=float(sum(record.audio_bytes for record in records) / speech.sum()),
        utterance_s=float(speech.sum() / rows.sum()),
        one_length=one_length,
        most_workers=max(record.workers for record in records),
        on_gpu=records[0].header["settings"]["provider"] != "cpu",
    )


def plan(
    model: CostModel,
    hours: float,
    workers: int,
    *,
    per_machine: int | None = None,
    utterance_s: float | None = None,
) -> Plan:
    """Say what a run takes.

    Args:
        model: Fitted.
        hours: Hours of speech.
        workers: W.
        per_machine: M; None for as many as were measured.
        utterance_s: Mean length of an utterance; None for that of the measured runs.

    Raises:
        SettingsError: A number is out of its range, or asks for what was not measured.
    """
    together = min(workers, model.most_workers if per_machine is None else per_machine)
    length = model.utterance_s if utterance_s is None else utterance_s
    if not hours > 0 or not length > 0 or workers < 1 or together < 1:
        raise SettingsError(
            f"got {hours} hours, {workers} workers, {together} a machine, utterances of {length} s; expected "
            "more than 0 of each"
        )
    if together > model.most_workers:
        raise SettingsError(
            f"{together} workers a machine were asked for, and at most {model.most_workers} were measured; "
            "record a run with so many"
        )
    if model.one_length and abs(length - model.utterance_s) > SAME_LENGTH * model.utterance_s:
        raise SettingsError(
            f"utterances of {length:g} s were asked for, and all that were measured had about "
            f"{model.utterance_s:.2g} s; record runs of another length too"
        )
    speech = hours * HOUR
    return predict(model, speech / length, speech, workers, together)


def predict(model: CostModel, rows: float, speech_s: float, workers: int, together: int) -> Plan:
    """Apply the formula to U rows, S seconds, W workers and M of them on a machine."""
    alone = model.per_utterance_s * rows + model.per_speech_s * speech_s
    work = alone * (1 + model.contention * (together - 1))
    tail = work / rows * BLOCK / 2 if workers > 1 else 0.0
    driver = model.driver_s * rows
    wall = model.start_s + max(work / workers + tail, driver)
    return Plan(
        utterances=rows,
        speech_s=speech_s,
        workers=workers,
        machines=-(-workers // together),
        wall_s=wall,
        work_s=work,
        cpu_s_per_hour=alone * model.cpu_share / speech_s * HOUR,
        gpu_s_per_hour=work / speech_s * HOUR if model.on_gpu else None,
        machine_bytes=model.worker_bytes * together,
        driver_bytes=model.driver_bytes[0] + model.driver_bytes[1] * rows,
        output_bytes=model.output_bytes * rows,
        audio_bytes=model.audio_bytes * speech_s,
        audio_bytes_per_s=model.audio_bytes * speech_s / wall,
        bottleneck="driver" if driver > work / workers + tail else "workers",
        driver_limit=work / driver if driver else None,
    )


def _require_alike(records: Sequence[RunRecord]) -> None:
    if not records:
        raise SettingsError("no run was given to fit on; record some with `python -m bench nbest --record`")
    for record in records:
        if not record.utterances or not record.speech_s or not record.work_s:
            raise SettingsError("a run recognised nothing; record one that begins afresh (--restart)")
        if record.utterances < LEAST_SHARE * record.rows:
            raise SettingsError(
                f"a run recognised {record.utterances:,} of {record.rows:,} rows, the others were done "
                "before or failed; record one that begins afresh (--restart)"
            )
        for name in ("header", "threads", "cpu"):
            one, other = getattr(records[0], name), getattr(record, name)
            if one != other:
                raise SettingsError(
                    f"the runs differ in {name}: {one!r} and {other!r}; expected runs that differ in size "
                    "and number of workers alone"
                )


def _fit_work(
    rows: FloatArray, speech: FloatArray, work: FloatArray, others: FloatArray, *, one_length: bool
) -> tuple[float, float, float]:
    """Return k, a and b with the least squared relative error; a and b are not negative."""
    columns = [(rows, None)] if one_length else [(rows, speech), (rows, None), (None, speech)]
    best = (np.inf, 0.0, 0.0, 0.0)
    for contention in CONTENTIONS if len(set(others)) > 1 else (0.0,):
        factor = (1 + contention * others) / work
        for pair in columns:
            used = [column * factor for column in pair if column is not None]
            found, *_ = np.linalg.lstsq(np.stack(used, axis=1), np.ones(work.size), rcond=None)
            if (found < 0).any():
                continue
            error = float(((np.stack(used, axis=1) @ found - 1) ** 2).sum())
            values = iter(found.tolist())
            a, b = (0.0 if column is None else next(values) for column in pair)
            # Of equals the first: less contention, and both terms.
            best = min(best, (error, float(contention), a, b), key=lambda entry: round(entry[0], 12))
    return best[1:]


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return intercept and slope of a line; the largest value and 0 where there is one place only."""
    x, y = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    if np.ptp(x) == 0:
        return float(y.max()), 0.0
    slope, intercept = np.polyfit(x, y, 1)
    return float(max(intercept, 0.0)), float(max(slope, 0.0))


def _column(records: Sequence[RunRecord], name: str) -> FloatArray:
    return np.array([getattr(record, name) for record in records], dtype=np.float64)
