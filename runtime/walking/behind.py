"""Work that callers should not feel: it gets the time that they leave.

On a board of one core, a canary of 30 samples would otherwise halve what every caller gets for as long as it runs.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Final, TypeVar

T = TypeVar("T")

STEPS: Final = 19
"""Of niceness, the most there is. Against one busy thread, Linux gives a seventieth of a core. Ten steps would give a
tenth, which is more than it seems: where callers take half of the time there is, one in a hundred then waits a quarter
longer. The price is that on a core that is never left alone the work takes seventy times as long."""
PATIENCE_S: Final = 5.0
"""After which it is done at the usual priority: a switch must come to its end on a board that is overloaded, too."""
SLOWER: Final = 1 + 15 / 1024
"""Time that others take beside such a thread, on one core, against what they take without: Linux's weights of the
lowest and of the usual priority."""


class _GivenUp(Exception):
    """Somebody else does the work now."""


class _Own(threading.local):
    """What a thread of lower priority knows of itself."""

    given_up: threading.Event | None = None


_own = _Own()


def may_end() -> None:
    """To be called again and again by work that takes long: the place at which it ends if it has been given up."""
    if _own.given_up is not None and _own.given_up.is_set():
        raise _GivenUp


def behind(work: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Do some work on a thread of lower priority, and wait for it; if it takes too long, do it here after all.

    It should hold the interpreter's lock for moments only, as inference does: a thread that waits for a core while it
    holds that lock would hold up everybody. Only Linux has threads of different niceness; elsewhere, and where the
    system allows no change or has no thread to spare, the work is done all the same.

    Args:
        work: To be done, perhaps from the start once more; see ``may_end``.
        patience_s: Seconds until it is done by the thread that waits.

    Returns:
        What ``work`` returns; what it raises is raised here.
    """
    done: Future[T] = Future()
    given_up = threading.Event()

    def run() -> None:
        _own.given_up = given_up
        try:
            _give_way()
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # whoever waits must hear of it, whatever it is
            done.set_exception(error)

    # A thread of its own: who has stepped back may not step forward again.
    thread = threading.Thread(target=run, name="geoshift-behind", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return work()
    if wait([done], patience_s).done:
        return done.result()
    given_up.set()
    try:
        return work()
    finally:
        thread.join()  # or it would read what is written next, or be in the middle of something as the process ends


def _give_way() -> None:
    """Lower the priority of the calling thread, the only one that 0 stands for on Linux."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + STEPS)
