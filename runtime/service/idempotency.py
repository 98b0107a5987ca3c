"""Requests that may come twice, because an answer got lost: the same key gives the same result, and acts once."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, Generic, TypeVar

from runtime.device.clock import since_boot_s
from runtime.service.problems import Refused

HEADER: Final = "idempotency-key"
LIMIT: Final = 1024
LIFETIME_S: Final = 86400.0
"""After a day nobody repeats a request whose answer got lost."""

R = TypeVar("R")


class Once(Generic[R]):
    """Results by key, a bounded number of them.

    Args:
        clock: Seconds on a clock that never jumps.
    """

    def __init__(self, clock: Callable[[], float] = since_boot_s) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[bytes, float, R]] = OrderedDict()
        self._turn = asyncio.Lock()

    async def run(self, who: str, key: str | None, body: bytes, act: Callable[[], Awaitable[R]]) -> R:
        """Act, unless the same was asked for before under the same key.

        Args:
            who: Id of the principal; keys of different ones have nothing to do with each other.
            key: The client's key; None to act in any case.
            body: What is asked for, to tell a repetition from a mistake.
            act: What to do; its failure is not remembered.

        Raises:
            Refused: The key is malformed, or was used for something else.
        """
        if key is None:
            return await act()
        if not re.fullmatch(r"[\x21-\x7e]{1,128}", key):
            raise Refused(HTTPStatus.BAD_REQUEST, f"{HEADER}: found no 1 to 128 printable characters; send a UUID")
        digest = hashlib.sha256(body).digest()
        async with self._turn:
            now = self._clock()
            found = self._known.get((who, key))
            if found is not None and now - found[1] < LIFETIME_S:
                if found[0] != digest:
                    raise Refused(
                        HTTPStatus.UNPROCESSABLE_ENTITY,
                        f"{HEADER}: found a key that was used for another request, expected a fresh one",
                        kind="idempotency-key-reused",
                    )
                return found[2]
            result = await act()
            self._known[who, key] = (digest, now, result)
            while len(self._known) > LIMIT:
                self._known.popitem(last=False)
            return result
