"""Remembers over a restart what was asked for by hand, so that a power cut does not give control back.

Only a request without a lease is kept: a lease is counted on a clock that a restart stops, and ends with it. Holds are
their programs' business, which ask again.

A card may take seconds over a write, and nobody may wait for it who asked for nothing: neither who holds the device's
lock nor a walk that safety begins. So a thread of its own writes, and whoever asked waits for it before being answered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from runtime import private_files
from runtime.deciding.arbiter import Wish

NAME: Final = "asked.json"
_MOST_BYTES: Final = 4096


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of the file."""

    mode: Annotated[str, Meta(max_length=64)]
    who: Annotated[str, Meta(max_length=256)]


class Remembered:
    """What was asked for by hand, in a file of the state directory.

    Args:
        folder: The state directory, or None to remember nothing.
        modes: Modes of the plan; one that is not among them is forgotten.
        trouble: Is told why something cannot be remembered or read: the device goes on without.
    """

    def __init__(self, folder: Path | None, modes: tuple[str, ...], trouble: Callable[[str], None]) -> None:
        self._path = None if folder is None else folder / NAME
        self._trouble = trouble
        self._kept: _Kept | None = None
        self._changed = threading.Condition()
        self._noted = self._done = 0
        """Number of the last change that was noted, and of the last that was written."""
        self._closed = self._ended = False
        self._thread: threading.Thread | None = None
        self.wish = self._read(modes)
        """What was asked for before the restart."""
        self._wanted: _Kept | None = self._kept

    def start(self) -> None:
        """Begin to write what is noted."""
        if self._path is not None:
            self._thread = threading.Thread(target=self._run, args=(self._path,), name="geoshift-memory", daemon=True)
            self._thread.start()

    def keep(self, wish: Wish | None) -> None:
        """Note what is to be remembered from now on; takes no time. ``settle`` waits until it is safe."""
        if self._path is None:
            return
        with self._changed:
            # What the file may hold: a longer name is a stranger's, and not worth a place.
            self._wanted = None if wish is None or wish.until_s is not None else _Kept(wish.mode, wish.source[:256])
            self._noted += 1
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until what was noted before the call, or something newer, is on the disk, or the trouble was told.

        Once nobody writes any more, as when the device is closed beneath a request, there is nothing to wait for.
        """
        with self._changed:
            number = self._noted
            self._changed.wait_for(lambda: self._done >= number or self._ended)

    def close(self) -> None:
        """Write what was noted last, and end. Nothing may be noted any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self, path: Path) -> None:
        """Write what is noted, the last of it, until closed."""
        try:
            while (change := self._next()) is not None:
                number, wanted = change
                self._write(path, wanted)
                with self._changed:
                    self._done = number
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _next(self) -> tuple[int, _Kept | None] | None:
        """Wait for the next change, and give its number and what is to be kept; None once closed and all is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._noted > self._done or self._closed)
            return None if self._noted == self._done else (self._noted, self._wanted)

    def _write(self, path: Path, wanted: _Kept | None) -> None:
        """Write, unless the disk has it: flash wears."""
        if wanted == self._kept:
            return
        try:
            if wanted is None:
                private_files.remove(path)
            else:
                private_files.write(path, msgspec.json.encode(wanted))
            self._kept = wanted
        except OSError as error:
            self._trouble(
                f"{path}: {error.strerror}; what is asked for by hand now will be forgotten by a restart: make "
                "room, or replace the disk"
            )

    def _read(self, modes: tuple[str, ...]) -> Wish | None:
        if self._path is None:
            return None
        try:
            raw = private_files.read(self._path, _MOST_BYTES)
            if raw is None:
                return None
            self._kept = msgspec.json.decode(raw, type=_Kept)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, private_files.PrivateFileError) as error:
            self._trouble(f"{self._path}: {error}; what was asked for by hand before the restart is forgotten")
            return None
        if self._kept.mode not in modes:
            self._trouble(
                f"{self._path}: found mode {self._kept.mode!r}, expected one of {', '.join(modes)}; it is forgotten"
            )
            return None
        return Wish(self._kept.mode, self._kept.who, "by hand, before the restart")
