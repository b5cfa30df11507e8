"""The application: paths, and the envelope that every request goes through."""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.server import endpoints
from runtime.server.access import refuse_foreign_page
from runtime.server.bodies import bounded
from runtime.server.corrections import add_correction, describe_corrections, forget_speaker, sweep_daily
from runtime.server.faults import STATUSES, Fault
from runtime.server.fields import refuse_query
from runtime.server.gallery_endpoints import fit, list_gallery, show_picture
from runtime.server.openapi import document
from runtime.server.page import page
from runtime.server.service import Service
from runtime.server.transcriptions import transcribe

logger = logging.getLogger(__name__)
access_log = logging.getLogger("runtime.server.access_log")

VERSION: Final = "0.1.0"
GUARDED: Final = "/v1/"  # paths that need a token where there are any, and take no query
OF_PAGES: Final = ("/page/", "/gallery/", "/v1/gallery")
CLIENT_GONE: Final = 499  # nginx's status for it, in the log alone
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def create_app(service: Service) -> ASGIApp:
    """Return the ASGI application of a service; its lifespan starts and ends the engine."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.engine.start()
        store = service.corrections
        sweeping = None if store is None else asyncio.create_task(sweep_daily(store))
        try:
            yield
        finally:
            if sweeping is not None:
                sweeping.cancel()
            service.close()

    described = document(VERSION, with_tokens=bool(service.access.names))

    async def openapi(_: Request) -> Response:
        return JSONResponse(described)

    app = Starlette(
        routes=[
            Route("/v1/audio/transcriptions", transcribe, methods=["POST"]),
            Route("/v1/pictures", endpoints.add_picture, methods=["POST"]),
            Route("/v1/pictures/{picture_id}", endpoints.remove_picture, methods=["DELETE"]),
            Route("/v1/rescore", endpoints.rescore, methods=["POST"]),
            Route("/v1/corrections", add_correction, methods=["POST"]),
            Route("/v1/corrections", describe_corrections, methods=["GET"]),
            Route("/v1/corrections/speakers/{speaker}", forget_speaker, methods=["DELETE"]),
            Route("/v1/fit", fit, methods=["POST"]),
            Route("/v1/gallery", list_gallery),
            Route("/gallery/{picture_id}", show_picture),
            Route("/v1/models", endpoints.list_models),
            Route("/v1/models/{model}", endpoints.show_model),
            Route("/livez", endpoints.live),
            Route("/readyz", endpoints.ready),
            Route("/v2/health/live", endpoints.live),
            Route("/v2/health/ready", endpoints.ready),
            Route("/openapi.json", openapi),
            Route("/", page),
            Route("/page/{name}", page),
        ],
        exception_handlers={
            Fault: _as_response,
            HTTPException: _as_response,
            Exception: _as_defect,
        },
        lifespan=lifespan,
    )
    app.state.service = service
    return Envelope(app, service)


def _as_response(_: Request, error: Exception) -> Response:
    return _response(error if isinstance(error, Fault) else _known(error))


async def _as_defect(_: Request, error: Exception) -> Response:
    """Answer in the place of Starlette, which raises the error again; the envelope logs it."""
    return Response(status_code=CLIENT_GONE) if isinstance(error, ClientDisconnect) else _response(_defect())


def _defect() -> Fault:
    return Fault(500, "a defect of the server; its log says more", code="internal_error")


def _response(fault: Fault) -> Response:
    return JSONResponse(fault.body(), fault.status, fault.headers)


def _known(error: Exception) -> Fault:
    """Return the fault for what Starlette itself refuses."""
    assert isinstance(error, HTTPException)
    status = error.status_code if error.status_code in STATUSES else 400
    return Fault(status, str(error.detail))


class Envelope:
    """What every request goes through: a name, access, limits, one line in the log, and no traceback outside.

    Args:
        app: What answers.
        service: The server.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; see the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent = Sent(send, _request_id(headers))
        started = time.perf_counter()
        token: str | None = None
        try:
            # Programs name a server as they like. A page sends its origin, or loads what only pages want.
            if "origin" in headers or scope["path"] == "/" or scope["path"].startswith(OF_PAGES):
                self._service.access.require_host(headers.get("host"))
            refuse_foreign_page(headers.get("origin"), headers.get("host"))
            if scope["path"].startswith(GUARDED):
                token = self._service.access.admit(headers.get("authorization"))
                refuse_query(scope["query_string"].decode("latin-1"), has_body=scope["method"] == "POST")
            async with self._service.stopping.bounding(lambda: sent.status is not None):
                await self._app(scope, bounded(receive, headers, self._service.limits), sent)
        except Fault as fault:
            await _response(fault)(scope, receive, sent)
        except ClientDisconnect:
            sent.status = sent.status or CLIENT_GONE
        except asyncio.CancelledError:
            # Somebody reads an answer so slowly that it does not end before the server does.
            if not self._service.stopping.is_over:
                raise
        except Exception:
            logger.exception("a defect while answering %s", sent.request_id)
            if sent.status is None:
                await _response(_defect())(scope, receive, sent)
        finally:
            self._note(scope, sent, token, time.perf_counter() - started)

    def _note(self, scope: Scope, sent: "Sent", token: str | None, seconds: float) -> None:
        route = scope.get("route")
        path = route.path if route is not None else "unknown"
        self._service.metrics.requests.labels(path, str(sent.status)).inc()
        self._service.metrics.latency.labels(path).observe(seconds)
        access_log.info(
            json.dumps(
                {
                    "request_id": sent.request_id,
                    "method": scope["method"],
                    "path": path,
                    "status": sent.status,
                    "ms": round(seconds * 1000, 1),
                    "token": token,
                }
            )
        )


class Sent:
    """What was sent of an answer; adds the name of the request to its headers."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers.setdefault("cache-control", "no-store")
        await self._send(message)


def _request_id(headers: Any) -> str:
    """Return the name that the client gave, or a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
