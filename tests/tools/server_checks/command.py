"""The command line: one check a run."""

import argparse
import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure.system_info import cpu_info
from tests.conftest import POCKET
from tests.tools.server_checks import answers, endurance, speed, uploads
from tests.tools.server_checks.common import Setup

CHECKS: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "in_process": speed.against_in_process,
    "clients": speed.eight_clients,
    "same": answers.same_as_one_by_one,
    "fair": answers.clip_beside_a_long_file,
    "disconnects": answers.after_disconnects,
    "overload": endurance.overload,
    "sigterm": endurance.stopped_under_load,
    "soak": endurance.soak,
    "fuzz": uploads.fuzz_corpora,
    "bombs": uploads.bombs,
    "connections": endurance.no_connection,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.server_checks")
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=POCKET / "described" / "test" / "manifest.jsonl")
    parser.add_argument("--limit", type=int, default=24, help="utterances")
    parser.add_argument("--count", type=int, help="requests, uploads, starts: what the check repeats")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--rounds", type=int, default=3, help="of speed")
    parser.add_argument("--options", default="", help="of python -m runtime serve")
    parser.add_argument("--peer-python", type=Path, help="python with faster-whisper, for clients")
    parser.add_argument("--peer-model", default="base", help="packaged model that the peer reads")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="earsight-checks-") as folder:
        setup = Setup(
            args.bundle.resolve(), args.data, Path(folder), shlex.split(args.options), args.limit, args.count,
            args.seconds, args.rounds, args.peer_python, args.peer_model, args.seed,
        )  # fmt: skip
        result = CHECKS[args.check](setup)
    report = {
        "check": args.check,
        "bundle": args.bundle.name,
        "options": args.options,
        "cpu": cpu_info()["model"],
    }
    print(json.dumps(report | result))
    return 0 if result["passed"] else 1
