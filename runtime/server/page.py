"""The page for people: `GET /` and what it loads, from the folder `page` of the package."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from runtime.server.faults import Fault

FOLDER: Final = Path(__file__).parent / "page"
INDEX: Final = "index.html"
MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
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


@functools.cache
def page_files() -> Mapping[str, bytes]:
    """Return the files of the page by their names."""
    return {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES}


async def page(request: Request) -> Response:
    """Send the page, or a file that it loads.

    Raises:
        Fault: There is none of this name.
    """
    name = request.path_params.get("name", INDEX)
    content = page_files().get(name)
    if content is None:
        raise Fault(404, f"the page has no file {name[:80]!r}")
    return Response(content, media_type=MEDIA_TYPES[Path(name).suffix], headers=HEADERS)
