"""A bundle beside its peers on real weights and real audio: whole calls, clip by clip, in turn."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from bench.latency.bundle import BundleSettings, corpus_wer, usable_utterances
from bench.latency.side_by_side import PAUSE_SECONDS, SystemResult, ratio_table, started
from bench.manifest import Utterance
from bench.measure.company import company
from bench.peers.driver import Worker
from bench.peers.models import make_workload, prepare_peers
from bench.peers.registry import SPEECH_PRECISIONS, expand
from bench.text.normalizers import DEFAULT_NORMALIZER, NOTEBOOK, normalizer
from runtime.audio.load import SAMPLING_RATE, load_audio
from runtime.bundle.bundle import Bundle
from runtime.errors import SettingsError
from runtime.sessions.processors import usable_processors
from runtime.whisper.log_mel import LogMelExtractor
from runtime.whisper.tokens import WhisperTokens

OURS: Final = ("earsight", "earsight_short")
DEFAULT_LANGUAGE: Final = "en"  # peers detect none: what is compared is recognition
REFERENCE_PRECISION: Final = "fp32"


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """What to measure.

    Attributes:
        bundle: Bundle, manifest, beams, threads, repeats, warm-up and limit, as for a bundle alone.
        peers: Names without precision.
        precisions: Of this project, and of peers that offer them.
        checkpoint: Folder of the checkpoint that the bundle was made of; None where a package holds it.
        models: Where the peers' models are kept.
        busy: Processes of equal priority that keep the processor busy meanwhile.
        pause: Seconds between two turns.
    """

    bundle: BundleSettings
    peers: tuple[str, ...]
    precisions: tuple[str, ...]
    checkpoint: Path | None = None
    models: Path = Path("models/architectures")
    busy: int = 0
    pause: float = PAUSE_SECONDS

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if "notebook" in self.peers:
            raise SettingsError(
                "the notebook's call detects languages and has no fixed prompt; it takes "
                "part with --architecture alone"
            )
        if self.busy < 0:
            raise SettingsError(f"busy is {self.busy}; expected 0 or more processes")

    def systems(self, has_short_window: bool) -> list[str]:
        """Return systems with precision, this project first."""
        ours = OURS if has_short_window else OURS[:1]
        return expand([*ours, *self.peers], list(self.precisions), SPEECH_PRECISIONS)

    def to_dict(self) -> dict[str, Any]:
        """Return what the report says of the work."""
        bundle = self.bundle
        return {
            "manifest": str(bundle.data),
            "language": bundle.language or DEFAULT_LANGUAGE,
            "beams": bundle.beams,
            "threads": bundle.threads or usable_processors(),
            "repeats": bundle.repeats,
            "warm_up": bundle.warm_up,
            "limit": bundle.limit,
            "busy_processes": self.busy,
            "weights": "real",
        }


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance, ready for every system.

    Attributes:
        utterance: Of the manifest.
        features: File of its log-mel, (1, mels, frames).
        speech: Share of the window that it takes.
    """

    utterance: Utterance
    features: Path
    speech: float


def measure_clips(settings: ClipSettings, progress: bool = False) -> dict[str, Any]:
    """Measure a bundle and its peers, which run the same checkpoint, on a manifest.

    The timed call begins with log-mel features in memory and ends with the n-best tokens, ended by the
    model itself. All systems get the same features.

    Returns:
        The part of latency.json that depends on the measurement.

    Raises:
        PeerError: A system is not installed, failed, or did other work than asked.
        EarsightError: Bundle, checkpoint, manifest, audio or settings cannot be used.
    """
    bundle = Bundle.open(settings.bundle.bundle)
    systems = settings.systems(all(bundle.short_window(each) for each in settings.precisions))
    folders = prepare_peers(bundle, settings.checkpoint, list(settings.peers), settings.models)
    threads = settings.bundle.threads or usable_processors()
    reader = WhisperTokens.from_folder(bundle.whisper)
    prompt = tuple(reader.prompt(settings.bundle.language or DEFAULT_LANGUAGE))
    most = reader.max_length // 2  # CTranslate2's own limit
    workload = make_workload(bundle.whisper, most, settings.bundle.beams, threads, fixed_length=False)
    workload = replace(workload, prompt=prompt)
    extractor = LogMelExtractor.from_folder(bundle.whisper)
    utterances, durations, too_long = usable_utterances(settings.bundle, extractor.window_s)
    with tempfile.TemporaryDirectory(prefix="earsight-") as folder:
        clips = prepare_clips(utterances, extractor, Path(folder))
        load = {"workload": workload.to_dict()}
        with (
            started("speech", systems, folders, threads, load) as (workers, results),
            company(settings.busy),
        ):
            answers = take_turns(settings, clips, workers, results, progress)
    texts = {name: best_texts(tokens, reader) for name, tokens in answers.items()}
    return {
        "mode": "clips",
        "bundle": bundle.identity,
        "settings": settings.to_dict() | {"prompt_tokens": len(workload.prompt)},
        "data": {"utterances": len(clips), "audio_s": sum(durations), "longer_than_window": too_long},
        **accuracy(texts, [utterance.reference for utterance in utterances], settings.bundle.language),
        "systems": [result.to_dict() for result in results.values()],
        "ratios": clip_ratios(results),
        "texts": texts,
    }


def prepare_clips(utterances: Sequence[Utterance], extractor: LogMelExtractor, folder: Path) -> list[Clip]:
    """Write the log-mel of every utterance into `folder`."""
    clips = []
    for number, utterance in enumerate(utterances):
        waveform = load_audio(utterance.audio, SAMPLING_RATE, extractor.sampling_rate)
        path = folder / f"{number}.npy"
        np.save(path, extractor([waveform]))
        clips.append(Clip(utterance, path, waveform.size / extractor.n_samples))
    return clips


def take_turns(
    settings: ClipSettings,
    clips: Sequence[Clip],
    workers: dict[str, Worker],
    results: dict[str, SystemResult],
    progress: bool,
) -> dict[str, list[list[int]]]:
    """Let every system recognise every clip, clip by clip; each clip starts with the next system.

    Returns:
        For every system the tokens of the first hypothesis of each clip.
    """
    warm_up = [(False, clips[i % len(clips)]) for i in range(settings.bundle.warm_up)]
    turns = [*warm_up, *((True, clip) for _ in range(settings.bundle.repeats) for clip in clips)]
    names = list(workers)
    best: dict[str, list[list[int]]] = {name: [] for name in names}
    for number, (counts, clip) in enumerate(tqdm(turns, disable=None if progress else True, unit="clip")):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            answer = workers[name].ask("run", features=str(clip.features), speech=clip.speech)
            results[name].take(answer, counts)
            if counts:
                best[name].append(answer["sequences"][0][0])
            time.sleep(settings.pause)
    return {name: found[: len(clips)] for name, found in best.items()}


def best_texts(tokens: Sequence[Sequence[int]], reader: WhisperTokens) -> list[str]:
    """Return the texts of first hypotheses, lower case, as the runtime's n-best lists have them."""
    return [reader.decode(tuple(ids)).strip().lower() for ids in tokens]


def accuracy(texts: dict[str, list[str]], references: Sequence[str], language: str | None) -> dict[str, Any]:
    """Return word error rates of first texts, and how many differ from the system's own float32."""
    scorer, notebook = normalizer(DEFAULT_NORMALIZER, language or DEFAULT_LANGUAGE), normalizer(NOTEBOOK)
    found = {}
    for name, own in texts.items():
        exact = texts.get(f"{_family(name)}-{REFERENCE_PRECISION}")
        found[name] = {
            "wer": corpus_wer(references, own, scorer),
            "notebook_wer": corpus_wer(references, own, notebook),
            "first_changed": None
            if exact is None
            else sum(a != b for a, b in zip(own, exact, strict=True)) / len(own),
        }
    return {"normalizer": scorer.to_dict(), "accuracy": found}


def _family(system: str) -> str:
    """Return whose float32 a system is compared with: the short window with the full one."""
    name = system.rpartition("-")[0]
    return OURS[0] if name in OURS else name


def clip_ratios(results: dict[str, SystemResult]) -> list[dict[str, Any]]:
    """Return the ratios of medians, each with the median of the ratios clip by clip beside it."""
    ours = [name for name in results if name.rpartition("-")[0] in OURS]
    table = ratio_table(results, ours)
    return [entry | {"median_of_ratios": median(entry["per_round"])} for entry in table]
