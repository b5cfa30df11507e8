"""Feed mutated files to the loaders: only `EarsightError` may come out, quickly and within bounded memory.

    python -m tests.fuzz --kind audio --count 10000 --seed 0

Cases run in child processes, so that a crash of a native decoder or a hang is caught and named by its number.
`--case N` runs that one case here, and `--write FILE` keeps its input. Seed, kind and number make a case.
"""

import argparse
import json
import math
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from runtime.audio import level_dbfs, load_audio
from runtime.errors import EarsightError
from runtime.image_cache import load_image_cache
from runtime.image_files import load_image
from runtime.segmentation import split_at_quietest
from tests.fuzz_seeds import SEEDS

HANG_S = 5.0
MAX_RSS_MIB = 2048
CASES_A_CHILD = 500
INTERESTING = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)


@dataclass
class Report:
    """What a run found; `faults` must stay empty."""

    kind: str
    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest_case: int = -1
    peak_rss_mib: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.faults and self.slowest_s < HANG_S and self.peak_rss_mib < MAX_RSS_MIB


def mutate(content: bytes, donors: list[bytes], rng: random.Random) -> bytes:
    """Apply one to eight edits: bits, bytes, sizes, cuts, repeats, splices."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        if not data:
            break
        # Half of the edits fall into the first 128 bytes: headers decide most.
        at = rng.randrange(min(len(data), 128) if rng.random() < 0.5 else len(data))
        span = rng.choice((1, 2, 4, 16, 64, 512))
        edit = rng.randrange(9)
        if edit == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif edit == 1:
            data[at : at + span] = rng.randbytes(len(data[at : at + span]))
        elif edit in (2, 3):
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(INTERESTING) & (256**width - 1)
            data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
        elif edit == 4:
            del data[at : at + span]
        elif edit == 5:
            data[at:at] = data[at : at + span] * rng.choice((1, 2, 50))
        elif edit == 6:
            data[at:at] = rng.randbytes(span)
        elif edit == 7:
            del data[rng.randrange(len(data)) :]
        else:
            donor = rng.choice(donors)
            start = rng.randrange(len(donor))
            data[at : at + span] = donor[start : start + span]
    return bytes(data)


def case_input(kind: str, seeds: list[bytes], seed: int, number: int) -> bytes:
    rng = random.Random(f"{kind}/{seed}/{number}")
    return mutate(rng.choice(seeds), seeds, rng)


def use(kind: str, content: bytes) -> None:
    """Load one input and hold the result to its promise."""
    if kind == "audio":
        waveform = load_audio(content)
        assert waveform.ndim == 1
        assert waveform.dtype == np.float32
        assert waveform.size > 0
        assert np.isfinite(waveform).all()
        assert not math.isnan(level_dbfs(waveform))
        segments = split_at_quietest(waveform, 16000, 6.0)
        assert sum(segment.end - segment.start for segment in segments) == waveform.size
    elif kind == "image":
        picture = load_image(content)
        assert picture.mode == "RGB"
        assert picture.resize((8, 8), Image.Resampling.BICUBIC).size == (8, 8)
    else:
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            file.write(content)
            file.flush()
            embeddings = load_image_cache(file.name)
        assert all(abs(np.linalg.norm(vector) - 1) < 2e-3 for vector in embeddings.values())


def outcome(kind: str, content: bytes) -> str:
    try:
        use(kind, content)
    except EarsightError as error:
        return type(error).__name__ if str(error) else "FAULT an error without a message"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"FAULT {type(error).__name__}: {str(error)[:200]}"
    return "loaded"


def run_child(kind: str, seed: int, first: int, count: int) -> None:
    """Run cases one after another; a line before and a line after each."""
    seeds = SEEDS[kind]()
    for number in range(first, first + count):
        content = case_input(kind, seeds, seed, number)
        print(json.dumps({"start": number}), flush=True)
        begin = time.perf_counter()
        result = outcome(kind, content)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"end": number, "result": result, "seconds": seconds, "rss_mib": peak}), flush=True)


def fuzz(kind: str, count: int, seed: int, progress: bool = False) -> Report:
    """Run `count` cases in child processes."""
    report = Report(kind, seed)
    number = 0
    while number < count:
        number = _watch_child(report, number, min(CASES_A_CHILD, count - number))
        if progress:
            print(f"{kind}: {number} of {count}, {len(report.faults)} faults", file=sys.stderr, flush=True)
    return report


def _watch_child(report: Report, first: int, count: int) -> int:
    """Run one child to its end or its death; return the number of the next case."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz", "--kind", report.kind, "--seed", f"{report.seed}",
         "--child", f"{first}", f"{count}"],
        stdout=subprocess.PIPE, bufsize=0, stderr=subprocess.DEVNULL, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert child.stdout is not None
    current, finished = first - 1, first - 1
    while finished < first + count - 1:
        patience = HANG_S if current > finished else 120.0  # starting Python and making seeds takes a while
        ready, _, _ = select.select([child.stdout], [], [], patience)
        line = child.stdout.readline() if ready else b""  # unbuffered, so that select sees what is left
        if not line:
            reason = "hangs" if not ready else f"crashes (status {child.wait()})"
            child.kill()
            report.faults.append(f"case {max(current, finished + 1)} {reason}")
            finished = max(current, finished + 1)
            break
        event = json.loads(line)
        if "start" in event:
            current = event["start"]
            continue
        finished = event["end"]
        report.outcomes[event["result"].split(":")[0]] += 1
        report.peak_rss_mib = max(report.peak_rss_mib, event["rss_mib"])
        if event["seconds"] > report.slowest_s:
            report.slowest_s, report.slowest_case = event["seconds"], finished
        if event["result"].startswith("FAULT"):
            report.faults.append(f"case {finished} {event['result']}")
    child.stdout.close()
    child.wait()
    return finished + 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", choices=sorted(SEEDS), required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this case alone, in this process")
    parser.add_argument("--write", type=Path, help="with --case: keep its input here")
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(args.kind, args.seed, *args.child)
        return 0
    if args.case is not None:
        content = case_input(args.kind, SEEDS[args.kind](), args.seed, args.case)
        if args.write:
            args.write.write_bytes(content)
        begin = time.perf_counter()
        print(outcome(args.kind, content), f"{time.perf_counter() - begin:.3f} s")
        return 0
    report = fuzz(args.kind, args.count, args.seed, progress=True)
    print(json.dumps({**vars(report), "passed": report.passed}, indent=2))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
