"""One connection of a client, and how long it may take over what.

Uvicorn bounds the time between two requests. A slow client can still send a head letter by letter, go on with a body
that nobody reads, or never take its answer. Each of these ends here. Until then it has its connection, so one address
gets a part of them only: strangers at one address keep those at others from nothing. At a Unix socket there are no
addresses; its file's rights say who may come.

What is no HTTP is refused with a problem document, like anything else that is refused, unless an answer has begun. What
is no TLS where TLS is spoken gets TLS's own alert.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.service import problems
from runtime.service.config import Limits
from runtime.service.gate import completed
from runtime.service.rate import neighbourhood

SHARE: Final = 4
"""One address has at most one in so many of all connections."""

MALFORMED: Final = (
    "request: found no HTTP/1.1, or a head of over 16 KiB; expected method, target, headers, body as RFC 9112 has them"
)


def bounded(limits: Limits, arrived: Callable[[int], None]) -> type[H11Protocol]:
    """Protocol for a server under these limits.

    Args:
        limits: What a client may take.
        arrived: Told the descriptor of each connection that can be talked over, TLS being agreed on.
    """
    most_of_one = max(1, limits.connections // SHARE)
    by_address: Counter[str] = Counter()

    class BoundedProtocol(H11Protocol):
        """HTTP/1.1 against the clock."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._reading: asyncio.TimerHandle | None = None
            self._writing: asyncio.TimerHandle | None = None
            self._address: str | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            arrived(transport.get_extra_info("socket").fileno())
            if self.client is not None:
                self._address = neighbourhood(self.client[0])
                by_address[self._address] += 1
            of_one = 0 if self._address is None else by_address[self._address]
            if len(self.connections) > limits.connections or of_one > most_of_one:
                self.transport.abort()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def send_400_response(self, msg: str) -> None:
            """Refuse what h11 cannot read, in the form of all refusals; uvicorn would do so in plain text."""
            if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
                # In the middle of an answer, or behind the last one, nothing more can be said.
                self.transport.close()
                return
            # Uvicorn calls this while it handles h11's error, which knows of heads that are too large.
            error = sys.exc_info()[1]
            status = HTTPStatus(error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400)
            request_id = secrets.token_hex(8)
            answer = problems.generic(status, MALFORMED, request_id, inference=False)
            headers = [
                (b"content-type", problems.MEDIA_TYPE.encode()),
                (b"content-length", b"%d" % len(answer.body)),
                (b"connection", b"close"),
            ]
            for part in (
                h11.Response(status_code=status, headers=completed(headers, request_id), reason=status.phrase.encode()),
                h11.Data(data=answer.body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(part) or b"")
            self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect_reader()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._writing = _stopped(self._writing)

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            # Closing waits until the last answer is taken.
            self._expect_reader()

        def connection_lost(self, exc: Exception | None) -> None:
            self._reading, self._writing = _stopped(self._reading), _stopped(self._writing)
            if self._address is not None:
                by_address[self._address] -= 1
                if not by_address[self._address]:
                    del by_address[self._address]
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the clock while a head is awaited or a body goes on that nobody wants; stop it otherwise."""
            answered = self.cycle is not None and self.cycle.response_complete
            idle = self.conn.their_state is h11.IDLE
            if idle or (answered and self.conn.their_state is h11.SEND_BODY):
                if self._reading is None:
                    self._reading = self.loop.call_later(limits.header_s, self.transport.abort)
            else:
                self._reading = _stopped(self._reading)

        def _expect_reader(self) -> None:
            if self._writing is None:
                self._writing = self.loop.call_later(limits.send_s, self.transport.abort)

    return BoundedProtocol


def _stopped(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """No timer, the one there was being cancelled."""
    if timer is not None:
        timer.cancel()
    return None
