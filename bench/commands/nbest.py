"""`python -m bench nbest`: recognise a manifest once, so that everything after needs no model."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.manifest import read_manifest
from bench.measure.system_info import cpu_info, peak_memory
from bench.nbest.corpus import CorpusSettings, write_corpus
from bench.nbest.crew import Crew, InProcess, shared_threads
from bench.nbest.local_crew import LocalCrew
from bench.nbest.run_record import RunRecord
from runtime.commands.console import EXIT_DONE
from runtime.commands.options import add_pipeline_arguments, make_pipeline
from runtime.sessions.processors import usable_processors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_pipeline_arguments(parser)
    parser.add_argument("--data", required=True, type=Path, metavar="MANIFEST", help="JSON Lines or CSV")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="the n-best file, JSON Lines"
    )
    parser.add_argument(
        "--restart", action="store_true", help="start afresh instead of going on with the file"
    )
    parser.add_argument(
        "--max-errors",
        type=int,
        default=0,
        metavar="N",
        help="leave out up to N rows that fail and name them in OUTPUT's errors.jsonl (default: stop at the "
        "first)",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="recognise the rows that failed earlier again"
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="what the run cost, for `python -m bench plan`"
    )
    fleet = parser.add_argument_group("several processes")
    fleet.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="so many processes of this machine, which share its cores; with --ray: at most so many actors",
    )
    fleet.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="actors of a Ray cluster, or `local`: a cluster of this machine alone (extra: ray)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the n-best file."""
    settings = CorpusSettings(not args.restart, args.max_errors, args.retry_failed)
    begin = time.perf_counter()
    # A file that is missing fails with its row, where rows may fail.
    utterances = read_manifest(args.data, all_files=args.max_errors == 0)
    with _crew(args) as crew:
        started, idle = time.perf_counter(), time.process_time()
        done = write_corpus(crew, utterances, args.output, settings)
        if args.record is not None:
            seconds = time.perf_counter() - begin, started - begin
            driver_cpu_s = time.process_time() - idle
            _record(args, crew, len(utterances), *seconds, driver_cpu_s).write(args.record)
    failed = f", {done.failed} failed: {done.errors}" if done.failed else ""
    print(f"{args.output}: {done.utterances} utterances{failed}")
    return EXIT_DONE


@contextmanager
def _crew(args: argparse.Namespace) -> Iterator[Crew]:
    """Open who recognises, as the options say; `args.workers` and `args.threads` then say what it is."""
    if args.ray is not None:
        from bench.nbest.ray_crew import RayCrew

        args.threads = args.threads or 1
        with RayCrew(
            partial(make_pipeline, args),
            args.ray,
            args.output,
            workers=args.workers,
            threads=args.threads,
            gpu=args.provider in ("cuda", "tensorrt"),
        ) as actors:
            args.workers = actors.workers
            yield actors
    elif args.workers is not None:
        args.threads = args.threads or shared_threads(usable_processors(), max(1, args.workers))
        with LocalCrew(partial(make_pipeline, args), args.workers, args.output) as processes:
            yield processes
    else:
        yield InProcess(partial(make_pipeline, args))


def _record(
    args: argparse.Namespace,
    crew: Crew,
    rows: int,
    wall_s: float,
    start_s: float,
    driver_cpu_s: float,
) -> RunRecord:
    return RunRecord(
        header=crew.header.to_dict(),
        crew="ray" if args.ray else "workers" if args.workers else "in process",
        workers=args.workers or 1,
        threads=args.threads,
        rows=rows,
        utterances=crew.cost.utterances,
        speech_s=crew.cost.speech_s,
        audio_bytes=crew.cost.audio_bytes,
        output_bytes=args.output.stat().st_size,
        wall_s=wall_s,
        start_s=start_s,
        work_s=crew.cost.work_s,
        cpu_s=crew.cost.cpu_s,
        driver_cpu_s=driver_cpu_s,
        peak_memory_bytes=crew.cost.peak_memory_bytes,
        driver_memory_bytes=peak_memory(),
        cpu=cpu_info()["model"],
    )
