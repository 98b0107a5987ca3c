"""The device's own interface: what it does about its mode, what it could do, and who decides."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.connection import Request
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from litestar.response import Stream

from device_profiles import loader
from runtime.device.views import HoldView, ModeView, OperationView, Status
from runtime.errors import UnknownOperation
from runtime.service import events
from runtime.service.auth import SCOPE, principal_of
from runtime.service.idempotency import HEADER
from runtime.service.messages import (
    HoldRequest,
    Identity,
    RetargetRequest,
    SwitchRequest,
    TransitionView,
    WaypointView,
)
from runtime.service.service import Here, Service, version
from runtime.service.tokens import Scope

AUTO: Final = "auto"
"""Given in place of a mode's name, gives control back."""

READ: Final[dict[str, Any]] = {SCOPE: Scope.READ}
SWITCH: Final[dict[str, Any]] = {SCOPE: Scope.SWITCH}

AnyRequest = Request[Any, Any, Any]
Key = Annotated[
    str | None, HeaderParameter(name=HEADER, description="a UUID; the same one again acts once", required=False)
]
WaitS = Annotated[float, QueryParameter(ge=0, le=60, description="seconds to wait for the end")]


@get("/status", opt=READ)
async def status(service: Here) -> Status:
    """What the device is doing, why, and what it has done."""
    return await service.control.run(service.device.status)


@get("/identity", opt=READ)
async def identity(service: Here, request: AnyRequest) -> Identity:
    """Who the caller is, and what it talks to."""
    principal = principal_of(request)
    return Identity(
        device=service.device.id,
        profile=service.device.profile.name,
        model=service.model,
        version=version(),
        principal=principal.name,
        scope=principal.scope.word,
    )


@get("/modes", opt=READ)
async def modes(service: Here) -> tuple[ModeView, ...]:
    """The modes, the dense one first, each with what it is known to cost."""
    return await service.control.run(service.device.modes)


@get("/transitions", opt=READ)
async def transitions(service: Here) -> tuple[TransitionView, ...]:
    """The plan's paths with the evidence along them; each is walkable both ways."""
    return tuple(
        TransitionView(
            from_=entry.from_,
            to=entry.to,
            strategy=entry.strategy,
            chunks=entry.chunks,
            bytes_written=entry.bytes_written,
            min_accuracy=entry.min_accuracy,
            waypoints=tuple(
                WaypointView(position=point.position, accuracy=point.accuracy, written_bytes=point.bytes)
                for point in entry.waypoints
            ),
        )
        for entry in service.device.bundle.manifest.transitions
    )


@get("/profile", opt=READ)
async def profile(service: Here) -> dict[str, Any]:
    """The device profile in force, every default filled in."""
    return loader.as_builtins(service.device.profile)


@post(
    "/switch",
    opt=SWITCH,
    status_code=HTTPStatus.ACCEPTED,
    responses={
        HTTPStatus.OK: ResponseSpec(OperationView, description="The switch is over.", generate_examples=False),
        HTTPStatus.NO_CONTENT: ResponseSpec(None, description="Nothing had to be done.", generate_examples=False),
    },
)
async def switch(
    service: Here, request: AnyRequest, data: JSONBody[SwitchRequest], idempotency_key: Key = None
) -> Response[OperationView | None]:
    """Ask for a mode by hand, or with ``auto`` give control back.

    202 with the operation while it is under way, 200 once it is over, 204 where nothing had to be done.
    """
    who = principal_of(request)

    async def act() -> OperationView | None:
        if data.mode == AUTO:
            return await service.control.run(service.device.auto, who=who.name)
        return await service.control.run(service.device.switch, data.mode, who=who.name, lease_s=data.lease_s)

    body = msgspec.json.encode((data.mode, data.lease_s))
    begun = await service.once_operation.run(who.id, idempotency_key, body, act)
    if begun is None:
        return Response(None, status_code=HTTPStatus.NO_CONTENT)
    return _operation(await _outcome(service, begun, data.wait_s))


@get("/operations", opt=READ)
async def operations(service: Here) -> tuple[OperationView, ...]:
    """The last hundred switches, the oldest first."""
    return await service.control.run(service.device.operations)


@get("/operations/{operation_id:str}", opt=READ)
async def operation(service: Here, operation_id: FromPath[str], wait_s: WaitS = 0.0) -> OperationView:
    """One switch, at once or when it is over."""
    return await _waited(service, operation_id, wait_s)


@post("/operations/{operation_id:str}/cancel", opt=SWITCH, status_code=HTTPStatus.OK)
async def cancel(service: Here, operation_id: FromPath[str]) -> OperationView:
    """Walk back to where the switch began."""
    return await service.control.run(service.device.cancel, operation_id)


@post("/operations/{operation_id:str}/pause", opt=SWITCH, status_code=HTTPStatus.OK)
async def pause(service: Here, operation_id: FromPath[str]) -> OperationView:
    """Stand still on the present state; inference goes on."""
    return await service.control.run(service.device.pause, operation_id)


@post("/operations/{operation_id:str}/resume", opt=SWITCH, status_code=HTTPStatus.OK)
async def resume(service: Here, operation_id: FromPath[str]) -> OperationView:
    """Walk on after a pause."""
    return await service.control.run(service.device.resume, operation_id)


@post("/operations/{operation_id:str}/retarget", opt=SWITCH, status_code=HTTPStatus.ACCEPTED)
async def retarget(
    service: Here, request: AnyRequest, operation_id: FromPath[str], data: JSONBody[RetargetRequest]
) -> OperationView:
    """Turn a walk to another mode; the answer is the operation that takes over."""
    who = principal_of(request).name
    return await service.control.run(service.device.retarget, operation_id, data.mode, who=who)


@get("/holds", opt=READ)
async def holds(service: Here) -> tuple[HoldView, ...]:
    """The holds in force."""
    return await service.control.run(service.device.holds)


@post("/holds", opt=SWITCH)
async def hold(
    service: Here, request: AnyRequest, data: JSONBody[HoldRequest], idempotency_key: Key = None
) -> HoldView:
    """Ask for a mode for as long as the hold lasts. Of several holds the one of lowest power decides.

    A hold goes before triggers and the default, even where those ask for less power: it is a wish, and no ceiling. A
    switch by hand ends all holds.
    """
    who = principal_of(request)

    async def act() -> HoldView:
        return await service.control.run(
            service.device.hold, data.mode, who=who.name, reason=data.reason, ttl_s=data.ttl_s
        )

    return await service.once_hold.run(who.id, idempotency_key, msgspec.json.encode(data), act)


@delete("/holds/{hold_id:str}", opt=SWITCH)
async def release(service: Here, hold_id: FromPath[str]) -> None:
    """End a hold."""
    await service.control.run(service.device.release, hold_id)


@get("/events", opt=READ, media_type=events.MEDIA_TYPE)
async def event_stream(
    service: Here,
    request: AnyRequest,
    last_event_id: Annotated[str | None, HeaderParameter(name="last-event-id", required=False)] = None,
) -> Stream:
    """What happens, as server-sent events; with ``Last-Event-ID`` from there on.

    The stream ends when the token is revoked that it began with.
    """
    who = principal_of(request)
    return Stream(
        service.streams.stream(who.id, last_event_id, lambda: service.door.knows(who)), media_type=events.MEDIA_TYPE
    )


async def _outcome(service: Service, begun: OperationView, wait_s: float) -> OperationView:
    """As ``_waited``, for a switch that a key may have brought back from long ago."""
    try:
        return await _waited(service, begun.id, wait_s)
    except UnknownOperation:
        # The device remembers a hundred switches, the key a day: what was answered then is answered again.
        return msgspec.structs.replace(begun, reason="as it was answered at first; how it ended is forgotten")


async def _waited(service: Service, operation_id: str, wait_s: float) -> OperationView:
    """An operation when it is over, or as it is after a while."""
    until = asyncio.get_running_loop().time() + wait_s
    while True:
        # The id first: an event that comes while the device is asked is not missed.
        last = service.feed.last
        found = await service.control.run(service.device.operation, operation_id)
        left = until - asyncio.get_running_loop().time()
        if found.outcome is not None or left <= 0 or not await service.feed.after(last, left):
            return found


def _operation(found: OperationView) -> Response[OperationView | None]:
    over = found.outcome is not None
    return Response(
        found,
        status_code=HTTPStatus.OK if over else HTTPStatus.ACCEPTED,
        headers={"Location": f"/v1/operations/{found.id}"},
    )


ROUTER: Final = Router(
    "/v1",
    route_handlers=[
        status, identity, modes, transitions, profile, switch, operations, operation, cancel, pause, resume, retarget,
        holds, hold, release, event_stream,
    ],
    tags=["device"],
)  # fmt: skip
