"""Fuzzing that is guided by coverage, where atheris is installed (`pip install atheris`).

    python -m tests.fuzz.coverage_guided manifest [--bundle DIR] [CORPUS] -max_total_time=60

libFuzzer's options follow the kind. Inputs begin as the seeds of `tests.fuzz`; the first byte chooses the
label (the suffix, or the settings file). It stops at the first exception that is not the project's own, and
keeps the input.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["runtime", "bench"]):
    from tests.fuzz.runner import KINDS, OF_A_BUNDLE, export_pocket, make_seeds
    from tests.fuzz.targets import outcome, targets


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage_guided", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--bundle", type=Path)
    args, options = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="earsight-atheris-"))
    bundle = args.bundle or (export_pocket(folder) if args.kind in OF_A_BUNDLE else None)
    seeds = make_seeds(args.kind, bundle)
    labels = sorted({label for label, _ in seeds})
    for number, (label, content) in enumerate(seeds):
        (folder / f"seed{number}").write_bytes(bytes([labels.index(label)]) + content)
    with targets(bundle) as uses:

        def one(data: bytes) -> None:
            if data:
                found = outcome(uses[args.kind], labels[data[0] % len(labels)], data[1:])
                assert not found.startswith("FAULT"), found

        atheris.Setup([sys.argv[0], *options, str(folder)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
