"""What every request passes before the application and after it: limits of time and form, the log, the headers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from runtime.service import problems
from runtime.service.auth import SAFE
from runtime.service.config import Limits
from runtime.service.hosts import is_own, same_origin
from runtime.service.problems import Answer, Refused

MAX_TARGET: Final = 2048
Message = Any
"""ASGI's dictionaries, as servers and applications type them differently."""

HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}
POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
"""What a browser may load for an answer that is no page: nothing."""


class Gate:
    """An ASGI application around another one.

    Args:
        app: The application.
        limits: What a client may take.
        names: Names of the device.
        seen: Told of each request when it is over: method, route, status, seconds, request id, principal's id.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        limits: Limits,
        names: frozenset[str],
        seen: Callable[[str, str, int, float, str, str], None],
    ) -> None:
        self._app = app
        self._limits = limits
        self._names = names
        self._seen = seen

    async def __call__(self, scope: Message, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        begun = time.perf_counter()
        status = 0
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": completed(message["headers"], request_id)}
            await send(message)

        try:
            refused = _refusal(scope, self._names)
            if refused is None:
                await self._app(scope, _Body(receive, self._limits.body_s), answer)
            else:
                described = problems.describe(refused, request_id, inference=scope["path"].startswith("/v2"))
                assert described is not None, "a refusal has a text"
                await _send(described, answer)
        finally:
            principal = state.get("principal")
            self._seen(
                scope["method"],
                scope.get("path_template") or "none",
                status,
                time.perf_counter() - begun,
                request_id,
                principal.id if principal is not None else "-",
            )


class _Body:
    """Receives a body against the clock: from the first piece on, all of it must come in time."""

    def __init__(self, receive: Callable[..., Any], seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self._until: float | None = None
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._until is None:
            self._until = loop.time() + self._seconds
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise Refused(
                HTTPStatus.REQUEST_TIMEOUT,
                f"body: found no end of it after {self._seconds:g} s, expected all of it by then; send it again",
                {"Connection": "close"},
            ) from None
        self._whole = not message.get("more_body", False)
        return message


def _refusal(scope: Message, names: frozenset[str]) -> Refused | None:
    """Why a request goes no further, or nothing."""
    try:
        _check(scope, names)
    except Refused as error:
        return error
    return None


def _check(scope: Message, names: frozenset[str]) -> None:
    """Refuse what no honest client sends.

    Raises:
        Refused: The target, a header or the origin is not as it must be.
    """
    raw: bytes = scope.get("raw_path") or b""
    query: bytes = scope.get("query_string") or b""
    path: str = scope["path"]
    if len(raw) + len(query) > MAX_TARGET:
        raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, f"target: found over {MAX_TARGET} bytes")
    # Decoded once by the server: what still looks encoded, climbs or hides a separator is a trick.
    if (
        b"%2f" in raw.lower()
        or "\\" in path
        or "%" in path
        or "//" in path
        or any(part in {".", ".."} for part in path.split("/"))
        or not path.isprintable()
    ):
        raise Refused(HTTPStatus.BAD_REQUEST, "target: found a path that climbs, hides or repeats a separator")
    headers = _once(scope["headers"])
    host = headers.get("host", "")
    if scope["client"] is not None and not is_own(host, names):
        raise Refused(
            HTTPStatus.MISDIRECTED_REQUEST,
            "host: found a name that is not this device's; use its address, or add the name to `names` in the settings",
        )
    origin = headers.get("origin")
    if origin is not None and scope["method"] not in SAFE and not same_origin(origin, host, scope["scheme"]):
        raise Refused(HTTPStatus.FORBIDDEN, "origin: found a request from another site's page", kind="origin")
    if headers.get("content-encoding", "identity") != "identity":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content-encoding: found a packed body, expected one as it is")


def _once(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name; those that decide something must come once.

    Raises:
        Refused: One of them came twice: two readers could take it for two things.
    """
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in found and name in {"host", "origin", "authorization", "content-type", "content-encoding"}:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{name}: found twice, expected once")
        found[name] = value
    return found


def completed(given: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """Headers of an answer with those that every answer has.

    Args:
        given: Names in lower case, and values.
        request_id: Id of the request.
    """
    names = {name.lower() for name, _ in given}
    extra = {**HEADERS, "content-security-policy": POLICY, "x-request-id": request_id}
    return [*given, *((key.encode(), value.encode()) for key, value in extra.items() if key.encode() not in names)]


async def _send(answer: Answer, send: Callable[..., Any]) -> None:
    headers = {"content-type": problems.MEDIA_TYPE, "content-length": str(len(answer.body)), **answer.headers}
    await send(
        {
            "type": "http.response.start",
            "status": answer.problem.status,
            "headers": [(key.lower().encode(), value.encode()) for key, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})
