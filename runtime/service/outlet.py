"""Lets lines out to a reader that may be slow or stuck, without anybody who writes them waiting for it."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

LINES: Final = 1000
"""That wait for the reader; the next one is dropped. With lines as the service writes them, a few hundred kilobytes."""


class Outlet:
    """A bounded line of lines, and the thread that writes them.

    Python's own queue listener would do, but for its end: it waits for a stuck reader without limit.

    Args:
        stream: Where lines go; None for standard error.
        dropped: Makes the line that says how many were dropped.
    """

    def __init__(self, stream: TextIO | None, dropped: Callable[[int], str]) -> None:
        self._write = _to_standard_error if stream is None else _to(stream)
        self._dropped = dropped
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._missed = 0
        self._writing = self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Let a line out, or drop and count it where the reader is too far behind. Returns at once."""
        with self._changed:
            if self._closed:
                return
            if len(self._lines) >= LINES:
                self._missed += 1
                return
            self._tell_missed()
            self._lines.append(line)
            if self._thread is None:
                # A daemon: a reader that is stuck for good does not keep the process.
                self._thread = threading.Thread(target=self._run, name="geoshift-log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until all is written; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._lines or self._writing or self._missed), timeout_s)

    def close(self, timeout_s: float) -> None:
        """Write what is left, if the reader takes it in time, and let the thread go."""
        self.drain(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._missed or self._closed)
                if self._closed:
                    return
                if not self._lines:
                    self._tell_missed()
                line = self._lines.popleft()
                self._writing = True
            try:
                self._write(line)
            except (OSError, ValueError):
                # Nobody reads any more. The device serves on; the last lines are in memory.
                continue

    def _tell_missed(self) -> None:
        """Say how many lines are missing, in the place where they are missing."""
        if self._missed:
            self._lines.append(self._dropped(self._missed))
            self._missed = 0


def _to(stream: TextIO) -> Callable[[str], None]:
    def write(line: str) -> None:
        stream.write(line + "\n")
        stream.flush()

    return write


def _to_standard_error(line: str) -> None:
    """Write past Python's buffer: a thread that is stuck within it would hold its lock, and Python could not end."""
    data = memoryview(f"{line}\n".encode())
    handle = sys.stderr.fileno()
    while data:
        data = data[os.write(handle, data) :]
