"""The measurements of `bench.gpu_check`: one function a question, on any execution provider."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.gpu_check.trace import read_copies
from bench.latency.architecture import short_captions, step_bytes
from bench.latency.side_by_side import random_features
from bench.measure.timing import Stopwatch, summarize
from bench.peers.base import Features, NBest, Workload
from bench.peers.earsight import EarsightSpeech
from bench.peers.models import read_geometry
from runtime.bundle.bundle import Bundle
from runtime.clip.encoders import TextEncoder
from runtime.sessions.factory import Provider, SessionFactory, SessionSettings
from runtime.whisper.model import WhisperModel

Raw = dict[str, list[float]]  # seconds by the number of utterances or texts

# Largest difference of a log-probability after the prompt to float32 on the CPU. float32: other orders of
# summation over some thousand terms. float16: 11 bits of mantissa through all layers, as measured on the CPU.
TOLERANCES: Final = {"fp32": 2e-3, "fp16": 5e-2}


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured.

    Attributes:
        bundle: Bundle folder.
        workload: Prompt, tokens, beams, threads.
        rounds: Measured repetitions; a fifth as many (at least 2) go before them unmeasured.
        seed: Of the features.
    """

    bundle: Path
    workload: Workload
    rounds: int = 10
    seed: int = 0

    def features(self, batch: int) -> Features:
        """Return reproducible log-mel features (batch, mels, frames)."""
        return random_features(read_geometry(self.bundle / "whisper"), batch, self.seed)

    def speech(
        self, precision: str, sessions: SessionFactory, kind: type[WhisperModel] = WhisperModel
    ) -> EarsightSpeech:
        """Open the bundle's Whisper on a provider of choice."""
        return EarsightSpeech(precision).open(Bundle.open(self.bundle), sessions, kind)

    @property
    def warm_up(self) -> int:
        """Unmeasured repetitions."""
        return max(2, self.rounds // 5)

    def timed(self, run: Callable[[], object]) -> list[float]:
        """Return the raw seconds of a call."""
        watch = Stopwatch(discard=self.warm_up)
        for _ in range(self.warm_up + self.rounds):
            with watch.lap("whole"):
                run()
        return watch.raw("whole")


def check_parity(reference: EarsightSpeech, tested: EarsightSpeech, work: Work, batch: int) -> dict[str, Any]:
    """Compare a provider and precision with float32 on the CPU.

    Args:
        reference: float32 on the CPU.
        tested: What is tested.
        work: The same work for both.
        batch: Utterances.

    Returns:
        `prompt_difference`, the largest difference of the log-probabilities that the reference ranks first
        after the prompt, `tolerance`, `passed`; and of the search `identical_hypotheses` and `identical_best`
        (shares) with the largest `score_difference` of hypotheses of the same rank.
    """
    features = work.features(batch)
    prompts = np.array([work.workload.prompt] * batch, np.int64)
    difference = _prompt_difference(reference.model, tested.model, features, prompts)
    expected = reference.run(features, work.workload, Stopwatch())
    found = tested.run(features, work.workload, Stopwatch())
    tolerance = TOLERANCES[tested.precision]
    identical, best = same_shares(expected, found)
    # In float32 the search must not notice the provider. In float16 close candidates may change places.
    passed = difference <= tolerance and (tested.precision != "fp32" or identical == 1.0)
    return {
        "precision": tested.precision,
        "batch": batch,
        "prompt_difference": difference,
        "tolerance": tolerance,
        "identical_hypotheses": identical,
        "identical_best": best,
        "score_difference": float(np.abs(np.array(expected.scores) - np.array(found.scores)).max()),
        "passed": passed,
    }


def _prompt_difference(
    reference: WhisperModel, tested: WhisperModel, features: Features, prompts: NDArray[np.int64]
) -> float:
    """Compare log-probabilities after the prompt for the tokens that both rank among their first 64."""
    count = min(64, reference.tokens.vocab_size)
    mask = np.zeros((1, reference.tokens.vocab_size), np.float32)
    outputs = [
        model.step_decoder(model.encode(features)).prefill(prompts, mask, count)
        for model in (reference, tested)
    ]
    largest = 0.0
    for expected, tokens, found, found_tokens in zip(*outputs[0], *outputs[1], strict=True):
        mine = dict(zip(found_tokens[0].tolist(), found[0].tolist(), strict=True))
        pairs = zip(tokens[0].tolist(), expected[0].tolist(), strict=True)
        differences = [abs(value - mine[token]) for token, value in pairs if token in mine]
        if len(differences) < count // 2:
            return float("inf")  # they do not even agree on half of the likeliest tokens
        largest = max(largest, *differences)
    return largest


def same_shares(expected: NBest, found: NBest) -> tuple[float, float]:
    """Return the shares of equal hypotheses, rank by rank, and of equal best ones."""
    pairs = list(zip(expected.sequences, found.sequences, strict=True))
    same = [a == b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)]
    best = [ours[0] == theirs[0] for ours, theirs in pairs]
    return float(np.mean(same)), float(np.mean(best))


def measure_speech(speech: EarsightSpeech, work: Work, batch: int) -> dict[str, Any]:
    """Time encoder, prompt, step and everything around them for one batch.

    Returns:
        `stages` (medians and raw seconds), `utterances_per_second`, `memory_bytes` of the GPU in use.
    """
    features = work.features(batch)
    for _ in range(work.warm_up):
        speech.run(features, work.workload, Stopwatch())
    watch = Stopwatch()
    for _ in range(work.rounds):
        speech.run(features, work.workload, watch)
    stages = {name: summary.to_dict() for name, summary in watch.summaries().items()}
    seconds = summarize(whole_seconds(stages)).median
    model = speech.model
    return {
        "precision": speech.precision,
        "batch": batch,
        "stages": stages,
        "median_s": seconds,
        "utterances_per_second": batch / seconds,
        "memory_bytes": gpu_memory(model.device_id) if model.device == "cuda" else None,
    }


def whole_seconds(stages: Mapping[str, Any]) -> list[float]:
    """Return encoder plus decoding of every run, seconds."""
    parts = zip(stages["encoder"]["raw_s"], stages["decoding"]["raw_s"], strict=True)
    return [encoder + decoding for encoder, decoding in parts]


def step_floor(work: Work, precision: str, batch: int, bandwidth: int) -> dict[str, Any]:
    """Return what an average step must read, and how long that takes at the GPU's full bandwidth.

    Args:
        work: The work.
        precision: Of the graphs.
        batch: Utterances.
        bandwidth: Bytes per second; 0 where it is not known.
    """
    parts = step_bytes(work.bundle, precision, read_geometry(work.bundle / "whisper"), work.workload, batch)
    read = parts["cross_attention"] + parts["cache"]  # in float32
    size = parts["weights"] + (read // 2 if precision == "fp16" else read)
    return {"step_bytes": size, "floor_s": size / bandwidth if bandwidth else None}


def check_copies(work: Work, precision: str, provider: Provider, settings: SessionSettings) -> dict[str, Any]:
    """Run a short search with a trace and look for copies of keys and values between host and device.

    Returns:
        `on_device`: whether the cross-attention stayed where it was computed; `copies`; `passed`.
    """
    short = replace(work, workload=replace(work.workload, steps=min(8, work.workload.steps)))
    with tempfile.TemporaryDirectory(prefix="earsight-") as folder:
        traced = SessionFactory(provider, replace(settings, trace=Path(folder) / "trace"))
        speech = work.speech(precision, traced)
        cross = speech.model.encode(short.features(1))
        speech.run(short.features(1), short.workload, Stopwatch())
        copies = read_copies(Path(speech.model.decoder.end_profiling()))
        speech.model.encoder.end_profiling()
    places = {value.device_name() for value in cross.values.values()}
    return {
        "precision": precision,
        "on_device": places == {traced.device},
        "copies": [copy.to_dict() for copy in copies],
        "passed": places == {traced.device} and not any(copy.is_cache for copy in copies),
    }


def measure_texts(
    work: Work, precision: str, sessions: SessionFactory, counts: Sequence[int]
) -> dict[str, Any]:
    """Time CLIP's text encoder, tokenisation included.

    Returns:
        `precision`, and `raw_s`: for every number of texts the raw seconds.
    """
    encoder = TextEncoder(Bundle.open(work.bundle), precision, sessions)
    limits = sessions.settings.engines.limits
    largest = limits.texts if limits and sessions.provider == "tensorrt" else max(counts)
    raw: Raw = {}
    for count in counts:
        run = partial(encoder, short_captions(count, work.seed), batch_size=min(count, largest))
        raw[str(count)] = work.timed(run)
    return {"precision": precision, "raw_s": raw}


def gpu_memory(device_id: int) -> int | None:
    """Return the memory in use on a GPU by all processes, bytes; None where `nvidia-smi` does not tell."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--id={device_id}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    text = done.stdout.strip()
    return int(text) * 2**20 if done.returncode == 0 and text.isdigit() else None
