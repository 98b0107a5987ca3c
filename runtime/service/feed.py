"""Brings the device's events to the event loop: one thread waits for all who listen."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from runtime.device.event_log import EventLog
from runtime.device.views import Event

PERIOD_S: Final = 1.0
"""How often the thread looks whether it should end; events wake it at once."""


class Feed:
    """Events for any number of listeners on the event loop.

    Args:
        log: Where they come from.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting: set[asyncio.Future[None]] = set()
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen; called on the event loop."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._listen, args=(loop,), name="geoshift-events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send all listeners home; called on the event loop."""
        self._ends.set()
        self._wake()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ends.is_set()

    @property
    def last(self) -> int:
        """Id of the newest event."""
        return self._log.last_id

    async def after(self, id: int, timeout_s: float) -> list[Event]:
        """Events after an id, as soon as there are any; none after the time, or when the service ends."""
        until = asyncio.get_running_loop().time() + timeout_s
        while not (found := self._log.since(id)) and not self.ended and await self._change(until):
            pass
        return found

    async def _change(self, until: float) -> bool:
        """Wait for the next event; False when the time is over."""
        one = asyncio.get_running_loop().create_future()
        self._waiting.add(one)
        try:
            async with asyncio.timeout_at(until):
                await one
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(one)
        return True

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        last = self._log.last_id
        while not self._ends.is_set() and not self._log.closed:
            found = self._log.wait(last, PERIOD_S)
            if found:
                last = found[-1].id
                try:
                    loop.call_soon_threadsafe(self._wake)
                except RuntimeError:
                    # The event loop has ended, and with it all who listened.
                    return

    def _wake(self) -> None:
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
