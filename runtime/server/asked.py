"""What is asked about texts and a picture, as a JSON object."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from starlette.requests import Request

from runtime.server.bodies import json_object
from runtime.server.fields import Field, read_fields
from runtime.server.pictures import Embedding
from runtime.server.requests import require_model
from runtime.server.service import Service

Texts = TypeVar("Texts")


class Asked(NamedTuple, Generic[Texts]):
    """A request about texts and a picture.

    Attributes:
        texts: What was listed.
        values: The other fields, by name.
        picture: Its embedding.
        deadline: Time of `time.monotonic` after which nobody waits for the answer.
    """

    texts: Texts
    values: dict[str, Any]
    picture: Embedding
    deadline: float


async def read_asked(
    request: Request, name: str, read: Callable[[object], Texts], fields: Sequence[Field]
) -> Asked[Texts]:
    """Read the body of a request, and look at its picture.

    Args:
        request: The request.
        name: Field of the texts.
        read: Checks them.
        fields: All others.

    Raises:
        Fault: The request cannot be served.
    """
    service: Service = request.app.state.service
    body = await json_object(request, service.limits)
    texts = read(body.pop(name, None))
    values = read_fields(body.items(), fields)
    require_model(values["model"], service.models)
    deadline = service.deadline()
    return Asked(texts, values, await service.required_picture(values, deadline), deadline)
