"""`serve`: the recogniser behind HTTP."""

import argparse
import ipaddress
import logging
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runtime.commands.console import EXIT_DONE, EXIT_FAULT
from runtime.commands.options import add_server_pipeline_arguments, make_pipeline
from runtime.errors import SettingsError
from runtime.pipeline import MultimodalASR
from runtime.server.correction_store import CorrectionStore
from runtime.server.limits import Limits
from runtime.sessions.processors import usable_processors

if TYPE_CHECKING:
    from runtime.server.service import Service

MOST_DECODERS: Final = 64
INSTALL: Final = "pip install 'earsight[serve]'"
# The limits that have an option of their own, with what it says.
LIMIT_OPTIONS: Final = {
    "body_bytes": "largest body of a request, bytes",
    "audio_s": "longest recording, seconds",
    "queue_s": "most seconds of audio that wait",
    "requests": "most requests at a time",
    "upload_s": "longest time that a body may take to arrive, seconds",
    "deadline_s": "longest time to an answer, seconds",
    "drain_s": "longest time that requests are answered after SIGTERM, seconds",
    "batch": "most utterances decoded together",
    "lanes": "most batches at a time, each on its share of the cores; on a CPU alone",
    "pictures": "most pictures whose embeddings are kept",
    "stall_s": "silence of the engine after which the server is not ready, seconds",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m runtime serve`."""
    add_server_pipeline_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen at; 0 for any (default %(default)s)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name that browsers may call the server by, several times if wanted (default: without tokens at "
        "a local address localhost, 127.0.0.1, [::1] and that of --host; else any)",
    )
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="tokens that may ask, one a line")
    parser.add_argument(
        "--requests-per-minute", type=int, metavar="N", help="most requests of a token a minute"
    )
    parser.add_argument(
        "--gallery",
        type=Path,
        metavar="PATH",
        help="pictures that the page offers to describe: a folder, or a manifest (JSON Lines with image)",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="listen at an address that others reach, without tokens"
    )
    parser.add_argument(
        "--metrics-port", type=int, metavar="N", help="port of GET /metrics (default: no metrics)"
    )
    parser.add_argument(
        "--decode-processes",
        type=int,
        default=0,
        metavar="N",
        help="decode files in so many processes of bounded memory and time (default: in threads)",
    )
    parser.add_argument(
        "--corrections", type=Path, metavar="DIR", help="keep corrections there (default: none)"
    )
    parser.add_argument(
        "--retention-days", type=int, metavar="N", help="remove corrections after N days (default: never)"
    )
    limits = parser.add_argument_group("limits")
    for name, text in LIMIT_OPTIONS.items():
        default = getattr(Limits(), name)
        limits.add_argument(
            f"--limit-{name.replace('_', '-')}",
            dest=f"limit_{name}",
            type=type(default),
            metavar="N",
            default=default,
            help=f"{text} (default {default if isinstance(default, int) else format(default, 'g')})",
        )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        SettingsError: The extra `serve` is not installed, or an option is out of its range.
        BundleError: The bundle cannot be used.
        ManifestError: The gallery cannot be used, as `read_gallery` says.
        ImageError: A picture of the gallery cannot be used.
        ProviderError: The provider cannot be used.
        OutputError: The folder of the corrections cannot be written.
    """
    try:
        import uvicorn  # noqa: F401 - tells by itself whether the extra is installed

        from runtime.server.access import Access
        from runtime.server.gallery import read_gallery
        from runtime.server.listening import Server, listen
        from runtime.server.service import Service
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"serve needs the package {error.name}, which is not installed: {INSTALL}"
        ) from error
    if args.requests_per_minute is not None and (args.tokens is None or args.requests_per_minute < 1):
        raise SettingsError("--requests-per-minute is a number of at least 1, of each token of --tokens")
    if not 0 <= args.decode_processes <= MOST_DECODERS:
        raise SettingsError(f"--decode-processes is {args.decode_processes}; expected 0 to {MOST_DECODERS}")
    access = Access.from_file(args.tokens, args.requests_per_minute) if args.tokens else Access()
    _require_safe(args.host, has_tokens=bool(access.names), insecure=args.insecure)
    access.hosts = _hosts(args, has_tokens=bool(access.names))
    limits = Limits(**{name: getattr(args, f"limit_{name}") for name in LIMIT_OPTIONS})
    with ExitStack() as held:
        listeners = _bound(args)  # before the models are loaded, which takes a while
        for listener in listeners:
            held.enter_context(listener)
        asr = make_pipeline(args, alpha=args.alpha)
        corrections = _corrections(args)
        gallery = read_gallery(args.gallery) if args.gallery else {}
        service = Service(
            asr,
            limits,
            access,
            decode_processes=args.decode_processes,
            corrections=corrections,
            gallery=gallery,
            beside=_beside(args, asr, limits.lanes),
        )
        _log_to_stderr()
        if args.metrics_port is not None:
            _serve_metrics(service, args.host, args.metrics_port)
        listen(listeners)
        server = Server(service)
        server.run(listeners)
    return EXIT_DONE if server.started else EXIT_FAULT


def _bound(args: argparse.Namespace) -> list[socket.socket]:
    """Take the port, and see whether that of the metrics is free."""
    from runtime.server.listening import bind, require_port

    require_port("--port", args.port)
    if args.metrics_port is not None:
        require_port("--metrics-port", args.metrics_port, least=1)
        if args.metrics_port == args.port:
            raise SettingsError(f"--port and --metrics-port are {args.port}; expected one each")
        for free in bind(args.host, args.metrics_port, "--metrics-port"):
            free.close()
    return bind(args.host, args.port)


def _serve_metrics(service: "Service", host: str, port: int) -> None:
    try:
        service.metrics.serve(host, port)
    except OSError as error:  # taken meanwhile
        raise SettingsError(f"--metrics-port {port} cannot be listened at: {error.strerror}") from error


def _corrections(args: argparse.Namespace) -> CorrectionStore | None:
    if args.corrections is not None:
        return CorrectionStore(args.corrections, args.retention_days)
    if args.retention_days is not None:
        raise SettingsError("--retention-days is of --corrections DIR, which is not there")
    return None


def _beside(args: argparse.Namespace, asr: MultimodalASR, lanes: int) -> MultimodalASR | None:
    """Return the pipeline of lanes that work side by side; None where one lane has all there is."""
    cores = args.threads or usable_processors()
    if lanes == 1 or cores < lanes or asr.sessions.device != "cpu":
        return None
    shared = argparse.Namespace(**{**vars(args), "threads": cores // lanes})
    return make_pipeline(shared, alpha=args.alpha, beside=asr)


def _require_safe(host: str, *, has_tokens: bool, insecure: bool) -> None:
    if not (has_tokens or insecure or _is_local(host)):
        raise SettingsError(
            f"--host {host} is reached by others, and there are no tokens: give --tokens FILE, or --insecure "
            "where something in front of the server asks for them"
        )


def _hosts(args: argparse.Namespace, *, has_tokens: bool) -> frozenset[str] | None:
    """Return the names that the server may be called by; None for any."""
    from runtime.server.access import LOCAL_HOSTS, require_host_name

    for name in args.allow_host:
        require_host_name("--allow-host", name)
    if not args.allow_host and (has_tokens or not _is_local(args.host)):
        return None
    return frozenset(name.lower().strip("[]") for name in (*LOCAL_HOSTS, args.host, *args.allow_host))


def _is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _log_to_stderr() -> None:
    """Write the log of requests as lines of JSON, and all else as text."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("runtime.server.access_log")
    log.handlers, log.propagate = [lines], False
    log.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    logging.getLogger().setLevel(logging.INFO)
