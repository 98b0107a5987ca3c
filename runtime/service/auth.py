"""The one door: every route says which scope it needs, and one that says nothing lets nobody in.

A token comes in the Authorization header, or was exchanged for a session's cookie. A cookie goes with requests that
other sites make a browser send, so whoever comes with one must show the session's number too when changing something.
A right token is let in whatever wrong ones came from its address: 256 bits are not guessed, and a neighbour's mistakes
must not lock the owner out. Failures beyond a few a minute get 429.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from runtime.service.problems import Refused
from runtime.service.rate import Buckets, neighbourhood
from runtime.service.sessions import CSRF_HEADER, Sessions, cookie_name, same
from runtime.service.tokens import Principal, Scope, Tokens

SCOPE: Final = "geoshift_scope"
"""Key of a route's options under which its scope stands; ``PUBLIC`` for none."""
PUBLIC: Final = "public"
UNMETERED: Final = "geoshift_unmetered"
"""Key of a route's options: its rate is bounded elsewhere."""
SAFE: Final = {"GET", "HEAD"}
LOCAL: Final = Principal("local", "local", Scope.ADMIN)
"""Whoever comes in when the door is open, which only loopback and a Unix socket may have."""
MAX_HEADER: Final = 512

Connection = ASGIConnection[Any, Any, Any, Any]


class Door:
    """Lets in who may come.

    Args:
        tokens: The device's tokens.
        sessions: Browsers' sessions.
        failures: How often an address may fail.
        requests: How often a principal may ask.
        required: Whether a token is needed.
    """

    def __init__(
        self, tokens: Tokens, sessions: Sessions, failures: Buckets, requests: Buckets, *, required: bool
    ) -> None:
        self._tokens = tokens
        self._sessions = sessions
        self._failures = failures
        self._requests = requests
        self._required = required
        self.refusals = 0
        """Requests without a valid token, for the metrics."""

    def guard(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Check a request before anything of its body is read.

        Raises:
            Refused: Nobody's token, too little scope, or too many requests.
        """
        needed = handler.opt.get(SCOPE)
        if needed == PUBLIC:
            # Open to strangers, and not without end.
            if wait := self._requests.take(("stranger", _address(connection))):
                raise later("requests: found too many from this address", wait)
            return
        principal = self._principal(connection)
        if not isinstance(needed, Scope) or principal.scope < needed:
            word = needed.word if isinstance(needed, Scope) else "no"
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"{connection.scope['path']}: found a token with scope {principal.scope.word}, expected {word}; "
                "use another token, or make one with `geoshift tokens add`",
                kind="scope",
            )
        connection.scope["state"]["principal"] = principal
        wait = 0.0 if handler.opt.get(UNMETERED) else self._requests.take(principal.id)
        if wait:
            raise later("requests: found too many from this token", wait)

    def knows(self, principal: Principal) -> bool:
        """Whether somebody who was let in would be let in again."""
        return not self._required or self._tokens.knows(principal)

    def failed(self, connection: Connection) -> None:
        """Count a failure of somebody's.

        Raises:
            Refused: There were too many.
        """
        self.refusals += 1
        if wait := self._failures.take(_address(connection)):
            raise later("found too many failures from this address", wait)

    def _principal(self, connection: Connection) -> Principal:
        if not self._required:
            return LOCAL
        header = connection.headers.get("authorization")
        if header is not None:
            scheme, _, token = header.partition(" ")
            if scheme.lower() == "bearer" and len(header) <= MAX_HEADER:
                found = self._tokens.verify(token.strip())
                if found is not None:
                    return found
            self.failed(connection)
            raise _unauthorized("found a token that this device does not know")
        cookie = connection.cookies.get(cookie_name(connection.headers.get("host", "")))
        if cookie is None:
            self.refusals += 1
            raise _unauthorized("found no token")
        session = self._sessions.find(cookie)
        if session is None:
            self.failed(connection)
            raise _unauthorized("found a session that is over")
        principal, csrf = session
        if connection.scope.get("method") not in SAFE and not same(connection.headers.get(CSRF_HEADER, ""), csrf):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"{CSRF_HEADER}: found another number than this session's; load the page again",
                kind="csrf",
            )
        return principal


def principal_of(connection: Connection) -> Principal:
    """Whom the guard let in."""
    principal: Principal = connection.scope["state"]["principal"]
    return principal


def _address(connection: Connection) -> str:
    """Where a request comes from, as far as one stranger can be told from another."""
    return "local" if connection.client is None else neighbourhood(connection.client.host)


def _unauthorized(found: str) -> Refused:
    return Refused(
        HTTPStatus.UNAUTHORIZED,
        f"authorization: {found}, expected a bearer token; run `geoshift pair` on the device and `geoshift login` here",
        {"WWW-Authenticate": 'Bearer realm="geoshift"'},
        "unauthorized",
    )


def later(what: str, wait_s: float) -> Refused:
    """What somebody is told who has to wait.

    Args:
        what: What was found.
        wait_s: For how long.
    """
    return Refused(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"{what}; try again in {max(1, math.ceil(wait_s))} s",
        {"Retry-After": str(max(1, math.ceil(wait_s)))},
        "rate",
    )
