"""Memory that bodies may take, all of them together, and those of one token: set aside as they come in and unfold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from litestar.connection import Request

from runtime.errors import QueueFull

SHARE: Final = 2
"""One principal has at most one in so many of all bytes, unless it is one request that takes more."""


class Budget:
    """A number of bytes that requests set aside; used on the event loop alone.

    Args:
        limit: Bytes in all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._by: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """Bytes that are set aside now."""
        return self._taken

    @contextmanager
    def opened(self, who: str) -> Iterator[Share]:
        """A share for one request, given back when the context closes.

        Args:
            who: Id of the principal.
        """
        share = Share(self, who)
        try:
            yield share
        finally:
            self._taken -= share.taken
            self._by[who] -= share.taken
            if not self._by[who]:
                del self._by[who]

    def take(self, share: Share, amount: int) -> None:
        """Set more bytes aside. A request always fits where it is the only one.

        Args:
            share: Whose.
            amount: Bytes.

        Raises:
            QueueFull: Others, or others of the same principal, have too much.
        """
        for taken, limit in ((self._taken, self._limit), (self._by[share.who], self._limit // SHARE)):
            if taken > share.taken and taken + amount > limit:
                raise QueueFull(
                    f"infer: requests under way take {taken} bytes, expected room for {amount} more of {limit}; call "
                    "again later, or send smaller batches as binary tensors"
                )
        self._taken += amount
        self._by[share.who] += amount
        share.taken += amount


class Share:
    """What one request has set aside.

    Args:
        budget: Of all.
        who: Id of the principal.
    """

    def __init__(self, budget: Budget, who: str) -> None:
        self._budget = budget
        self.who = who
        self.taken = 0

    def grow_to(self, amount: int) -> None:
        """Set so many bytes aside in all.

        Raises:
            QueueFull: There is no room for them.
        """
        if amount > self.taken:
            self._budget.take(self, amount - self.taken)


async def arrived(request: Request[Any, Any, Any], share: Share) -> bytearray:
    """A body. Only what has come in takes memory: a head that announces much keeps nobody out.

    Args:
        request: Whose body.
        share: Its share of the memory.

    Raises:
        QueueFull: There is no room for it.
    """
    body = bytearray()
    async for piece in request.stream():
        share.grow_to(len(body) + len(piece))
        body += piece
    return body
