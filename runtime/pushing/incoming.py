"""A bundle that comes in, file by file, part by part, into a directory of its own.

Names, sizes and digests are those of the manifest, which came first. Nothing that a request says becomes a path.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from runtime.errors import NoRoom, PushRefused, StagingError, UnknownPush
from runtime.plan.bundle import Head
from runtime.plan.bundle_files import MANIFEST, SIGNATURE
from runtime.plan.manifest import FileEntry
from runtime.pushing.bundle_store import BundleStore

FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass
class _Arriving:
    """A file that comes in: how much of it is there, and the digest of that."""

    entry: FileEntry
    there: bool = False
    received: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def whole(self) -> bool:
        return self.there and self.received == self.entry.bytes


class Incoming:
    """One bundle on its way to the disk. Whoever uses it holds a lock.

    Args:
        head: Manifest and signature, checked.
        store: Where it goes.

    Attributes:
        head: Manifest and signature.

    Raises:
        NoRoom: The disk is full.
        StagingError: The disk does not take it.
    """

    def __init__(self, head: Head, store: BundleStore) -> None:
        self.head = head
        self._store = store
        self._arriving = {name: _Arriving(entry) for name, entry in head.manifest.files.items()}
        with self._writing():
            self._root = store.prepare(head.id)
            folders = {parent for name in self._arriving for parent in PurePosixPath(name).parents}
            # Parents come first, being shorter.
            self._folders = [self._root / folder for folder in sorted(folders, key=lambda one: len(one.parts))]
            for folder in self._folders:
                store.files.make_folder(folder)
            self._put(MANIFEST, head.raw)
            if head.signature is not None:
                self._put(SIGNATURE, head.signature)

    @property
    def received_bytes(self) -> int:
        """Bytes of listed files that are there."""
        return sum(one.received for one in self._arriving.values())

    @property
    def total_bytes(self) -> int:
        """Bytes of all listed files."""
        return sum(one.entry.bytes for one in self._arriving.values())

    def missing(self) -> dict[str, int]:
        """Files that are not there in whole, and how many bytes of each are."""
        return {name: one.received for name, one in self._arriving.items() if not one.whole}

    def take(self, name: str, offset: int, data: bytes) -> None:
        """Write a part of a file; one that is there already counts as written.

        Args:
            name: The file, as the manifest lists it.
            offset: Place of the part.
            data: The part. An empty file comes as one empty part.

        Raises:
            UnknownPush: The manifest lists no such file.
            PushRefused: The part does not follow what is there, or the file is not what the manifest says; what is
                there of it is thrown away then.
            NoRoom: The disk is full.
            StagingError: The disk does not take it.
        """
        one = self._arriving.get(name)
        if one is None:
            raise UnknownPush(f"file: found {name[:80]!r}, expected one that the manifest lists")
        end = offset + len(data)
        if end > one.entry.bytes:
            raise PushRefused(
                f"{name}: found {end} bytes, expected {one.entry.bytes}; the manifest is another bundle's"
            )
        if one.there and end <= one.received:
            return
        if offset != one.received:
            raise PushRefused(f"{name}: found a part at {offset}, expected the one at {one.received}; go on there")
        with self._writing():
            self._write(name, one, offset, data)
        if one.received == one.entry.bytes and one.digest.hexdigest() != one.entry.sha256:
            found = one.digest.hexdigest()
            self._arriving[name] = _Arriving(one.entry)
            raise PushRefused(
                f"{name}: found sha256 {found[:16]}…, expected {one.entry.sha256[:16]}…; it was damaged on the way, or "
                "is another bundle's: send it again"
            )

    def check_whole(self) -> None:
        """See that all files are there.

        Raises:
            PushRefused: One is not.
        """
        if missing := self.missing():
            name = min(missing)
            raise PushRefused(
                f"{name}: found {missing[name]} bytes, expected {self._arriving[name].entry.bytes}; send the rest first"
            )

    def admit(self) -> Path:
        """Put the bundle, which is whole, in its place, flushed; it has yet to be read and checked.

        Raises:
            NoRoom: The disk is full.
            StagingError: The disk does not take it.
        """
        with self._writing():
            for folder in self._folders:
                self._store.files.sync_folder(folder)
            return self._store.admit(self.head.id)

    def discard(self) -> None:
        """Remove all that came in; the next start removes what cannot be removed now."""
        self._store.discard(self.head.id)

    def _write(self, name: str, one: _Arriving, offset: int, data: bytes) -> None:
        files, path = self._store.files, self._root / name
        # Made anew if it was thrown away before: what is left of it must not stand behind the new end.
        handle = files.open(path) if one.there and offset else files.create(path)
        try:
            files.write(handle, data, offset)
            if offset + len(data) == one.entry.bytes:
                files.sync(handle)
        finally:
            files.close(handle)
        one.there = True
        one.received += len(data)
        one.digest.update(data)

    def _put(self, name: str, raw: bytes) -> None:
        handle = self._store.files.create(self._root / name)
        try:
            self._store.files.write(handle, raw, 0)
            self._store.files.sync(handle)
        finally:
            self._store.files.close(handle)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say in words what the disk refuses."""
        try:
            yield
        except OSError as error:
            refusal = NoRoom if error.errno in FULL else StagingError
            remedy = "make room" if refusal is NoRoom else "look after the disk"
            raise refusal(f"the bundle cannot be kept: {error.strerror or error}; {remedy}, then push again") from error
