"""Bodies of requests, read within limits of size and time."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message, Receive

from runtime.bundle.json_files import parse_json
from runtime.server.faults import Fault
from runtime.server.fields import Field, read_fields
from runtime.server.limits import Limits

# So many times the limit are read and thrown away before the answer: a client that is still sending would not
# see it.
DISCARDED: Final = 4


def bounded(receive: Receive, headers: Any, limits: Limits) -> Receive:
    """Return what receives a request and refuses bodies that are too large.

    Args:
        receive: The server's.
        headers: Of the request.
        limits: Of the server.
    """
    declared = headers.get("content-length", "")
    most = limits.body_bytes
    received = 0

    async def receive_within() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] != "http.request":
            return message
        received += len(message.get("body", b""))
        is_too_large = received > most or (declared.isdigit() and int(declared) > most)
        while is_too_large and message.get("more_body") and received <= DISCARDED * most:
            message = await receive()
            received += len(message.get("body", b""))
        if is_too_large:
            raise Fault(413, f"a body of more than {most} bytes", code="too_large")
        return message

    return receive_within


@asynccontextmanager
async def form_fields(
    request: Request, table: Sequence[Field], limits: Limits
) -> AsyncIterator[dict[str, Any]]:
    """Read a form; its files are open within the block.

    Args:
        request: The request.
        table: The fields that it may have.
        limits: Of the server.

    Raises:
        Fault: It is no form, too large or too slow, or a field of it cannot be used.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise Fault(400, f"a body of type {kind[:80]!r}; expected multipart/form-data")
    async with _in_time(limits):
        form = await _form(request, limits)
    try:
        yield read_fields(form.multi_items(), table)
    finally:
        await form.close()


class _WholeForm(MultiPartParser):
    """Reads a form, and notes whether its closing boundary came: without it the last field may be cut off."""

    is_closed = False

    def on_end(self) -> None:
        """Note the closing boundary."""
        self.is_closed = True


async def _form(request: Request, limits: Limits) -> FormData:
    """Read a form that is whole.

    Raises:
        Fault: It is none, holds too many fields, or is cut off.
    """
    try:
        async with aclosing(request.stream()) as stream:
            parser = _WholeForm(
                request.headers,
                stream,
                max_files=limits.fields,
                max_fields=limits.fields,
                max_part_size=limits.body_bytes,
            )
            form = await parser.parse()
    except MultiPartException as error:
        raise Fault(400, f"the form cannot be read: {error.message}") from error
    except UnicodeError as error:
        raise Fault(400, "the form cannot be read in its charset; expected utf-8") from error
    if not parser.is_closed:
        await form.close()
        raise Fault(
            400,
            "the form is cut off: its closing boundary is missing; expected the whole form: send it again",
            code="incomplete_form",
        )
    return form


async def json_object(request: Request, limits: Limits) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        Fault: It is none that `parse_json` reads, too large or too slow.
    """
    async with _in_time(limits):
        content = await request.body()
    try:
        value = parse_json(content.decode(json.detect_encoding(content)), constants=False)
    except ValueError as error:
        raise Fault(400, f"the body is no JSON ({error}); expected an object") from error
    if not isinstance(value, dict):
        raise Fault(400, f"the body is a JSON {type(value).__name__}; expected an object")
    return value


@asynccontextmanager
async def _in_time(limits: Limits) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.upload_s):
            yield
    except TimeoutError as error:
        raise Fault(408, f"the body took longer than {limits.upload_s:g} s to arrive", code="slow") from error
