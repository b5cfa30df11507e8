"""Feed mutated files to the loaders: only `EarsightError` may come out, quickly and within bounded memory.

    python -m tests.fuzz --count 10000 --seed 0             # every kind, 10,000 cases each
    python -m tests.fuzz --kind audio --seed 0 --case 17    # one case, here; --write FILE keeps its input

Cases run in child processes, so that a crash of a native decoder or a hang is caught and named by its number.
Seed, kind and number make a case. The kinds `bundle` and `settings` need a bundle (`--bundle`, or the pocket
models are exported first).
"""

import argparse
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tests.fuzz import seeds as fuzz_seeds
from tests.fuzz import text_seeds as fuzz_text_seeds
from tests.fuzz.mutations import mutate_bytes, mutate_text
from tests.fuzz.seeds import Seed, unlabelled
from tests.fuzz.targets import outcome, targets

HANG_S = 5.0  # of processor time, since the machine may be busy with other things
ASLEEP_S = 120.0  # of wall time, for what waits and does not compute
MAX_RSS_MIB = 2048
MAX_ADDRESSES = 16 << 30  # bytes; what would take more ends in a MemoryError instead of this machine's end
CASES_A_CHILD = 500
KINDS = ("audio", "image", "cache", "manifest", "nbest", "bundle", "settings")
OF_A_BUNDLE = ("bundle", "settings")
TEXTS = ("manifest", "nbest", *OF_A_BUNDLE)


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


def make_seeds(kind: str, bundle: Path | None = None) -> list[Seed]:
    """Return sound inputs of a kind."""
    if kind in OF_A_BUNDLE:
        assert bundle is not None, f"cases of {kind} are made of a bundle's files"
        return {"bundle": fuzz_text_seeds.bundle_seeds, "settings": fuzz_text_seeds.settings_seeds}[kind](
            bundle
        )
    if kind in TEXTS:
        return {"manifest": fuzz_text_seeds.manifest_seeds, "nbest": fuzz_text_seeds.nbest_seeds}[kind]()
    makers = {
        "audio": fuzz_seeds.audio_seeds,
        "image": fuzz_seeds.image_seeds,
        "cache": fuzz_seeds.cache_seeds,
    }
    return unlabelled(makers[kind]())


def case_input(kind: str, seeds: list[Seed], seed: int, number: int) -> Seed:
    """Make one case: the label of its seed, and mutated bytes."""
    rng = random.Random(f"{kind}/{seed}/{number}")
    label, content = rng.choice(seeds)
    if kind in TEXTS and rng.random() < 0.7:
        return label, mutate_text(content, rng)
    return label, mutate_bytes(content, [donor for _, donor in seeds], rng)


def run_child(kind: str, seed: int, bundle: Path | None, first: int, count: int) -> None:
    """Run cases one after another; a line before and a line after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESSES, MAX_ADDRESSES))
    seeds = make_seeds(kind, bundle)
    with targets(bundle) as uses:
        for number in range(first, first + count):
            label, content = case_input(kind, seeds, seed, number)
            print(json.dumps({"start": number}), flush=True)
            begin = time.process_time()
            result = outcome(uses[kind], label, content)
            seconds = time.process_time() - begin
            event = {"end": number, "result": result, "seconds": seconds, "rss_mib": peak_rss_mib()}
            print(json.dumps(event), flush=True)


def peak_rss_mib() -> float:
    """Return the peak resident memory of this program (getrusage would count what its parent had, too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def fuzz(kind: str, count: int, seed: int, bundle: Path | None = None, progress: bool = False) -> Report:
    """Run `count` cases in child processes."""
    report = Report(kind, seed)
    number = 0
    while number < count:
        number = _watch_child(report, bundle, number, min(CASES_A_CHILD, count - number))
        if progress:
            print(f"{kind}: {number} of {count}, {len(report.faults)} faults", file=sys.stderr, flush=True)
    return report


def _watch_child(report: Report, bundle: Path | None, first: int, count: int) -> int:
    """Run one child to its end or its death; return the number of the next case."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz", "--kind", report.kind, "--seed", f"{report.seed}",
         *(("--bundle", str(bundle)) if bundle else ()), "--child", f"{first}", f"{count}"],
        stdout=subprocess.PIPE, bufsize=0, stderr=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    assert child.stdout is not None
    current, finished = first - 1, first - 1
    while finished < first + count - 1:
        line = _next_line(child, is_starting=current <= finished)
        if not line:
            reason = "hangs" if line is None else f"crashes (status {child.wait()})"
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


def _next_line(child: subprocess.Popen[bytes], is_starting: bool) -> bytes | None:
    """Return the child's next line, empty at its end, None where it hangs."""
    assert child.stdout is not None
    begin, spent = time.monotonic(), processor_s(child.pid)
    while time.monotonic() - begin < ASLEEP_S:
        ready, _, _ = select.select([child.stdout], [], [], 1.0)
        if ready:
            return child.stdout.readline()  # unbuffered, so that select sees what is left
        if not is_starting and processor_s(child.pid) - spent > HANG_S:
            return None
    return None


def processor_s(pid: int) -> float:
    """Return the processor time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def export_pocket(folder: Path) -> Path:
    """Export the pocket models in float32 and return the bundle."""
    models = ROOT / "bench" / "pocket" / "models"
    subprocess.run(
        [sys.executable, "-m", "export", "--whisper", str(models / "whisper"), "--clip", str(models / "clip"),
         "--output", str(folder / "pocket"), "--precision", "fp32"],
        check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return folder / "pocket"


def run_one(kind: str, seed: int, bundle: Path | None, number: int, write: Path | None) -> int:
    """Run one case in this process, with the traceback of what is foreign."""
    label, content = case_input(kind, make_seeds(kind, bundle), seed, number)
    if write:
        write.write_bytes(content)
    with targets(bundle) as uses:
        begin = time.process_time()
        print(label, outcome(uses[kind], label, content), f"{time.process_time() - begin:.3f} s")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--count", type=int, default=10_000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path, help="for the kinds that are made of a bundle's files")
    parser.add_argument("--case", type=int, help="run this case alone, in this process")
    parser.add_argument("--write", type=Path, help="with --case: keep its input here")
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(args.kind[0], args.seed, args.bundle, *args.child)
        return 0
    with ExitStack() as stack:
        bundle = args.bundle
        if bundle is None and set(args.kind) & set(OF_A_BUNDLE):
            bundle = export_pocket(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        if args.case is not None:
            return run_one(args.kind[0], args.seed, bundle, args.case, args.write)
        passed = True
        for kind in args.kind:
            report = fuzz(kind, args.count, args.seed, bundle, progress=True)
            print(json.dumps({**vars(report), "passed": report.passed}), flush=True)
            passed &= report.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
