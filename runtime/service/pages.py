"""The page of the device, at ``/``: three files and nothing else, none of them from anywhere else."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from litestar import Response, get

from runtime.service.auth import PUBLIC, SCOPE

OPEN: Final[dict[str, Any]] = {SCOPE: PUBLIC}
"""They hold nothing of the device: what they show, they ask for with a session."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@get("/", opt=OPEN, include_in_schema=False, media_type="text/html", sync_to_thread=False)
def page() -> Response[bytes]:
    """The page."""
    return _file("page.html", "text/html")


@get("/page.css", opt=OPEN, include_in_schema=False, media_type="text/css", sync_to_thread=False)
def style() -> Response[bytes]:
    """How it looks."""
    return _file("page.css", "text/css")


@get("/page.js", opt=OPEN, include_in_schema=False, media_type="text/javascript", sync_to_thread=False)
def script() -> Response[bytes]:
    """What it does."""
    return _file("page.js", "text/javascript")


def _file(name: str, media_type: str) -> Response[bytes]:
    content = resources.files("runtime.service").joinpath("page", name).read_bytes()
    return Response(content, media_type=media_type, headers={"Content-Security-Policy": POLICY})
