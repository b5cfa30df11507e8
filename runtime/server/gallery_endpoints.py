"""The gallery's endpoints: its list, its pictures, and how well a picture fits texts beside the others."""

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.errors import EarsightError, ImageNotFoundError
from runtime.fusion import to_caption_style
from runtime.server.asked import read_asked
from runtime.server.faults import Fault, fault_of
from runtime.server.fields import MOST_TEXT
from runtime.server.requests import FIT, MOST_TEXTS
from runtime.server.service import Service

MOST_COMPARED: Final = 32  # pictures of the gallery that a picture is compared with
A_DAY: Final = "private, max-age=86400, immutable"  # an id never names other bytes


async def list_gallery(request: Request) -> Response:
    """List the pictures of the gallery; none where there is no gallery."""
    service: Service = request.app.state.service
    return JSONResponse(
        {
            "object": "list",
            "data": [
                {"id": picture.id, "name": picture.name, "url": f"/gallery/{picture.id}"}
                for picture in service.gallery.values()
            ],
        }
    )


async def show_picture(request: Request) -> Response:
    """Send a picture of the gallery. It needs no token: only who has the list, or the picture, knows its id.

    Raises:
        Fault: There is none of this id.
    """
    service: Service = request.app.state.service
    key = request.path_params["picture_id"]
    picture = service.gallery.get(key)
    if picture is None:
        raise Fault(404, f"there is no picture {key[:80]!r} in the gallery", code="picture_not_found")
    try:
        content = await asyncio.to_thread(picture.read)
    except ImageNotFoundError as error:
        raise Fault(404, str(error), code="picture_not_found") from error
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": A_DAY}
    return Response(content, media_type=picture.media_type, headers=headers)


async def fit(request: Request) -> Response:
    """Tell how many pictures of the gallery fit texts better than the picture that was named.

    Of a large gallery, pictures at even distances are compared. Those that were not looked at before are
    encoded for it, one at a time, so that others' requests come between. What cannot be read any more is not
    counted.

    Raises:
        Fault: The request cannot be served.
    """
    service: Service = request.app.state.service
    with service.admission.request():
        asked = await read_asked(request, "texts", _texts, FIT)
        deadline = asked.deadline
        others = [key for key in service.gallery if key != asked.values["image_id"]]
        others = others[:: -(-len(others) // MOST_COMPARED) or 1]
        looked_at = [await service.gallery_embedding_or_none(key, deadline) for key in others]
        embeddings = [asked.picture, *[embedding for embedding in looked_at if embedding is not None]]
        captions = [to_caption_style(text) for text in asked.texts]
        try:
            encoded = await service.on_engine(lambda: service.asr.encode_texts(captions), deadline)
        except EarsightError as error:
            raise fault_of(error, "texts") from error
    best = (np.stack(embeddings) @ encoded.T).max(axis=1)
    return JSONResponse(
        {
            "object": "fit",
            "clip_score": float(best[0]),
            "compared": len(embeddings) - 1,
            "better": int((best[1:] > best[0]).sum()),
        }
    )


def _texts(given: object) -> Sequence[str]:
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_TEXTS:
        raise Fault(400, f"texts is no list of 1 to {MOST_TEXTS} texts", param="texts")
    if not all(isinstance(text, str) and 0 < len(text) <= MOST_TEXT for text in given):
        raise Fault(400, f"texts holds what is no text of 1 to {MOST_TEXT} characters", param="texts")
    return given
