"""Whether the device is alive and ready. Anybody may ask, and learns nothing else.

A device stays ready while it walks: it answers from a state of the path whose accuracy is known.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from litestar import Response, get
from litestar.openapi import ResponseSpec

from runtime.service.auth import PUBLIC, SCOPE, UNMETERED
from runtime.service.messages import Health
from runtime.service.metrics import CONTENT_TYPE
from runtime.service.service import Here, Service
from runtime.service.tokens import Scope

OPEN: Final[dict[str, Any]] = {SCOPE: PUBLIC}


async def is_ready(service: Service) -> bool:
    """Whether the device answers inference."""
    return (await service.readiness.ask()).ready


@get("/healthz", opt=OPEN, tags=["health"])
async def healthz() -> Health:
    """Whether the service is alive: that it answers is the answer."""
    return Health(status="ok")


@get(
    "/readyz",
    opt=OPEN,
    tags=["health"],
    responses={
        HTTPStatus.SERVICE_UNAVAILABLE: ResponseSpec(Health, description="It does not.", generate_examples=False)
    },
)
async def readyz(service: Here) -> Response[Health]:
    """Whether the device answers inference."""
    ready = await is_ready(service)
    return Response(
        Health(status="ok" if ready else "unavailable"),
        status_code=HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
    )


@get("/metrics", opt={SCOPE: Scope.READ, UNMETERED: True}, tags=["health"], media_type="text/plain")
async def metrics(service: Here) -> Response[bytes]:
    """Everything that Prometheus may want to know."""
    text = await service.control.run(service.metrics.exposition)
    return Response(text, headers={"Content-Type": CONTENT_TYPE})
