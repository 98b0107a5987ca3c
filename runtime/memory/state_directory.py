"""The directory in which a device keeps what must outlive a power cut. One process at a time may have it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from runtime.errors import StateError
from runtime.memory.files import Files
from runtime.memory.journal import Journal
from runtime.pushing.bundle_store import BundleStore

LOCK: Final = "journal.lock"


class StateDirectory:
    """A state directory, made if it is not there yet, and locked until it is closed or the process ends.

    Args:
        path: The directory.
        files: How to get at the disk.

    Attributes:
        path: The directory.
        files: How to get at the disk.
        journal: What the device remembers.
        bundles: Where pushed bundles lie.

    Raises:
        StateError: It cannot be made or read, another process has it, or its journal is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], files: Files | None = None) -> None:
        self.path = Path(path)
        self.files = files or Files()
        self.bundles = BundleStore(self.path, self.files)
        try:
            self.files.make_folder(self.path)
            lock = self.files.lock(self.path / LOCK)
        except OSError as error:
            raise StateError(
                f"{self.path}: cannot be used: {error.strerror}; give a directory that this user may write to"
            ) from error
        if lock is None:
            raise StateError(f"{self.path}: found it in use by another process, expected none; stop that one first")
        self._lock: int | None = lock
        try:
            self.journal = Journal(self.path, self.files)
        except BaseException:
            self.close()
            raise

    def weights(self, bundle: str) -> Path:
        """File of the persistent weight memory of a bundle.

        Args:
            bundle: The bundle's id.
        """
        return self.path / f"weights-{bundle[:16]}.bin"

    def tidy(self, kept: Path | None) -> None:
        """Remove weight memories of other bundles; one that cannot be removed takes room and does no harm."""
        for found in self.path.glob("weights-*"):
            if found != kept:
                with suppress(OSError):
                    self.files.remove(found)

    def close(self) -> None:
        """Give the directory up; may be called twice."""
        if self._lock is not None:
            if hasattr(self, "journal"):
                self.journal.close()
            self.files.close(self._lock)
            self._lock = None
