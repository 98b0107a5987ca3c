"""The application: routes, the door before them, errors, the description that is derived from the types."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from litestar import Litestar, Response
from litestar.connection import Request
from litestar.di import Provide
from litestar.exceptions import HTTPException

from device_profiles.errors import GeoshiftError
from runtime.service import access, bundles, health, pages, problems, v1, v2
from runtime.service.description import description
from runtime.service.gate import Gate
from runtime.service.hosts import own_names
from runtime.service.problems import Answer
from runtime.service.service import Service

QUIET: Final = {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
"""Routes that are asked every few seconds: logged when something is wrong."""
INFER: Final = "/infer"


def application(service: Service) -> Gate:
    """All of a service, ready for a server."""

    @asynccontextmanager
    async def life(_: Litestar) -> AsyncIterator[None]:
        service.feed.start()
        try:
            yield
        finally:
            service.feed.stop()

    app = Litestar(
        route_handlers=[
            pages.page, pages.style, pages.script, health.healthz, health.readyz, health.metrics, v1.ROUTER,
            access.ROUTER, bundles.ROUTER, v2.router(service.config.limits),
        ],
        dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
        guards=[service.door.guard],
        exception_handlers={HTTPException: _handler(service), Exception: _handler(service)},
        request_max_body_size=service.config.limits.control_bytes,
        openapi_config=description(),
        lifespan=[life],
        logging_config=None,
        debug=False,
    )  # fmt: skip

    def seen(method: str, route: str, status: int, seconds: float, request_id: str, principal: str) -> None:
        service.metrics.saw(method, route, status, seconds)
        quiet = status < HTTPStatus.BAD_REQUEST and (route in QUIET or route.endswith(INFER))
        service.log.write(
            "debug" if quiet else "info", "request", method=method, route=route, status=status,
            ms=round(seconds * 1e3, 2), request=request_id, principal=principal,
        )  # fmt: skip

    return Gate(app, service.config.limits, own_names(service.config.names), seen)


def _handler(service: Service) -> Callable[[Request[Any, Any, Any], Exception], Response[bytes]]:
    """Turns whatever a handler raises into a problem document."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        request_id: str = request.scope["state"]["request_id"]
        inference = request.scope["path"].startswith("/v2")
        known = problems.describe(error, request_id, inference=inference, hidden=service.device.hidden)
        if known is None and isinstance(error, RecursionError):
            # A body of brackets: msgspec stops in time, and Litestar does not foresee that it does.
            known = problems.generic(
                HTTPStatus.BAD_REQUEST, "body: found too deep a nesting", request_id, inference=inference
            )
        if known is None and isinstance(error, UnicodeDecodeError):
            # Litestar foresees that JSON is malformed, and not that its text is.
            known = problems.generic(
                HTTPStatus.BAD_REQUEST, "body: found bytes that are no UTF-8, expected JSON", request_id,
                inference=inference,
            )  # fmt: skip
        if known is None and isinstance(error, HTTPException):
            known = _of_framework(error, request_id, inference)
        if known is None:
            service.log.fault("unforeseen error", error, request=request_id)
            detail = (
                "the device failed to answer; its log has the reason under this request's id"
                if isinstance(error, GeoshiftError)
                else "a defect in geoshift; the device's log has it under this request's id"
            )
            known = problems.generic(HTTPStatus.INTERNAL_SERVER_ERROR, detail, request_id, inference=inference)
        return Response(
            known.body, status_code=known.problem.status, media_type=problems.MEDIA_TYPE, headers=known.headers
        )

    return handle


def _of_framework(error: HTTPException, request_id: str, inference: bool) -> Answer:
    """What Litestar refuses: unknown routes and methods, bodies that are too large or do not fit their type."""
    status = HTTPStatus(error.status_code)
    detail = error.detail
    if status is HTTPStatus.NOT_FOUND:
        detail = "target: found no such route; GET /v1/schema/openapi.json lists them"
    elif isinstance(error.extra, list) and error.extra:
        parts = [f"{one.get('key', 'body')}: {one.get('message', '')}" for one in error.extra if isinstance(one, dict)]
        detail = "; ".join([detail, *parts])[:1000]
    answer = problems.generic(status, detail, request_id, inference=inference)
    allow = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    return Answer(answer.problem, allow)
