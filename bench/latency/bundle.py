"""Latency of a bundle on the user's own audio: cold start, stages, batches, memory, accuracy against time."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.latency.pareto import Point, pareto_report
from bench.latency.stage_timing import STAGES, StageTimer
from bench.manifest import Utterance, evenly_spread, read_manifest
from bench.measure.timing import LatencySummary, Stopwatch, summarize
from bench.peers.driver import Worker
from bench.text.normalizers import DEFAULT_NORMALIZER, NOTEBOOK, Normalizer, normalizer
from bench.text.scoring import count_word_errors
from runtime.audio.load import SAMPLING_RATE, load_audio
from runtime.bundle.bundle import Bundle
from runtime.errors import ManifestError, SettingsError
from runtime.pipeline import MultimodalASR
from runtime.sessions.processors import usable_processors
from runtime.whisper.beam_settings import Distinct
from runtime.whisper.short_encoder import WINDOWS, Window

MEMORY_UTTERANCES = 4


@dataclass(frozen=True, slots=True)
class BundleSettings:
    """What to measure of a bundle.

    Attributes:
        bundle: Bundle folder.
        data: Manifest.
        precision: None for the runtime's own choice.
        provider: None for the runtime's own choice.
        threads: None for the runtime's own choice.
        beams: Beams and hypotheses.
        language: None detects it.
        image_cache: .npz of image embeddings, for manifests with `image_id`.
        repeats: Passes over the data that count.
        warm_up: Transcriptions before them.
        limit: Most utterances, evenly spread over the manifest; None for all.
        batches: Batch sizes for the throughput; empty for none.
        cold_runs: Fresh processes for the cold start.
        pareto_beams: Beams of the table of accuracy against time; empty for none.
        window: How much of the encoder's window is computed.
        max_new_tokens: Most tokens of a hypothesis; None for the checkpoint's.
        distinct: What the hypotheses of a list differ in.
    """

    bundle: Path
    data: Path
    precision: str | None = None
    provider: str | None = None
    threads: int | None = None
    beams: int = 5
    language: str | None = None
    image_cache: Path | None = None
    repeats: int = 3
    warm_up: int = 3
    limit: int | None = 50
    batches: tuple[int, ...] = (1, 2, 4, 8)
    cold_runs: int = 3
    pareto_beams: tuple[int, ...] = ()
    window: Window = "full"
    max_new_tokens: int | None = None
    distinct: Distinct = "tokens"

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        for name in ("repeats", "beams"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.limit is not None and self.limit < 1:
            raise SettingsError(f"limit is {self.limit}; it must be 1 or more")
        if self.warm_up < 0 or self.cold_runs < 0 or min((1, *self.batches, *self.pareto_beams)) < 1:
            raise SettingsError(
                "warm-up and cold runs must not be negative; batch sizes and beams start at 1"
            )

    def pipeline(
        self, precision: str | None = None, beams: int | None = None, window: Window | None = None
    ) -> dict[str, Any]:
        """Return the arguments of `MultimodalASR`, JSON-serialisable."""
        return {
            "bundle": str(self.bundle),
            "num_beams": beams or self.beams,
            "language": self.language,
            "precision": precision or self.precision,
            "window": window or self.window,
            "max_new_tokens": self.max_new_tokens,
            "distinct": self.distinct,
            "providers": self.provider,
            "threads": self.threads,
            "image_cache": str(self.image_cache) if self.image_cache else None,
        }


def measure_bundle(settings: BundleSettings, progress: bool = False) -> dict[str, Any]:
    """Measure a bundle on a manifest.

    Returns:
        The part of latency.json that depends on the measurement.

    Raises:
        EarsightError: Bundle, manifest, audio or settings cannot be used.
    """
    bundle = Bundle.open(settings.bundle)
    asr = MultimodalASR(**settings.pipeline())
    utterances, durations, too_long = usable_utterances(settings, asr.whisper.features.window_s)
    cold = cold_start(settings, utterances[:MEMORY_UTTERANCES])
    watch, warm_up = Stopwatch(), Stopwatch()
    for index in range(settings.warm_up):
        StageTimer(asr, warm_up).whole(utterances[index % len(utterances)])
    timer = StageTimer(asr, watch)
    turns = [utterance for _ in range(settings.repeats) for utterance in utterances]
    for utterance in tqdm(turns, disable=None if progress else True, unit="utterance"):
        timer.whole(utterance)
        timer.stages(utterance)
    summaries = watch.summaries()
    real_time = [seconds / durations[i % len(durations)] for i, seconds in enumerate(watch.raw("whole"))]
    audio_s = sum(durations) * settings.repeats
    report: dict[str, Any] = {
        "mode": "bundle",
        "bundle": bundle.identity,
        "settings": _settings(settings) | {"precision": asr.precision, **in_force(asr)},
        "data": {
            "utterances": len(utterances),
            "audio_s": sum(durations),
            "longer_than_window": too_long,
        },
        "cold_start": cold,
        "stages": {name: summaries[name].to_dict() for name in STAGES if name in summaries},
        "warm_up_raw_s": warm_up.raw("whole") if settings.warm_up else [],
        "rtf": {"median": summarize(real_time).median, "corpus": sum(watch.raw("whole")) / audio_s},
        "rtfx": audio_s / sum(watch.raw("whole")),
        "throughput": throughput(asr, utterances, durations, settings.batches, settings.repeats),
        "peak_memory_bytes": cold["peak_memory_bytes"] if cold else None,
        "unstable_stages": unstable(summaries),
    }
    if settings.pareto_beams:
        scorer = normalizer(DEFAULT_NORMALIZER, settings.language)
        report["normalizer"] = scorer.to_dict()
        report["pareto"] = pareto_report(pareto_points(settings, bundle, utterances, scorer, progress))
    return report


def usable_utterances(settings: BundleSettings, window_s: float) -> tuple[list[Utterance], list[float], int]:
    """Read the manifest and keep what fits the model's window.

    Returns:
        Utterances, their durations in seconds, and how many were longer than the window.

    Raises:
        ManifestError: Nothing is left.
    """
    utterances = read_manifest(settings.data)
    durations = [load_audio(utterance.audio).size / SAMPLING_RATE for utterance in utterances]
    fitting = [index for index, seconds in enumerate(durations) if 0 < seconds <= window_s]
    too_long = len(utterances) - len(fitting)
    if not fitting:
        raise ManifestError(f"{settings.data}: no utterance of at most {window_s:g} s; latency is per window")
    fitting = evenly_spread(fitting, settings.limit)
    return [utterances[i] for i in fitting], [durations[i] for i in fitting], too_long


def cold_start(settings: BundleSettings, utterances: Sequence[Utterance]) -> dict[str, Any] | None:
    """Time import, session creation and first answer in fresh processes; None where none were asked for.

    The files are in the operating system's cache by then: a first start after boot reads them from disk.
    """
    raw: dict[str, list[float]] = {"import": [], "sessions": [], "first": []}
    memory: list[int] = []
    with tempfile.TemporaryDirectory(prefix="earsight-") as folder:
        for number in range(settings.cold_runs):
            threads = settings.threads or usable_processors()
            with Worker("pipeline", "cold", threads, Path(folder) / f"{number}.log") as worker:
                loaded = worker.ask("load", arguments=settings.pipeline())
                answers = [worker.ask("run", **_request(utterance)) for utterance in utterances]
            raw["import"] += loaded["stages"]["import"]
            raw["sessions"] += loaded["stages"]["sessions"]
            raw["first"] += answers[0]["stages"]["whole"]
            memory.append(answers[-1]["peak_memory_bytes"])
    if not memory:
        return None
    stages = {name: summarize(values).to_dict() for name, values in raw.items()}
    return {"stages": stages, "peak_memory_bytes": max(memory), "peak_memory_raw_bytes": memory}


def _request(utterance: Utterance) -> dict[str, Any]:
    image = str(utterance.image) if utterance.image else None
    return {"audio": str(utterance.audio), "image_id": utterance.image_id, "image_path": image}


def throughput(
    asr: MultimodalASR,
    utterances: Sequence[Utterance],
    durations: Sequence[float],
    batches: Sequence[int],
    repeats: int,
) -> list[dict[str, Any]]:
    """Recognise in batches of several sizes, sizes alternating.

    Returns:
        For each size: utterances per second and RTFx (seconds of audio per second) of the median pass,
        and the raw seconds of all passes. Utterances that fill no whole batch are left out.
    """
    sizes = [size for size in batches if size <= len(utterances)]
    watch = Stopwatch()
    for _ in range(repeats):
        for size in sizes:
            full = len(utterances) // size * size
            start = time.perf_counter()
            for first in range(0, full, size):
                asr.generate_nbest_batch([utterance.audio for utterance in utterances[first : first + size]])
            watch.add(str(size), time.perf_counter() - start)
    rows = []
    for size in sizes:
        full = len(utterances) // size * size
        median = summarize(watch.raw(str(size))).median
        row = {"batch": size, "utterances": full, "utterances_per_s": full / median}
        rows.append(row | {"rtfx": sum(durations[:full]) / median, "raw_s": watch.raw(str(size))})
    return rows


def pareto_points(
    settings: BundleSettings,
    bundle: Bundle,
    utterances: Sequence[Utterance],
    scorer: Normalizer,
    progress: bool,
) -> list[Point]:
    """Measure word error rate and latency over beams, precisions and windows of the bundle."""
    references = [utterance.reference for utterance in utterances]
    notebook = normalizer(NOTEBOOK)
    grid: list[tuple[str, int, Window]] = [
        (precision, beams, window)
        for precision in bundle.precisions
        for beams in settings.pareto_beams
        for window in (WINDOWS if bundle.short_window(precision) else WINDOWS[:1])
        if window != "auto"  # one of the other two
    ]
    points = []
    for precision, beams, window in tqdm(grid, disable=None if progress else True, unit="setting"):
        asr = MultimodalASR(**settings.pipeline(precision, beams, window))
        asr.generate_nbest(utterances[0].audio)
        watch, texts = Stopwatch(), []
        for utterance in utterances:
            with watch.lap("whole"):
                result = asr.transcribe(
                    utterance.audio, image_id=utterance.image_id, image_path=utterance.image
                )
            texts.append(result.transcription)
        wer, notebook_wer = (corpus_wer(references, texts, each) for each in (scorer, notebook))
        milliseconds = summarize(watch.raw("whole")).median * 1e3
        points.append(Point(precision, beams, wer, milliseconds, f"{window} window", notebook_wer))
    return points


def corpus_wer(references: Sequence[str], texts: Sequence[str], scorer: Normalizer) -> float:
    """Return the word error rate over all texts, both sides normalised."""
    return count_word_errors([scorer.apply(r) for r in references], [scorer.apply(t) for t in texts]).rate


def in_force(asr: MultimodalASR) -> dict[str, Any]:
    """Return providers, threads and window as the sessions have them, not as they were asked for."""
    sessions = {
        "encoder": asr.whisper.encoder,
        "decoder": asr.whisper.decoder,
        "text": asr.text_encoder.session,
        "vision": asr.image_encoder.session,
    }
    options = asr.whisper.decoder.get_session_options()
    return {
        "providers": {name: list(session.get_providers()) for name, session in sessions.items()},
        "intra_op_threads": options.intra_op_num_threads or "one a physical core",
        "window": "full" if asr.whisper.short_encoder is None else "short",
    }


def unstable(summaries: dict[str, LatencySummary]) -> list[str]:
    """Return the stages whose coefficient of variation is too large for a figure to be repeated.

    Stages that depend on the length of the text or of the audio vary by nature; only those that do the
    same work each time are judged.
    """
    same_work = ("log_mel", "encoder", "language", "prompt", "image")
    return [name for name in same_work if name in summaries and summaries[name].unstable]


def _settings(settings: BundleSettings) -> dict[str, Any]:
    names = (
        "beams",
        "distinct",
        "language",
        "max_new_tokens",
        "repeats",
        "warm_up",
        "limit",
        "cold_runs",
        "threads",
    )
    paths = {"manifest": settings.data, "image_cache": settings.image_cache}
    return {name: getattr(settings, name) for name in names} | {
        name: None if path is None else str(path) for name, path in paths.items()
    }
