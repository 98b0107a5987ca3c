"""Files that hold secrets: readable by their owner alone, replaced whole or not at all, one writer at a time."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from device_profiles.errors import GeoshiftError

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700


class PrivateFileError(GeoshiftError):
    """A file of secrets is damaged, or others may read it. Mend it as the text says; nothing was changed."""


def folder(path: Path) -> Path:
    """Make a directory that its owner alone may enter, if it is not there yet; its parents get the usual rights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    return path


def write(path: Path, content: bytes) -> None:
    """Replace a file, whole or not at all, and over a power cut too.

    The new file has the rights of a secret from its first byte on: it is created with them, never given them later.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            draft.unlink()
        raise
    _settle(path.parent)


def remove(path: Path) -> None:
    """Remove a file, over a power cut too; none there is fine."""
    with suppress(FileNotFoundError):
        path.unlink()
        _settle(path.parent)


def read(path: Path, limit: int) -> bytes | None:
    """Content of a file of secrets; None where there is none.

    Args:
        path: The file.
        limit: Bytes that it may have at most.

    Raises:
        PrivateFileError: It is no plain file, too large, or others than its owner may read or write it.
    """
    try:
        # A pipe in its place is opened without waiting for somebody to write to it.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise PrivateFileError(f"{path}: found something else than a plain file; remove it")
        if found.st_mode & 0o077:
            raise PrivateFileError(
                f"{path}: found mode {stat.S_IMODE(found.st_mode):04o}, expected {FILE_MODE:04o}: others may have read "
                f"it; make new secrets, or run `chmod 600 {path}` if nobody else uses this machine"
            )
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(content) > limit:
        raise PrivateFileError(f"{path}: found more than {limit} bytes; it is damaged: remove it")
    return content


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other writers of ``path`` out, those of other processes too, while the context is open.

    What a writer left behind that was killed is removed: it may hold a secret.
    """
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for found in path.parent.iterdir():
            if re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}", found.name):
                found.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _settle(directory: Path) -> None:
    """Make a rename or a removal last."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
