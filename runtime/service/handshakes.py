"""How many clients may be on their way into TLS at once. Uvicorn and its limits only see those that have arrived."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any


class Handshakes:
    """Connections that are accepted and not yet encrypted; used on the event loop alone.

    Where there are too many, the oldest makes way: whoever means it is through in milliseconds, and those who say
    nothing keep nobody out.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pending: dict[int, socket.socket] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def listening(self, bound: socket.socket) -> socket.socket:
        """The same socket, whose connections are counted from now on. The one that is given is used up."""
        return _Listener(self, bound)

    def begin(self, connection: socket.socket) -> None:
        """One was accepted."""
        if len(self._pending) >= self._most:
            oldest = next(iter(self._pending))
            # Shut and not closed: it is the event loop's to close, which it does once it reads the end.
            with suppress(OSError):
                self._pending.pop(oldest).shutdown(socket.SHUT_RDWR)
        self._pending[connection.fileno()] = connection

    def end(self, number: int) -> None:
        """One is through, or gone.

        Args:
            number: Its descriptor.
        """
        self._pending.pop(number, None)


class _Connection(socket.socket):
    """A socket that says when it is closed."""

    def __init__(self, handshakes: Handshakes, accepted: socket.socket) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._handshakes = handshakes
        handshakes.begin(self)

    def close(self) -> None:
        """Close it."""
        self._handshakes.end(self.fileno())
        super().close()


class _Listener(socket.socket):
    """A socket whose connections are counted while they shake hands."""

    def __init__(self, handshakes: Handshakes, bound: socket.socket) -> None:
        super().__init__(bound.family, bound.type, bound.proto, bound.detach())
        self._handshakes = handshakes

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        accepted, address = super().accept()
        return _Connection(self._handshakes, accepted), address
