"""The service's log: a JSON object a line on standard error, and the last lines in memory for ``geoshift logs``.

No secret is ever handed to it: requests are logged by route and not by target, principals by id, and the text of an
unforeseen error with its place but without the values of variables. Whoever writes a line never waits for its reader.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import Counter, deque
from typing import Any, Final, TextIO

import msgspec

from runtime.service.messages import LogLine
from runtime.service.outlet import Outlet
from runtime.service.rate import Buckets

KEPT: Final = 500
PATIENCE_S: Final = 2.0
"""For the last lines to be read when the service ends."""
LIBRARY_LINES: Final = 20
"""Of one library in a row, and then so many a second:"""
LIBRARY_LINES_PER_S: Final = 0.2
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class ServiceLog:
    """Where the service writes what happened.

    Args:
        level: Least level that is written.
        stream: Where lines go; None for standard error.
    """

    def __init__(self, level: str = "info", stream: TextIO | None = None) -> None:
        self._least = LEVELS[level]
        self._outlet = Outlet(stream, self._dropped)
        self._guard = threading.Lock()
        self._kept: deque[LogLine] = deque(maxlen=KEPT)
        self._begun = time.monotonic()

    def write(self, level: str, event: str, **fields: Any) -> None:
        """Write a line."""
        if LEVELS[level] < self._least:
            return
        line = LogLine(at_s=self._now_s(), level=level, event=event, fields=fields)
        text = _text(line)
        with self._guard:
            self._kept.append(line)
            self._outlet.put(text)

    def fault(self, event: str, error: BaseException, **fields: Any) -> None:
        """Write an error that was not foreseen, with the places it passed."""
        places = [f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_tb(error.__traceback__)]
        self.write("error", event, error=f"{type(error).__name__}: {error}"[:2000], places=places[-20:], **fields)

    def kept(self) -> tuple[LogLine, ...]:
        """The last lines."""
        with self._guard:
            return tuple(self._kept)

    def drain(self, timeout_s: float = PATIENCE_S) -> bool:
        """Wait until the reader has all lines; whether it has."""
        return self._outlet.drain(timeout_s)

    def close(self) -> None:
        """Let the last lines out; what is written from now on stays in memory."""
        self._outlet.close(PATIENCE_S)

    def _dropped(self, count: int) -> str:
        fields = {"count": count, "detail": "the reader of this log was too far behind"}
        return _text(LogLine(at_s=self._now_s(), level="warning", event="lines dropped", fields=fields))

    def _now_s(self) -> float:
        return round(time.monotonic() - self._begun, 3)


def _text(line: LogLine) -> str:
    return msgspec.json.encode({"at_s": line.at_s, "level": line.level, "event": line.event, **line.fields}).decode()


class Bridge(logging.Handler):
    """Takes what libraries log into the same log; of one that repeats itself without end, a line now and then.

    Args:
        log: The log.
        rate: Lines of each library.
    """

    def __init__(self, log: ServiceLog, rate: Buckets | None = None) -> None:
        super().__init__(logging.INFO)
        self._log = log
        self._rate = Buckets(LIBRARY_LINES_PER_S, LIBRARY_LINES) if rate is None else rate
        self._left_out: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a library's line, and how many were left out before it."""
        if self._rate.take(record.name):
            self._left_out[record.name] += 1
            return
        left_out = self._left_out.pop(record.name, 0)
        level = (
            "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "info"
        )
        more = {"left_out": left_out} if left_out else {}
        self._log.write(level, record.name, text=record.getMessage()[:2000], **more)
