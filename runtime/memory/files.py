"""The file operations that journal, weight memory and pushed bundles are made of, one method each.

They are in one place so that a test can let any of them fail, stop half way, or be the last one before the power goes.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from runtime.walking.rows import Floats

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700


class Files:
    """A file system, one operation at a time; all raise OSError."""

    def make_folder(self, path: Path) -> None:
        """Make a directory that its owner alone may enter, if it is not there yet."""
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)

    def lock(self, path: Path) -> int | None:
        """Take a lock that ends with the process at the latest; None if another one has it.

        Returns:
            Open descriptor that holds the lock.
        """
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    def read(self, path: Path, limit: int) -> bytes | None:
        """Content of a file, cut after ``limit`` bytes; None if there is no file."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as file:
            return file.read(limit)

    def create(self, path: Path) -> int:
        """Open an empty file for writing, in place of one that is there."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, FILE_MODE)

    def open(self, path: Path) -> int:
        """Open a file that is there, for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, handle: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        view = memoryview(data)
        while view:
            count = self.write_some(handle, view, offset)
            if count == 0:
                raise OSError(errno.EIO, "the disk took no byte of a write")
            view, offset = view[count:], offset + count

    def write_some(self, handle: int, data: memoryview, offset: int) -> int:
        """Write as much as the system takes in one go; the number of bytes."""
        return os.pwrite(handle, data, offset)

    def sync(self, handle: int) -> None:
        """Wait until what was written to a file would survive a power cut."""
        os.fsync(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Put a file in another's place, whole or not at all."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove a file; none there is fine."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with all that is in it; none there is fine."""
        with suppress(FileNotFoundError):
            shutil.rmtree(path)

    def free_bytes(self, path: Path) -> int:
        """Bytes that this user may still write to the file system of a directory."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def sync_folder(self, path: Path) -> None:
        """Wait until renamed and removed files of a directory would stay so over a power cut."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def close(self, handle: int) -> None:
        """Close a descriptor, and give up a lock that it holds."""
        os.close(handle)

    def map(self, handle: int, size: int) -> mmap.mmap:
        """A file as memory, shared with all who map it."""
        return mmap.mmap(handle, size)

    def store(self, cells: Floats, values: Floats) -> None:
        """Write numbers into mapped memory, in order."""
        np.copyto(cells, values)

    def flush(self, memory: mmap.mmap, begin: int, end: int) -> None:
        """Wait until mapped bytes ``begin`` to ``end`` (exclusive) would survive a power cut."""
        first = begin - begin % mmap.PAGESIZE
        memory.flush(first, end - first)
