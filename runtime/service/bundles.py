"""Plans that are pushed to the device: the manifest first, then file by file, then the word to switch over."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final

from litestar import Response, Router, delete, get, post, put
from litestar.connection import Request
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter

from runtime.device.views import PushView
from runtime.errors import PushRefused
from runtime.plan.bundle_files import MAX_BUNDLE_BYTES
from runtime.plan.manifest import MAX_MANIFEST_BYTES
from runtime.plan.signing import SIGNATURE_BYTES
from runtime.service.auth import SCOPE, UNMETERED, principal_of
from runtime.service.budget import arrived
from runtime.service.messages import BundleView, CommitRequest
from runtime.service.service import Here, Service
from runtime.service.tokens import Scope

SIGNATURE_HEADER: Final = "geoshift-signature"
PATIENCE_S: Final = 60.0
"""Between two looks at whether the service ends."""
PART_BYTES: Final = 4 << 20
"""Of a file in one request: in memory as a whole, and through a slow network within the time that a body may take."""

ADMIN: Final[dict[str, Any]] = {SCOPE: Scope.ADMIN}
PART: Final[dict[str, Any]] = {SCOPE: Scope.ADMIN, UNMETERED: True}
"""A plan has hundreds of parts; one push at a time bounds them."""

AnyRequest = Request[Any, Any, Any]
Signature = Annotated[
    str | None,
    HeaderParameter(name=SIGNATURE_HEADER, description="plan.sig in hexadecimal, if there is one", required=False),
]
WaitS = Annotated[float, QueryParameter(ge=0, le=60, description="seconds to wait for the end")]
Offset = Annotated[int, QueryParameter(ge=0, le=MAX_BUNDLE_BYTES, description="place of the part in the file, bytes")]


@dataclass
class _BytesOperation(Operation):
    """An operation whose body is bytes: the handler reads them as they come in, so no type tells of them."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            {
                "application/octet-stream": OpenAPIMediaType(
                    schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
                )
            },
            required=True,
        )


@get("/", opt=ADMIN)
async def bundle(service: Here) -> BundleView:
    """The bundle at work, and the push under way or the last one."""

    def look() -> BundleView:
        found = service.device.bundle
        return BundleView(
            id=found.id,
            release=found.manifest.release,
            model=found.manifest.model.id,
            modes=tuple(mode.name for mode in found.manifest.modes),
            signed_by=found.signed_by,
            why=service.device.why,
            push=service.device.pushes.last(),
        )

    return await service.control.run(look)


@post(
    "/",
    opt=ADMIN,
    request_max_body_size=MAX_MANIFEST_BYTES,
    operation_class=_BytesOperation,
    responses={HTTPStatus.OK: ResponseSpec(PushView, description="It is at work already.", generate_examples=False)},
)
async def begin(service: Here, request: AnyRequest, geoshift_signature: Signature = None) -> Response[PushView]:
    """Begin a push, or go on with one that broke off; the body is plan.json as it is.

    All that can be told from it is told now: whether it is signed, no older, for these callers, and has room. The
    answer says which files are missing, and whether the device will have to stop answering for a while.
    """
    with service.bodies.opened(principal_of(request).id) as share:
        body = await arrived(request, share)
        view = await service.control.run(
            service.device.pushes.begin, bytes(body), _signature(geoshift_signature), who=principal_of(request).name
        )
    service.log.write("info", "push begun", bundle=view.id, release=view.release, by=principal_of(request).id)
    return _answer(view, HTTPStatus.OK if view.outcome else HTTPStatus.CREATED)


@put(
    "/{bundle_id:str}/files/{name:path}",
    opt=PART,
    request_max_body_size=PART_BYTES,
    operation_class=_BytesOperation,
    status_code=HTTPStatus.OK,
)
async def part(
    service: Here, request: AnyRequest, bundle_id: FromPath[str], name: FromPath[str], offset: Offset = 0
) -> PushView:
    """A part of a file that the manifest lists, in order; one that is there already counts as sent."""
    with service.bodies.opened(principal_of(request).id) as share:
        body = await arrived(request, share)
        return await service.control.run(
            service.device.pushes.take, bundle_id, name.removeprefix("/"), offset, bytes(body)
        )


@post(
    "/{bundle_id:str}/commit",
    opt=ADMIN,
    status_code=HTTPStatus.ACCEPTED,
    responses={HTTPStatus.OK: ResponseSpec(PushView, description="The push is over.", generate_examples=False)},
)
async def commit(
    service: Here, request: AnyRequest, bundle_id: FromPath[str], data: JSONBody[CommitRequest]
) -> Response[PushView]:
    """All came in: load the plan, ask its canary, and let it take the place of the one at work.

    202 while it is under way, 200 once it is over; the outcome says how. Where memory has no room for both plans it is
    refused (409, ``gap-needed``) unless ``allow_gap`` is true.
    """
    service.log.write("info", "push committed to", bundle=bundle_id, by=principal_of(request).id)
    last = service.feed.last
    await service.control.run(service.device.pushes.commit, bundle_id, allow_gap=data.allow_gap)
    # Whoever looks after the device reads its log, and not the client's answer.
    follows = asyncio.create_task(_logged(service, bundle_id, last))
    service.following.add(follows)
    follows.add_done_callback(service.following.discard)
    view = await _waited(service, bundle_id, data.wait_s)
    return _answer(view, HTTPStatus.OK if view.outcome else HTTPStatus.ACCEPTED)


@get("/{bundle_id:str}", opt=ADMIN)
async def push(service: Here, bundle_id: FromPath[str], wait_s: WaitS = 0.0) -> PushView:
    """The push of a bundle, at once or when it is over."""
    return await _waited(service, bundle_id, wait_s)


@delete("/{bundle_id:str}", opt=ADMIN, status_code=HTTPStatus.OK)
async def abandon(service: Here, bundle_id: FromPath[str]) -> PushView:
    """Give an upload up; what came in is removed."""
    return await service.control.run(service.device.pushes.abandon, bundle_id)


def _signature(text: str | None) -> bytes | None:
    """The signature that a header carries.

    Raises:
        PushRefused: It is none.
    """
    if text is None:
        return None
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != SIGNATURE_BYTES:
        raise PushRefused(
            f"{SIGNATURE_HEADER}: found no {SIGNATURE_BYTES} bytes in hexadecimal; send plan.sig as it is"
        )
    return raw


async def _logged(service: Service, bundle_id: str, last: int) -> None:
    """Log how a push ends."""
    while not service.feed.ended:
        for event in await service.feed.after(last, PATIENCE_S):
            last, data = event.id, event.data
            if event.kind == "push" and data["id"] == bundle_id and data["outcome"] is not None:
                service.log.write(
                    "info" if data["outcome"] == "committed" else "error", "push ended", bundle=bundle_id,
                    outcome=data["outcome"], reason=data["reason"], mode=data["mode"], gap_s=data["gap_was_s"],
                    seconds=round(data["seconds"], 2),
                )  # fmt: skip
                return


async def _waited(service: Service, bundle_id: str, wait_s: float) -> PushView:
    """A push when it is over, or as it is after a while."""
    until = asyncio.get_running_loop().time() + wait_s
    while True:
        # The id first: an event that comes while the device is asked is not missed.
        last = service.feed.last
        found = await service.control.run(service.device.pushes.view, bundle_id)
        left = until - asyncio.get_running_loop().time()
        if found.outcome is not None or left <= 0 or not await service.feed.after(last, left):
            return found


def _answer(view: PushView, status: HTTPStatus) -> Response[PushView]:
    return Response(view, status_code=status, headers={"Location": f"/v1/bundles/{view.id}"})


ROUTER: Final = Router("/v1/bundles", route_handlers=[bundle, begin, part, commit, push, abandon], tags=["bundles"])
