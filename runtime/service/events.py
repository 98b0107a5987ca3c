"""Events as a stream of server-sent events, which a client takes up again where it lost it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Final

import msgspec

from runtime.device.views import Event
from runtime.service.feed import Feed
from runtime.service.problems import Refused

QUIET_S: Final = 15.0
"""Until a comment says that the connection is alive; middleboxes forget one after 30 s or more."""
RETRY_MS: Final = 2000
MEDIA_TYPE: Final = "text/event-stream"
SHARE: Final = 4
"""One principal has at most one in so many of all streams. More of its own are refused and end none: a browser that
loses a stream opens it anew, and its tabs would take turns for ever."""


class Streams:
    """Streams that are open at once, a bounded number.

    Args:
        feed: Where events come from.
        limit: Streams at once.
    """

    def __init__(self, feed: Feed, limit: int) -> None:
        self._feed = feed
        self._limit = limit
        self._by: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """Streams that are open now."""
        return self._by.total()

    def stream(self, who: str, last: str | None, known: Callable[[], bool]) -> AsyncIterator[bytes]:
        """A stream from after an event on.

        Args:
            who: Id of the principal.
            last: ``Last-Event-ID`` as the client sent it; None for only what is new.
            known: Whether the listener may still come in; asked before each piece, and the stream ends if not.

        Raises:
            Refused: Too many streams, or no number.
        """
        if last is not None and not re.fullmatch(r"[0-9]{1,15}", last):
            raise Refused(HTTPStatus.BAD_REQUEST, "last-event-id: found no number, expected the id of an event")
        of_one = max(1, self._limit // SHARE)
        for found, limit, whose in ((self._by[who], of_one, "this token's"), (self.open, self._limit, "all tokens'")):
            if found >= limit:
                raise Refused(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"events: found {found} streams open, {whose}, expected fewer; close one, or try again later",
                    {"Retry-After": "5"},
                )
        return self._run(who, self._feed.last if last is None else int(last), known)

    async def _run(self, who: str, position: int, known: Callable[[], bool]) -> AsyncIterator[bytes]:
        self._by[who] += 1
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            if position > self._feed.last:
                # The device began anew, and its ids with it.
                position = 0
            while not self._feed.ended:
                found = await self._feed.after(position, QUIET_S)
                if not known():
                    # Revoked, or rotated: as any request with it, this one gets no more.
                    return
                if not found:
                    yield b": still here\n\n"
                    continue
                if found[0].id > position + 1:
                    yield _gap(position + 1, found[0].id - 1)
                yield b"".join(_lines(event) for event in found)
                position = found[-1].id
        finally:
            self._by[who] -= 1
            if not self._by[who]:
                del self._by[who]


def _lines(event: Event) -> bytes:
    # JSON has no line break outside of strings, where it is escaped, so one data line is enough.
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.kind.encode(), msgspec.json.encode(event))


def _gap(first: int, last: int) -> bytes:
    """What a client missed for good: the log had no room for so many."""
    return b"event: gap\ndata: " + msgspec.json.encode({"first": first, "last": last}) + b"\n\n"
