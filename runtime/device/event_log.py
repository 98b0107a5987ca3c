"""What happened on a device, the last thousand events, for anybody who wants to follow or catch up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from runtime.device.views import Event, EventKind

KEPT: Final = 1000
"""A walk makes a few dozen events; a thousand let a client that was away for a while catch up."""


class EventLog:
    """Events with ids that rise by one, from 1; safe from any thread.

    Args:
        clock: Seconds since the device was opened.
        kept: How many events are kept.
        hidden: Takes out of the text of a fault what is nobody else's business.
    """

    def __init__(self, clock: Callable[[], float], kept: int = KEPT, hidden: Callable[[str], str] = str) -> None:
        self._clock = clock
        self._hidden = hidden
        self._events: deque[Event] = deque(maxlen=kept)
        self._last = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def last_id(self) -> int:
        """Id of the newest event; 0 before the first."""
        return self._last

    @property
    def closed(self) -> bool:
        """Whether no more events will come."""
        return self._closed

    def add(self, kind: EventKind, data: dict[str, Any]) -> Event:
        """Record an event; waiters wake."""
        if kind == "fault" and "detail" in data:
            data = {**data, "detail": self._hidden(data["detail"])}
        with self._changed:
            self._last += 1
            event = Event(id=self._last, kind=kind, at_s=self._clock(), data=data)
            self._events.append(event)
            self._changed.notify_all()
            return event

    def since(self, after: int) -> list[Event]:
        """Events with ids above ``after`` that are still kept, the oldest first.

        An ``after`` that lies in the future, as one from before a restart may, gives all that are kept.
        """
        with self._changed:
            return self._since(after)

    def wait(self, after: int, timeout_s: float) -> list[Event]:
        """As ``since``, but wait for an event if there is none; an empty list after ``timeout_s``, or when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._since(after)), timeout_s)
            return self._since(after)

    def close(self) -> None:
        """Wake all waiters: no more events will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _since(self, after: int) -> list[Event]:
        first = self._events[0].id if self._events else 1
        start = 0 if after > self._last else max(0, after + 1 - first)
        return [self._events[place] for place in range(start, len(self._events))]
