"""What tests of threads share: waiting for a condition, counting what is left, and Ctrl-C at a chosen place."""

import inspect
import os
import sys
import threading
import time
from contextlib import contextmanager

LINES = range(8)
"""More lines than any of the functions runs before its context is open."""


PATIENCE_S = 120
"""For what must come; a busy machine takes its time, and what never comes must still end the test."""


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        threading.Event().wait(0.001)


@contextmanager
def nothing_left():
    """Everything that begins inside ends, threads and descriptors; the last of them may take a moment."""
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    yield
    until(lambda: set(threading.enumerate()) <= threads and set(os.listdir("/proc/self/fd")) <= descriptors)


def in_line(turnstile):
    return len(turnstile._line)


@contextmanager
def ctrl_c_at(line, *functions):
    """Ctrl-C before the ``line``-th line that these functions run, as the main thread may get it.

    A line that is visited a second time is the end of a ``with``, which Python does not interrupt before it has left.
    """
    codes = {inspect.unwrap(function).__code__ for function in functions}
    seen = []

    def each(frame, event, _):
        place = frame.f_code, frame.f_lineno
        if event == "line" and place not in seen:
            seen.append(place)
            if len(seen) == line + 1:
                raise KeyboardInterrupt
        return each

    outside = sys.gettrace()
    sys.settrace(lambda frame, *_: each if frame.f_code in codes else None)
    try:
        yield
    finally:
        sys.settrace(outside)
