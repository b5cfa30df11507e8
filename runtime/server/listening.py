"""Where the server listens, and how it ends: what it has taken is answered first."""

import asyncio
import errno
import logging
import math
import os
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Final

import uvicorn

from runtime.errors import SettingsError
from runtime.server.app import create_app
from runtime.server.service import Service

GRACE_S: Final = 2  # for the last answers, before uvicorn cancels what is left
LARGEST_PORT: Final = 65_535
# What a machine without IPv6 says to an IPv6 address of a name that has others.
NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
logger = logging.getLogger("uvicorn.error")


def require_port(option: str, port: int, least: int = 0) -> None:
    """Refuse what is no port.

    Raises:
        SettingsError: It is out of the range.
    """
    if not least <= port <= LARGEST_PORT:
        raise SettingsError(f"{option} is {port}; expected a port from {least} to {LARGEST_PORT}")


def bind(host: str, port: int, option: str = "--port") -> list[socket.socket]:
    """Take a port at every address of a host; nobody is answered there yet.

    Args:
        host: Address or name.
        port: The port; 0 for any that is free.
        option: What the port was given with, for the message.

    Raises:
        SettingsError: The host is unknown or not this machine, or the port is taken or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long, or has an empty part
        raise SettingsError(f"--host {host}: no address of this machine: {_why(error)}") from error
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            missing = error
            continue
        try:
            _bind(listener, (address[0], port, *address[2:]))
        except OSError as error:
            listener.close()
            if error.errno in NOT_HERE:
                missing = error
                continue
            _close(listeners)
            raise _unusable(host, port, option, error) from error
        listeners.append(listener)
        port = listener.getsockname()[1]  # of 0 the same for all
    if not listeners:
        raise SettingsError(f"--host {host}: no address of this machine: {_why(missing)}") from missing
    return listeners


def listen(listeners: Sequence[socket.socket]) -> None:
    """Let clients connect.

    Raises:
        SettingsError: Somebody took the port meanwhile.
    """
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        try:
            listener.listen()
        except OSError as error:
            _close(listeners)
            raise _unusable(host, port, "--port", error) from error


def _bind(listener: socket.socket, address: tuple[object, ...]) -> None:
    if os.name == "posix":  # else a server could not start again for a minute; Windows takes it otherwise
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(address)


def _close(listeners: Sequence[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


def _unusable(host: str, port: int, option: str, error: OSError) -> SettingsError:
    if error.errno == errno.EADDRINUSE:
        return SettingsError(f"{option} {port} at {host} is in use; give another, or end what listens there")
    return SettingsError(f"{option} {port} at {host} cannot be listened at: {_why(error)}")


def _why(error: Exception | None) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


class Server(uvicorn.Server):
    """Says that it is not ready as soon as it is told to stop, and answers what it cannot finish.

    Args:
        service: What answers.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        super().__init__(
            uvicorn.Config(
                create_app(service),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(service.limits.drain_s) + GRACE_S,
                limit_concurrency=None,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal to stop."""
        self._service.admission.draining = True
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # uvicorn would raise them again behind a clean end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say where, in uvicorn's words: of sockets that it is given, it does not."""
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            name = f"[{host}]" if ":" in host else host
            logger.info("Uvicorn running on http://%s:%d (Press CTRL+C to quit)", name, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, when all that was taken is answered or its time is over."""
        self._service.admission.draining = True
        loop = asyncio.get_running_loop()
        over = loop.call_later(self._service.limits.drain_s, self._service.stopping.end)
        try:
            await super().shutdown(sockets)
        finally:
            over.cancel()
