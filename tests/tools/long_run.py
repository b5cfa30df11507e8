"""Many requests to one pipeline: are the answers those of a serial run, and does its memory stay?

    python -m tests.tools.long_run --bundle models/pocket --requests 1000 --workers 1
    python -m tests.tools.long_run --bundle models/pocket --requests 1600 --workers 8

Each request recognises one utterance of the pocket test set and rescores it with its picture. Prints JSON:
resident memory (MiB) after 100 requests and at the end, and how many answers differ from the serial ones.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.manifest import Utterance, read_manifest
from runtime.pipeline import MultimodalASR
from tests.conftest import ROOT

DATA = ROOT / "bench" / "pocket" / "data" / "test" / "manifest.jsonl"
BLOCK = 100  # requests between two readings of the memory


def resident_mib() -> float:
    """Return the resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def answer(asr: MultimodalASR, utterance: Utterance) -> dict[str, Any]:
    return asr.transcribe(utterance.audio, image_path=utterance.image).to_dict()


def answers(
    asr: MultimodalASR, utterances: Sequence[Utterance], requests: int, pool: Executor
) -> list[dict[str, Any]]:
    """Answer utterance 0, 1, … in a circle; in order of the requests."""
    wanted = [utterances[number % len(utterances)] for number in range(requests)]
    return list(pool.map(lambda utterance: answer(asr, utterance), wanted))


def long_run(bundle: Path, precision: str, requests: int, workers: int, distinct: int) -> dict[str, Any]:
    asr = MultimodalASR(bundle, precision=precision, providers="cpu", threads=1)
    utterances = read_manifest(DATA)[:distinct]
    serial = [answer(asr, utterance) for utterance in utterances]
    memory, wrong = [], 0
    with ThreadPoolExecutor(workers) as pool:
        for begin in range(0, requests, BLOCK):
            given = answers(asr, utterances, min(BLOCK, requests - begin), pool)
            wrong += sum(found != serial[number % distinct] for number, found in enumerate(given))
            memory.append(resident_mib())
    return {
        "requests": requests, "workers": workers, "precision": precision, "answers_that_differ": wrong,
        "memory_mib": [round(value, 1) for value in memory],
        "growth": memory[-1] / memory[0] - 1.0,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.long_run", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--distinct", type=int, default=100, help="utterances that the requests go through")
    args = parser.parse_args()
    print(json.dumps(long_run(args.bundle, args.precision, args.requests, args.workers, args.distinct)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
