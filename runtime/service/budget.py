"""Memory that bodies may take, all of them together: what each could grow to is set aside before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import QueueFull


class Budget:
    """A number of bytes that requests set aside; used on the event loop alone.

    Args:
        limit: Bytes in all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    @contextmanager
    def reserved(self, amount: int) -> Iterator[None]:
        """Set bytes aside while the context is open. A request always fits where it is the only one.

        Raises:
            QueueFull: Others have too much of it.
        """
        if self._taken and self._taken + amount > self._limit:
            raise QueueFull(
                f"infer: requests under way may take {self._taken} bytes, expected room for {amount} more of "
                f"{self._limit}; call again later, or send smaller batches as binary tensors"
            )
        self._taken += amount
        try:
            yield
        finally:
            self._taken -= amount
