"""One connection of a client, and how long it may take over what.

Uvicorn bounds the time between two requests. A slow client can still send a head letter by letter, go on with a body
that nobody reads, or never take its answer. Each of these ends here, so that a few cannot use up all connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.service.config import Limits


def bounded(limits: Limits) -> type[H11Protocol]:
    """Protocol for a server under these limits."""

    class BoundedProtocol(H11Protocol):
        """HTTP/1.1 against the clock."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._reading: asyncio.TimerHandle | None = None
            self._writing: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self.transport.abort()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

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
