"""The service's log: a JSON object a line on standard error, and the last lines in memory for ``geoshift logs``.

No secret is ever handed to it: requests are logged by route and not by target, principals by id, and the text of an
unforeseen error with its place but without the values of variables.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any, Final, TextIO

import msgspec

from runtime.service.messages import LogLine

KEPT: Final = 500
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class ServiceLog:
    """Where the service writes what happened.

    Args:
        level: Least level that is written.
        stream: Where lines go.
    """

    def __init__(self, level: str = "info", stream: TextIO | None = None) -> None:
        self._least = LEVELS[level]
        self._stream = stream if stream is not None else sys.stderr
        self._guard = threading.Lock()
        self._kept: deque[LogLine] = deque(maxlen=KEPT)
        self._begun = time.monotonic()

    def write(self, level: str, event: str, **fields: Any) -> None:
        """Write a line."""
        if LEVELS[level] < self._least:
            return
        line = LogLine(at_s=round(time.monotonic() - self._begun, 3), level=level, event=event, fields=fields)
        text = msgspec.json.encode({"at_s": line.at_s, "level": level, "event": event, **fields}).decode()
        with self._guard:
            self._kept.append(line)
            try:
                self._stream.write(text + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads any more. The device serves on; the last lines are still in memory.
                return

    def fault(self, event: str, error: BaseException, **fields: Any) -> None:
        """Write an error that was not foreseen, with the places it passed."""
        places = [f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_tb(error.__traceback__)]
        self.write("error", event, error=f"{type(error).__name__}: {error}"[:2000], places=places[-20:], **fields)

    def kept(self) -> tuple[LogLine, ...]:
        """The last lines."""
        with self._guard:
            return tuple(self._kept)


class Bridge(logging.Handler):
    """Takes what libraries log into the same log.

    Args:
        log: The log.
    """

    def __init__(self, log: ServiceLog) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a library's line."""
        level = (
            "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "info"
        )
        self._log.write(level, record.name, text=record.getMessage()[:2000])
