"""A long recording made of the pocket test clips, with pauses between them."""

import json
from dataclasses import dataclass

import numpy as np

from runtime.audio.load import load_audio
from tests.conftest import POCKET

RATE = 16_000
TEST_SET = POCKET / "data" / "test"
PAUSE_S = (1.1, 2.5)  # drawn uniformly
PAUSE_LEVEL = 0.001  # of the noise in the pauses, -60 dBFS


@dataclass(frozen=True)
class Clip:
    audio: str
    reference: str
    start_s: float
    end_s: float


def joined_clips(minutes: float, seed: int = 0) -> tuple[np.ndarray, list[Clip]]:
    """Draw test clips without replacement until the recording has its length, give or take a clip."""
    rng = np.random.default_rng(seed)
    rows = [json.loads(line) for line in (TEST_SET / "manifest.jsonl").read_text().splitlines()]
    parts: list[np.ndarray] = []
    clips: list[Clip] = []
    position = 0
    for row in rng.permutation(np.array(rows, dtype=object)):
        waveform = load_audio(TEST_SET / row["audio"])
        end = position + waveform.size
        clips.append(Clip(str(TEST_SET / row["audio"]), row["reference"], position / RATE, end / RATE))
        pause = rng.normal(0.0, PAUSE_LEVEL, int(rng.uniform(*PAUSE_S) * RATE)).astype(np.float32)
        parts += [waveform, pause]
        position = end + pause.size
        if position >= minutes * 60 * RATE:
            break
    return np.concatenate(parts), clips
