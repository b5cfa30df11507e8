"""`python -m bench serve`: load on a server, and what it bears."""

import argparse
import asyncio
import shlex
import sys
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.commands.latency import warnings, write_report
from bench.manifest import evenly_spread, read_manifest
from bench.measure.system_info import system_info
from bench.serving.client import Client, make_queries
from bench.serving.local_server import LocalServer
from bench.serving.page import write_page
from bench.serving.scenarios import SHARES, LoadSettings, measure
from bench.serving.table import load_text
from runtime.commands.console import EXIT_DONE
from runtime.errors import SettingsError

SCHEMA: Final = "earsight.serve/1"
FILE_NAME: Final = "serve.json"
LOG: Final = "server.log"
DEFAULTS: Final = LoadSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m bench serve`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--url", metavar="URL", help="a server that runs, such as http://127.0.0.1:8000")
    what.add_argument(
        "--bundle", type=Path, metavar="DIR", help="start a server with this bundle, and stop it"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="MANIFEST", help="recordings and pictures"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help=f"folder for {FILE_NAME} and page"
    )
    parser.add_argument(
        "--serve-options",
        default="",
        metavar="TEXT",
        help="with --bundle: options of `python -m runtime serve`",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="with --url: the token in its first line"
    )
    parser.add_argument("--without-pictures", action="store_true", help="send no pictures")
    parser.add_argument(
        "--limit", type=int, default=50, metavar="N", help="most utterances (default %(default)s)"
    )
    for name, default, metavar, text in (
        ("--bound", DEFAULTS.bound_s, "S", "longest latency at the 99th percentile, seconds"),
        ("--seconds", DEFAULTS.seconds, "S", "time at each rate"),
        ("--requests", DEFAULTS.requests, "N", "requests of SingleStream and of Offline"),
        ("--at-a-time", DEFAULTS.at_a_time, "N", "requests that Offline keeps under way"),
        ("--warm-up", DEFAULTS.warm_up, "N", "discarded requests"),
        ("--refinements", DEFAULTS.refinements, "N", "more rates, at which the highest is narrowed down"),
    ):
        parser.add_argument(
            name, type=type(default), default=default, metavar=metavar, help=f"{text} (default {default:g})"
        )
    parser.add_argument(
        "--shares", default=",".join(f"{share:g}" for share in SHARES), metavar="LIST",
        help="rates, as shares of Offline's (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed, metavar="N", help="of the arrivals")


def run(args: argparse.Namespace) -> int:
    """Measure, write serve.json and index.html, print the table.

    Raises:
        SettingsError: An option is out of its range, or belongs to the other kind of server.
        ServerUnavailableError: The server does not start or does not answer.
        ManifestError: The data cannot be used.
        OutputError: The folder cannot be written.
    """
    settings = load_settings(args)
    if args.bundle is None and args.serve_options:
        raise SettingsError("--serve-options belongs to --bundle; a server that runs has its options")
    with ExitStack() as held:
        url = args.url
        if args.bundle is not None:
            server = LocalServer(args.bundle, args.output / LOG, shlex.split(args.serve_options))
            url = held.enter_context(server).url
        report = asyncio.run(make_report(url, args, settings))
    path = write_report(report, args.output, FILE_NAME)
    page = write_page(report, args.output)
    print(load_text(report))
    print(path)
    print(page)
    return EXIT_DONE


async def make_report(url: str, args: argparse.Namespace, settings: LoadSettings) -> dict[str, Any]:
    """Run the scenarios on a server; return what goes into `serve.json`."""
    utterances = evenly_spread(read_manifest(args.data), args.limit)
    pictures = not args.without_pictures
    started = datetime.now(UTC).isoformat(timespec="seconds")
    system = system_info()
    async with Client(url, _token(args.token_file)) as client:
        model = await client.model()
        queries = await make_queries(client, model["id"], utterances, pictures=pictures)
        scenarios = await measure(client, queries, settings, _progress)
    with_picture = sum(row.image is not None or row.image_id is not None for row in utterances)
    report = {
        "schema": SCHEMA,
        "started": started,
        "system": system,
        "local": args.bundle is not None,
        "model": model,
        "settings": {
            **asdict(settings),
            "pictures": pictures,
            "serve_options": args.serve_options,
        },
        "data": {
            "manifest": args.data.name,
            "utterances": len(queries),
            "with_picture": with_picture,
            "audio_s": sum(query.seconds for query in queries),
        },
        **scenarios,
    }
    report["warnings"] = warnings(report)
    return report


def load_settings(args: argparse.Namespace) -> LoadSettings:
    """Build the settings from the command line.

    Raises:
        SettingsError: One is out of its range.
    """
    try:
        shares = tuple(float(part) for part in args.shares.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(
            f"--shares is {args.shares!r}; expected numbers with commas, such as 0.5,1,2"
        ) from error
    return LoadSettings(
        bound_s=args.bound,
        seconds=args.seconds,
        requests=args.requests,
        at_a_time=args.at_a_time,
        warm_up=args.warm_up,
        refinements=args.refinements,
        shares=shares,
        seed=args.seed,
    )


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError) as error:
        raise SettingsError(f"{path} holds no token ({error}); expected one in its first line") from error


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
