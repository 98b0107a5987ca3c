"""Remembers over a restart what was asked for by hand, so that a power cut does not give control back.

Only a request without a lease is kept: a lease is counted on a clock that a restart stops, and ends with it. Holds are
their programs' business, which ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from runtime import private_files
from runtime.arbiter import Wish

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
        self.wish = self._read(modes)
        """What was asked for before the restart."""

    def keep(self, wish: Wish | None) -> None:
        """Remember this from now on; written only if it changes, as flash wears."""
        # What the file may hold: a longer name is a stranger's, and not worth a place.
        kept = None if wish is None or wish.until_s is not None else _Kept(wish.mode, wish.source[:256])
        if self._path is None or kept == self._kept:
            return
        try:
            if kept is None:
                private_files.remove(self._path)
            else:
                private_files.write(self._path, msgspec.json.encode(kept))
            self._kept = kept
        except OSError as error:
            self._trouble(
                f"{self._path}: {error.strerror}; what is asked for by hand now will be forgotten by a restart: make "
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
