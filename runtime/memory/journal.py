"""What a device must remember over a power cut: an append-only file whose last record is the truth.

The file is 8 bytes of magic, then records. A record is the length of its text (uint32, little-endian), the CRC-32 of
that length and the text, and the text: JSON, the whole of ``Standing``. Each record stands for itself, so nothing has
to be replayed, and whichever record survives describes a moment that has been. A record is one block of flash or less,
and so costs no more wear than a smaller one would.

A power cut in the middle of an append leaves a torn tail, which counts for nothing. Every append is flushed before the
next one begins, so a damaged record with a whole one after it cannot come from a power cut: that is an error.

The first record after a start, after a failed write, and whenever the file has grown enough goes to a new file, which
is flushed and then put in place of the old one. So what a failed write left behind is never written to again.
"""

from __future__ import annotations

import errno
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from runtime.errors import JournalError, StateError
from runtime.memory.files import Files

NAME: Final = "journal"
MAGIC: Final = b"GSJRNL1\n"
LIMIT_BYTES: Final = 64 << 10
"""A file that has grown beyond this is written anew: about a hundred records, read in a millisecond."""
LARGEST_RECORD: Final = 64 << 10
"""A route over 63 modes and counters of a thousand layers fit in."""
RESERVE: Final = "journal.reserve"
RESERVE_BYTES: Final = LIMIT_BYTES + 2 * LARGEST_RECORD
"""Given up when the disk is full, so that a walk under way can be brought to its end: room for a grown file and for the
one that replaces it, which is all that a walk of any length needs at once."""
_HEAD: Final = 8

Count = Annotated[int, Meta(ge=0)]
WalkPhase = Literal["walking", "paused", "verifying", "rolling-back"]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parts share: frozen, named fields, nothing unknown."""


class WalkEntry(_Entry, frozen=True, kw_only=True):
    """A walk under way. The state is that of the first ``position`` chunks of the legs, joined."""

    target: str
    """Mode it leads to; on the way back the one that was left."""
    at: str
    """Mode at which the first leg begins."""
    legs: tuple[tuple[str, str], ...]
    """Mode left and mode reached of each leg."""
    start: Count
    """Chunks of the first leg that were behind when this way was taken."""
    position: Count
    """Chunks that are written. With weights in memory a checkpoint: more may have been written and lost."""
    intended: Count
    """Chunks up to here may be written, each wholly, in part or not at all; ``position`` if none is being written."""
    phase: WalkPhase


class Counters(_Entry, frozen=True, kw_only=True):
    """What the device has done in its life; with weights in memory, up to the last record before a power cut."""

    transitions: Count = 0
    """Switches that reached their mode."""
    increments: Count = 0
    bytes_written: Count = 0
    row_writes: dict[str, Count] = {}
    """Rows written, by layer, retries included: what wears."""
    retries: Count = 0
    """Rows that read back wrong and were written again; their bytes are in ``bytes_written``."""
    cell_writes: Count = 0
    """Writes of the row that was written most. Rows are told apart since the device opened, and the maxima of one
    opening after another are added, so that it is never too few."""


class Standing(_Entry, frozen=True, kw_only=True):
    """Where a device stands."""

    bundle: str
    """SHA-256 of plan.json, in hexadecimal."""
    release: Count
    """Highest release whose canary was right."""
    mode: str
    """Mode reached last; during a walk the one that was left."""
    walk: WalkEntry | None = None
    persistent: bool = False
    """Whether the weights are in the weight memory, and so survive."""
    restoring: bool = False
    """Whether the weight memory was being rewritten to ``mode``, row after row, from an unknown state."""
    counters: Counters = Counters()


class Journal:
    """The journal of one state directory. Whoever makes one must hold the directory's lock.

    Args:
        folder: The state directory.
        files: How to get at the disk.

    Attributes:
        standing: What the last record says; None before the first.
        release: Highest release whose canary was right; 0 before the first.

    Raises:
        StateError: The file is damaged; the text names it and the place.
    """

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._files = files
        self._handle: int | None = None
        self._size = 0
        self.standing = load(folder, files)

    @property
    def release(self) -> int:
        """Highest release whose canary was right; 0 before the first."""
        return 0 if self.standing is None else self.standing.release

    def write(self, standing: Standing) -> None:
        """Remember this; when it returns, a power cut does not matter any more.

        Raises:
            JournalError: The disk did not take it. What the journal said before still holds.
        """
        try:
            self._write(standing)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._give_up_reserve():
                raise self._failed(error) from error
            try:
                self._write(standing)
            except OSError as second:
                raise self._failed(second) from second
        self.standing = standing

    def reserve(self) -> None:
        """See to it that a walk can be brought to its end even if the disk fills up meanwhile.

        Raises:
            JournalError: There is no room.
        """
        path = self._folder / RESERVE
        try:
            if path.exists() and path.stat().st_size == RESERVE_BYTES:
                return
            handle = self._files.create(path)
            try:
                # Not zeros, which some file systems store as a hole.
                self._files.write(handle, b"reserve\n" * (RESERVE_BYTES // 8), 0)
                self._files.sync(handle)
            finally:
                self._files.close(handle)
        except OSError as error:
            with suppress(OSError):  # it would take the last room, and is of no use in part
                self._files.remove(path)
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            self._files.close(self._handle)
            self._handle = None

    def _write(self, standing: Standing) -> None:
        record = frame(standing)
        if self._handle is None or self._size + len(record) > LIMIT_BYTES:
            self._begin_anew(record)
            return
        try:
            self._files.write(self._handle, record, self._size)
            self._files.sync(self._handle)
        except OSError:
            # The next record goes to a new file: nobody knows what of this one is on the disk.
            self.close()
            raise
        self._size += len(record)

    def _begin_anew(self, record: bytes) -> None:
        """Write a file of one record and put it in place of the journal."""
        self.close()
        draft = self._path.with_suffix(".new")
        handle = self._files.create(draft)
        try:
            self._files.write(handle, MAGIC + record, 0)
            self._files.sync(handle)
            self._files.rename(draft, self._path)
            self._files.sync_folder(self._folder)
        except BaseException:
            self._files.close(handle)
            with suppress(OSError):  # it is overwritten next time
                self._files.remove(draft)
            raise
        self._handle, self._size = handle, len(MAGIC) + len(record)

    def _give_up_reserve(self) -> bool:
        """Make room on a full disk; False if there is none to make."""
        path = self._folder / RESERVE
        there = path.exists()
        with suppress(OSError):  # the second try to write will tell
            self._files.remove(path)
        return there

    def _failed(self, error: OSError) -> JournalError:
        return JournalError(
            f"{self._path}: cannot be written: {error.strerror or error}; make room or replace the disk, then try again"
        )


def frame(standing: Standing) -> bytes:
    """A record as it is in the file."""
    text = msgspec.json.encode(standing)
    if len(text) > LARGEST_RECORD:
        raise JournalError(f"{NAME}: found a record of {len(text)} bytes, expected at most {LARGEST_RECORD}")
    size = len(text).to_bytes(4, "little")
    return size + zlib.crc32(size + text).to_bytes(4, "little") + text


def load(folder: Path, files: Files) -> Standing | None:
    """What the journal of a state directory says, without its lock: for those who only want to look.

    Raises:
        StateError: It is damaged, or cannot be read.
    """
    path = folder / NAME
    try:
        raw = files.read(path, LIMIT_BYTES + LARGEST_RECORD + 1)
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error
    if raw is None:
        return None
    if not raw.startswith(MAGIC):
        raise _damaged(path, 0, f"{raw[:8]!r}", f"{MAGIC!r}")
    offset, last = len(MAGIC), None
    while offset < len(raw):
        text = _text_at(raw, offset)
        if text is None:
            break
        try:
            last = msgspec.json.decode(text, type=Standing)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _damaged(path, offset, f"a record that another version wrote ({error})", "one of this") from error
        offset += _HEAD + len(text)
    if offset < len(raw):
        following = next((at for at in range(offset + 1, len(raw)) if _text_at(raw, at) is not None), None)
        if following is not None:
            raise _damaged(
                path, offset, f"a damaged record before a whole one at {following}", "damage at the end alone"
            )
    if last is None:
        # A file is put in place only when its first record is safe.
        raise _damaged(path, offset, "no whole record", "at least one")
    return last


def _text_at(raw: bytes, offset: int) -> bytes | None:
    """Text of the record at ``offset``, or None if none is there."""
    size = raw[offset : offset + 4]
    length = int.from_bytes(size, "little")
    text = raw[offset + _HEAD : offset + _HEAD + length]
    if len(size) < 4 or not 0 < length <= LARGEST_RECORD or len(text) != length:
        return None
    return text if zlib.crc32(size + text).to_bytes(4, "little") == raw[offset + 4 : offset + _HEAD] else None


def _damaged(path: Path, offset: int, found: str, expected: str) -> StateError:
    return StateError(
        f"{path}: at byte {offset}: found {found}, expected {expected}; the disk may be failing. "
        f"To start anew in the dense mode, remove {path.parent}"
    )
