"""The page for people: `GET /` and what it loads, from the folder `page` of the package."""

from functools import partial
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER: Final = Path(__file__).parent / "page"
INDEX: Final = "index.html"
MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing inline, nothing of another origin, in nobody's frame.
POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "microphone=(self), camera=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_routes() -> list[Route]:
    """Return the routes of the page: `/` and `/page/…`, one for each file, read here once."""
    return [
        Route(
            "/" if path.name == INDEX else f"/page/{path.name}",
            partial(_send, content=path.read_bytes(), media_type=MEDIA_TYPES[path.suffix]),
        )
        for path in sorted(FOLDER.iterdir())
    ]


async def _send(_: Request, content: bytes, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers=HEADERS)
