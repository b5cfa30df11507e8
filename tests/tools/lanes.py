"""One call on all cores against two calls at a time on half of them, in one process.

    python -m tests.tools.lanes --bundle models/base --precision int8 --rounds 3

Prints JSON: seconds for the same utterances, in turn in every round: one by one, decoded together, and in
two lanes of either.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.manifest import evenly_spread, read_manifest
from bench.measure.system_info import cpu_info
from runtime.audio.load import load_audio
from runtime.audio.segmentation import Segment
from runtime.pipeline import MultimodalASR
from runtime.recognizer import Utterance
from runtime.sessions.processors import usable_processors
from tests.conftest import POCKET

LANES = 2


def lanes(bundle: Path, data: Path, precision: str, count: int, rounds: int) -> dict[str, Any]:
    rows = evenly_spread(read_manifest(data), count)
    utterances = [Utterance(Segment(0, load_audio(row.audio))) for row in rows]
    cores = usable_processors()
    pool = ThreadPoolExecutor(LANES)

    def ways(threads: int) -> dict[str, Callable[[], object]]:
        asr = MultimodalASR(bundle, precision=precision, providers="cpu", window="auto", threads=threads)
        recognise = asr.recognizer.recognise
        recognise(utterances[:2])
        return {
            f"one by one, {threads} threads": lambda: [recognise([each]) for each in utterances],
            f"together, {threads} threads": lambda: recognise(utterances),
            f"two lanes one by one, {threads} threads": lambda: list(
                pool.map(lambda each: recognise([each]), utterances)
            ),
            f"two lanes together, {threads} threads": lambda: list(
                pool.map(lambda lane: recognise(utterances[lane::LANES]), range(LANES))
            ),
        }

    all_ways = ways(cores) | ways(max(1, cores // LANES))
    seconds: dict[str, list[float]] = {name: [] for name in all_ways}
    for _ in range(rounds):
        for name, way in all_ways.items():
            time.sleep(0.3)  # idle threads stop spinning
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"cpu": cpu_info()["model"], "utterances": len(rows), "median_s": medians, "raw_s": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.lanes", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=POCKET / "described" / "test" / "manifest.jsonl")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(json.dumps(lanes(args.bundle, args.data, args.precision, args.count, args.rounds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
