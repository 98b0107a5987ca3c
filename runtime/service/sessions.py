"""Browsers' sessions: a cookie that scripts cannot read, and beside it a number that other sites cannot know.

They are bounded for each token and in all. Who begins too many ends its own: one reader's sessions end nobody else's.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from runtime.device.clock import since_boot_s
from runtime.service.problems import Refused
from runtime.service.tokens import Principal

COOKIE: Final = "geoshift_session"
"""Begin of the cookie's name."""
CSRF_HEADER: Final = "x-csrf-token"
LIMIT: Final = 256
"""Sessions in all, some 100 KB."""
LIMIT_OF_ONE: Final = 8
"""Sessions of one token: a few browsers' worth."""
IDLE_S: Final = 12 * 3600.0
"""A working day."""


@dataclass
class _Session:
    principal: Principal
    csrf: str
    used_s: float


class Sessions:
    """Sessions in memory: a restart ends them all.

    Args:
        valid: Whether the token that a session began with still opens the door.
        clock: Seconds on a clock that never jumps.
    """

    def __init__(self, valid: Callable[[Principal], bool], clock: Callable[[], float] = since_boot_s) -> None:
        self._valid = valid
        self._clock = clock
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self, principal: Principal) -> tuple[str, str]:
        """Begin a session; of the same token's, the one unused for longest ends if there are too many.

        Returns:
            Value of the cookie, and the number that goes with requests that change something.

        Raises:
            Refused: There are too many of others.
        """
        own = [key for key, session in self._sessions.items() if session.principal.id == principal.id]
        for key in own[: max(0, len(own) - LIMIT_OF_ONE + 1)]:
            del self._sessions[key]
        if len(self._sessions) >= LIMIT:
            now = self._clock()
            for key in [key for key, session in self._sessions.items() if self._over(session, now)]:
                del self._sessions[key]
        if len(self._sessions) >= LIMIT:
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"session: found {LIMIT} sessions of other tokens, expected fewer; log out where you can, revoke "
                "tokens that nobody needs, or send the token itself",
                {"Retry-After": "60"},
                "sessions",
            )
        cookie, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = _Session(principal, csrf, self._clock())
        return cookie, csrf

    def find(self, cookie: str) -> tuple[Principal, str] | None:
        """Whose session a cookie belongs to, and its number; None if it is over."""
        key = _digest(cookie)
        session = self._sessions.get(key)
        if session is None:
            return None
        now = self._clock()
        if self._over(session, now):
            del self._sessions[key]
            return None
        session.used_s = now
        self._sessions.move_to_end(key)
        return session.principal, session.csrf

    def end(self, cookie: str) -> None:
        """End a session; none there is fine."""
        self._sessions.pop(_digest(cookie), None)

    def _over(self, session: _Session, now: float) -> bool:
        return now - session.used_s >= IDLE_S or not self._valid(session.principal)


def cookie_name(host: str) -> str:
    """Name of the cookie for a Host header: with the port, as a browser sends a cookie to all ports of an address."""
    port = host.rpartition(":")[2]
    return f"{COOKIE}_{port}" if port.isascii() and port.isdecimal() and len(port) <= 5 else COOKIE


def same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape"))


def _digest(cookie: str) -> bytes:
    """What a session is found by: looking up the cookie itself would compare it byte by byte."""
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).digest()
