"""Threads that do what would hold up the event loop; how many is bounded before any of it is queued."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from runtime.errors import QueueFull

P = ParamSpec("P")
R = TypeVar("R")


class Workers:
    """Threads of their own for a kind of work, and a bounded number of pieces of it.

    A caller that waits in the network's line waits on such a thread, so there are as many as the line is long, and no
    second line forms in front of it.

    Args:
        name: Of the work.
        limit: Pieces under way or waiting at once.
        threads: That work; without it, as many as ``limit``.
    """

    def __init__(self, name: str, limit: int, threads: int | None = None) -> None:
        self._name = name
        self._limit = limit
        self._busy = 0
        self._threads = ThreadPoolExecutor(threads or limit, thread_name_prefix=f"geoshift-{name}")

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do a piece of work on a thread; called from the event loop alone.

        Raises:
            QueueFull: As many are under way as may be.
        """
        if self._busy >= self._limit:
            raise QueueFull(f"{self._name}: {self._busy} calls are under way, expected fewer; call again later")
        self._busy += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
        # Once the thread is free, and not before: who gives up waiting does not free it.
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    @property
    def busy(self) -> int:
        """Pieces under way."""
        return self._busy

    def close(self) -> None:
        """Let the threads end; what is under way is finished."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _done(self, future: asyncio.Future[R]) -> None:
        self._busy -= 1
        if not future.cancelled():
            # Looked at here, since whoever asked may be gone.
            future.exception()
