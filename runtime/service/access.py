"""The part of the interface that is about access: pairing, tokens, browsers' sessions, the log."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from litestar import Response, Router, delete, get, post
from litestar.connection import Request
from litestar.datastructures import Cookie
from litestar.params import FromPath, JSONBody

from runtime.service.auth import PUBLIC, SCOPE, later, principal_of
from runtime.service.messages import (
    LogLine,
    NewToken,
    PairAnswer,
    PairingView,
    PairRequest,
    SessionView,
    TokenRequest,
    TokenView,
)
from runtime.service.pairing import PairingRefused, PairingTooSoon
from runtime.service.problems import Refused
from runtime.service.service import Here
from runtime.service.sessions import cookie_name
from runtime.service.tokens import Scope, TokenEntry

ADMIN: Final[dict[str, Any]] = {SCOPE: Scope.ADMIN}
OPEN: Final[dict[str, Any]] = {SCOPE: PUBLIC}

AnyRequest = Request[Any, Any, Any]


@get("/pairing", opt=OPEN)
async def pairing(service: Here) -> PairingView:
    """Whether a code waits."""
    waits = await service.control.run(service.pairing.waits)
    return PairingView(open=waits, certificate_sha256=service.certificate.sha256)


@post("/pairing", opt=OPEN)
async def pair(service: Here, request: AnyRequest, data: JSONBody[PairRequest]) -> PairAnswer:
    """Exchange the proof of a one-time code for a token."""
    try:
        token, proof = await service.control.run(
            service.pairing.admit, bytes.fromhex(data.nonce), bytes.fromhex(data.proof), data.name, service.tokens,
            "local" if request.client is None else request.client.host,
        )  # fmt: skip
    except PairingTooSoon as error:
        service.door.refusals += 1
        raise later(str(error), error.wait_s) from error
    except PairingRefused as error:
        service.log.write("warning", "pairing refused", reason=str(error))
        service.door.failed(request)
        raise
    service.log.write("info", "paired", name=data.name)
    return PairAnswer(token=token, proof=proof.hex(), device=service.device.id)


@get("/tokens", opt=ADMIN)
async def tokens(service: Here) -> tuple[TokenView, ...]:
    """The tokens, without their secrets."""
    return tuple(_shown(entry) for entry in await service.control.run(service.tokens.listed))


@post("/tokens", opt=ADMIN)
async def add_token(service: Here, request: AnyRequest, data: JSONBody[TokenRequest]) -> NewToken:
    """Make a token; it is shown this once."""
    token = await service.control.run(service.tokens.add, data.name, Scope.named(data.scope))
    service.log.write("info", "token added", name=data.name, scope=data.scope, by=principal_of(request).id)
    return NewToken(token=token)


@delete("/tokens/{token_id:str}", opt=ADMIN)
async def revoke_token(service: Here, request: AnyRequest, token_id: FromPath[str]) -> None:
    """Make a token worthless."""
    await service.control.run(service.tokens.revoke, token_id)
    service.log.write("info", "token revoked", token=token_id, by=principal_of(request).id)


@post("/tokens/{token_id:str}/rotate", opt={SCOPE: Scope.READ}, status_code=HTTPStatus.OK)
async def rotate_token(service: Here, request: AnyRequest, token_id: FromPath[str]) -> NewToken:
    """Give a token a new secret: one's own, or with scope admin anybody's."""
    principal = principal_of(request)
    if principal.id != token_id and principal.scope < Scope.ADMIN:
        raise Refused(
            HTTPStatus.FORBIDDEN, "rotate: found another's token, expected your own, or scope admin", kind="scope"
        )
    token = await service.control.run(service.tokens.rotate, token_id)
    service.log.write("info", "token rotated", token=token_id, by=principal.id)
    return NewToken(token=token)


@post("/session", opt={SCOPE: Scope.READ})
async def begin_session(service: Here, request: AnyRequest) -> Response[SessionView]:
    """Exchange a token for a cookie that scripts cannot read."""
    principal = principal_of(request)
    cookie, csrf = service.sessions.begin(principal)
    return Response(
        SessionView(csrf=csrf, scope=principal.scope.word),
        status_code=HTTPStatus.CREATED,
        cookies=[_cookie(cookie, request)],
    )


@get("/session", opt={SCOPE: Scope.READ})
async def session(service: Here, request: AnyRequest) -> SessionView:
    """The session under way; its number is empty where a token does without one."""
    found = service.sessions.find(request.cookies.get(_cookie_name(request), ""))
    return SessionView(csrf="" if found is None else found[1], scope=principal_of(request).scope.word)


@delete("/session", opt={SCOPE: Scope.READ}, status_code=HTTPStatus.NO_CONTENT)
async def end_session(service: Here, request: AnyRequest) -> Response[None]:
    """End the session."""
    service.sessions.end(request.cookies.get(_cookie_name(request), ""))
    return Response(None, status_code=HTTPStatus.NO_CONTENT, cookies=[_cookie("", request, max_age=0)])


@get("/logs", opt=ADMIN)
async def logs(service: Here) -> tuple[LogLine, ...]:
    """The last lines of the service's log."""
    return service.log.kept()


def _cookie(value: str, request: AnyRequest, max_age: int | None = None) -> Cookie:
    return Cookie(
        key=_cookie_name(request),
        value=value,
        path="/",
        max_age=max_age,
        httponly=True,
        secure=request.scope["scheme"] == "https",
        samesite="strict",
    )


def _cookie_name(request: AnyRequest) -> str:
    return cookie_name(request.headers.get("host", ""))


def _shown(entry: TokenEntry) -> TokenView:
    return TokenView(id=entry.id, name=entry.name, scope=Scope(entry.scope).word)


ROUTER: Final = Router(
    "/v1",
    route_handlers=[
        pairing, pair, tokens, add_token, revoke_token, rotate_token, begin_session, session, end_session, logs,
    ],
    tags=["access"],
)  # fmt: skip
