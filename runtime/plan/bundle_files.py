"""The files of a bundle: read against the manifest, written whole or not at all.

Nothing here knows what is in them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final
from uuid import uuid4

import msgspec

from runtime.errors import BundleError
from runtime.plan.manifest import MAX_MANIFEST_BYTES, FileEntry
from runtime.plan.signing import SIGNATURE_BYTES

MANIFEST: Final = "plan.json"
SIGNATURE: Final = "plan.sig"
_UNLISTED: Final = {MANIFEST, SIGNATURE}
"""What a manifest cannot list: itself, and what is made from it."""
MAX_BUNDLE_BYTES: Final = 4 << 30
"""No supported board holds a network beyond this; it stops a hostile manifest before anything is read."""
MAX_FILES: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}){0,3}")
"""No climbing, no hidden file, no other drive, nothing that a terminal or another file system takes for more."""
_FAMILY: Final = "geoshift.plan/"


def check_target(root: Path, *, replace: bool) -> None:
    """Check that a bundle may be written to ``root``; worth asking before a long plan.

    Only a bundle is ever replaced, since replacing deletes all that is there: a directory with a manifest of any
    version of this format and no file beside those that it lists.

    Raises:
        BundleError: Something stands there that may not be replaced.
    """
    if not (root.exists() or root.is_symlink()):
        return
    try:
        strange = _strange(root)
    except OSError as error:
        raise BundleError(f"{root}: cannot be looked at ({error.strerror}); choose another directory") from error
    if strange:
        raise BundleError(
            f"{root}: found something that is no bundle ({strange}), expected nothing; choose another directory"
        )
    if not replace:
        raise BundleError(f"{root}: found a bundle, expected nothing; choose another directory or use --force")


def _strange(root: Path) -> str:
    """What about ``root`` says that it is not simply a bundle, or nothing."""
    if root.is_symlink() or not root.is_dir():
        return "no directory"
    if (root / MANIFEST).is_symlink() or not (root / MANIFEST).is_file():
        return f"no {MANIFEST}"
    listed = _listed(_read(root / MANIFEST, MAX_MANIFEST_BYTES))
    if listed is None:
        return f"a {MANIFEST} that is none of geoshift's"
    extra = sorted(_present(root) - listed - _UNLISTED)
    return f"{extra[0]!r} in it" if extra else ""


def _listed(raw: bytes) -> set[str] | None:
    """Files that a manifest of any version lists; None if it is no manifest."""
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found: Any = data if isinstance(data, dict) else {}
    schema, files = found.get("schema"), found.get("files")
    known = isinstance(schema, str) and schema.startswith(_FAMILY) and isinstance(files, dict)
    return set(files) if known else None


def write_all(root: Path, files: Mapping[str, bytes], *, replace: bool) -> None:
    """Write files to a hidden directory beside ``root``, then rename it to ``root``.

    Whatever interrupts it, ``root`` is afterwards as it was or new, and nothing else is left.

    Raises:
        BundleError: Something came to stand at ``root`` meanwhile that may not be replaced.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    workplace = root.parent / f".{root.name}.{uuid4().hex}.partial"
    new, old = workplace / "new", workplace / "old"
    try:
        new.mkdir(parents=True)
        for name, raw in files.items():
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as handle:
                handle.write(raw)
                handle.flush()
                os.fsync(handle.fileno())
        for folder in {new, *((new / name).parent for name in files)}:
            _sync(folder)
        check_target(root, replace=replace)
        try:
            if root.exists():
                root.rename(old)
            new.rename(root)
        finally:
            if old.exists() and not root.exists():
                old.rename(root)
        _sync(root.parent)
    finally:
        # What stood there is never deleted before its successor is in place.
        if root.exists() or not old.exists():
            _remove(workplace)


def put(root: Path, name: str, raw: bytes) -> None:
    """Write one file of a bundle that stands, whole or not at all, in place of the one that was there."""
    # Beside the bundle, since a file that is left in it would make it one that is refused.
    place = root.resolve()
    partial = place.parent / f".{place.name}.{uuid4().hex}.partial"
    try:
        with partial.open("xb") as handle:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(place / name)
        _sync(place)
    finally:
        partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make names in a directory last through a power cut, where the file system knows how."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(workplace: Path) -> None:
    """Delete what is left over, on a second try if the first is interrupted."""
    try:
        shutil.rmtree(workplace, ignore_errors=True)
    except BaseException:
        shutil.rmtree(workplace, ignore_errors=True)
        raise


def read_regular(root: Path, name: str, limit: int) -> bytes:
    """Read a regular file that is not a link and not above ``limit`` bytes."""
    target = root / name
    if target.is_symlink() or not target.is_file():
        raise BundleError(f"{target}: found no regular file, expected one; the bundle is incomplete: copy it again")
    raw = _read(target, limit)
    if len(raw) > limit:
        size = target.stat().st_size
        raise BundleError(f"{target}: found {size} bytes, expected at most {limit}; copy the bundle again")
    return raw


def read_signature(root: Path) -> bytes | None:
    """Read a bundle's signature, whoever made it; None if there is none.

    Raises:
        BundleError: What stands there is no regular file of a signature's size.
    """
    target = root / SIGNATURE
    if not (target.exists() or target.is_symlink()):
        return None
    raw = read_regular(root, SIGNATURE, SIGNATURE_BYTES)
    if len(raw) != SIGNATURE_BYTES:
        raise BundleError(f"{target}: found {len(raw)} bytes, expected {SIGNATURE_BYTES}; copy the bundle again")
    return raw


def _read(target: Path, limit: int) -> bytes:
    """Up to ``limit`` bytes and one more, of a file that was regular a moment ago and may not be any more."""
    # A link, pipe or device put there since the check is refused or read without waiting.
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    with open(os.open(target, flags), "rb") as handle:
        found = os.fstat(handle.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{target}: found no regular file, expected one; the bundle is incomplete: copy it again")
        return handle.read(min(limit, found.st_size) + 1)


def check_listed(root: Path, files: Mapping[str, FileEntry]) -> None:
    """Check names and sizes of the files that a manifest lists, before any of them is touched.

    Raises:
        BundleError: A name may lead out of the bundle, or there is too much.
    """
    total = sum(entry.bytes for entry in files.values())
    if total > MAX_BUNDLE_BYTES or len(files) > MAX_FILES:
        raise BundleError(
            f"{root}/{MANIFEST}: files: found {len(files)} files of {total} bytes, "
            f"expected at most {MAX_FILES} of {MAX_BUNDLE_BYTES}"
        )
    for name in files:
        if not _NAME.fullmatch(name) or name in _UNLISTED:
            raise BundleError(
                f"{root}/{MANIFEST}: files: found path {name!r}, expected one inside the bundle, of letters, digits, "
                "'.', '_' and '-', as in paths/rows.safetensors"
            )
    for name in files:
        if within := next((str(one) for one in PurePosixPath(name).parents if str(one) in {*files, *_UNLISTED}), None):
            raise BundleError(
                f"{root}/{MANIFEST}: files: found path {name!r} below the file {within!r}, expected a directory there"
            )


def read_listed(root: Path, entries: Mapping[str, FileEntry]) -> dict[str, bytes]:
    """Read all listed files and refuse any other."""
    check_listed(root, entries)
    if extra := sorted(_present(root) - set(entries) - _UNLISTED):
        raise BundleError(
            f"{root}: found {extra[0]!r}, which {MANIFEST} does not list; remove it or copy the bundle again"
        )
    files: dict[str, bytes] = {}
    for name, entry in entries.items():
        # All but the last, which is the bundle itself: how it was called is its user's business.
        if any((root / parent).is_symlink() for parent in list(PurePosixPath(name).parents)[:-1]):
            raise BundleError(f"{root}/{name}: found a link on the way to it, expected real directories")
        raw = read_regular(root, name, entry.bytes)
        digest = hashlib.sha256(raw).hexdigest()
        if (len(raw), digest) != (entry.bytes, entry.sha256):
            raise BundleError(
                f"{root}/{name}: found {len(raw)} bytes with sha256 {digest[:16]}…, "
                f"expected {entry.bytes} with {entry.sha256[:16]}…; the file is damaged: copy the bundle again"
            )
        files[name] = raw
    return files


def _present(root: Path) -> set[str]:
    """Everything in a directory that is no directory, links to directories included."""
    found = (path for path in root.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(root).as_posix() for path in found}
