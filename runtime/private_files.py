"""Files that hold secrets: readable by their owner alone, replaced whole or not at all, one writer at a time.

What root makes belongs to the owner of the folder it is in: `sudo geoshift pair` locks no service out of its state.
"""

from __future__ import annotations

import errno
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
    """Make a directory that its owner alone may enter, if it is not there yet, and its parents alike."""
    if not path.is_dir():
        if path.parent != path:
            folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=FOLDER_MODE)
            _hand_over(path, path)
    if not path.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return path


def write(path: Path, content: bytes) -> None:
    """Replace a file, whole or not at all, and over a power cut too.

    The new file has the rights of a secret from its first byte on: it is created with them, never given them later.
    """
    # A text: pathlib interns every name that it is given, and names of one use would make that table grow.
    draft = os.path.join(path.parent, f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            _hand_over(handle, path)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
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
    handle = _open_lock(path.with_name(f".{path.name}.lock"))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for found in path.parent.iterdir():
            if re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}", found.name):
                found.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    """Open a lock, made if it is not there yet. Only what was made here is handed over: any other may be a link."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:
        return os.open(path, flags)
    _hand_over(handle, path)
    return handle


def _hand_over(made: int | Path, path: Path) -> None:
    """Give what root has made to the owner of the folder.

    Args:
        made: Its descriptor, or its path for a folder.
        path: Where it is, or what it will replace.
    """
    owner = path.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        if isinstance(made, int):
            os.fchown(made, owner.st_uid, owner.st_gid)
        else:
            os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _settle(directory: Path) -> None:
    """Make a rename or a removal last."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
