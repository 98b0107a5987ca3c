"""Whether the device answers, asked on a thread that nothing else waits for.

Whoever looks after the device must hear from it however much others ask. So there is one question at a time, and all
who want to know share its answer: strangers cannot make a line of them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtime.device.device import Device


@dataclass(frozen=True)
class Condition:
    """How a device is.

    Attributes:
        well: Whether it answers, or will by itself.
        ready: Whether it answers now: not while one plan takes another's place without room for two.
    """

    well: bool
    ready: bool


class Readiness:
    """Asks a device whether it answers inference; used on the event loop alone.

    Args:
        device: The device.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="geoshift-ready")
        self._question: asyncio.Future[Condition] | None = None

    async def ask(self) -> Condition:
        """How it is. Waits for as long as the device takes: one that is stuck is not ready."""
        if self._question is None or self._question.done():
            self._question = asyncio.get_running_loop().run_in_executor(self._thread, self._answers)
        # Who gives up waiting does not take the answer from the others.
        return await asyncio.shield(self._question)

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _answers(self) -> Condition:
        well = self._device.status().phase != "failed"
        return Condition(well=well, ready=well and self._device.answers)
