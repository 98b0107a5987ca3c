"""The files of a bundle: read against the manifest, written whole or not at all.

Nothing here knows what is in them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from runtime.errors import BundleError
from runtime.manifest import Manifest

MANIFEST: Final = "plan.json"
MAX_BUNDLE_BYTES: Final = 4 << 30
"""No supported board holds a network beyond this; it stops a hostile manifest before anything is read."""
MAX_FILES: Final = 4096


def check_target(root: Path, *, replace: bool) -> None:
    """Check that a bundle may be written to ``root``; worth asking before a long plan.

    Raises:
        BundleError: Something stands there that may not be replaced.
    """
    bundle = (root / MANIFEST).is_file()
    if (root.exists() or root.is_symlink()) and not (replace and bundle):
        remedy = "choose another directory or use --force" if bundle else "choose another directory"
        raise BundleError(
            f"{root}: found {'a bundle' if bundle else 'something that is no bundle'}, expected nothing; {remedy}"
        )


def write_all(root: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a hidden directory beside ``root``, then rename it to ``root``."""
    root.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".partial", dir=root.parent))
    try:
        # mkdtemp keeps others out; a bundle is for others to read.
        staging.chmod(0o755)
        for name, raw in files.items():
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as handle:
                handle.write(raw)
                handle.flush()
                os.fsync(handle.fileno())
        _put_in_place(staging, root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, root: Path) -> None:
    """Rename the finished directory; a bundle that stood there is put aside first and back if that fails."""
    if not root.exists():
        staging.rename(root)
        return
    aside = staging.with_suffix(".old")
    root.rename(aside)
    try:
        staging.rename(root)
    except OSError:
        aside.rename(root)
        raise
    shutil.rmtree(aside)


def read_regular(root: Path, name: str, limit: int) -> bytes:
    """Read a regular file that is not a link and not above ``limit`` bytes."""
    target = root / name
    if target.is_symlink() or not target.is_file():
        raise BundleError(f"{target}: found no regular file, expected one; the bundle is incomplete: copy it again")
    size = target.stat().st_size
    if size > limit:
        raise BundleError(f"{target}: found {size} bytes, expected at most {limit}")
    return target.read_bytes()


def read_listed(root: Path, manifest: Manifest) -> dict[str, bytes]:
    """Read all listed files and refuse any other."""
    total = sum(entry.bytes for entry in manifest.files.values())
    if total > MAX_BUNDLE_BYTES or len(manifest.files) > MAX_FILES:
        raise BundleError(
            f"{root}: found {len(manifest.files)} files of {total} bytes, "
            f"expected at most {MAX_FILES} of {MAX_BUNDLE_BYTES}"
        )
    for name in manifest.files:
        pure = PurePosixPath(name)
        climbs = pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or str(pure) != name
        if climbs or name == MANIFEST:
            raise BundleError(f"{root}/{MANIFEST}: files: found path {name!r}, expected one inside the bundle")
    present = {found.relative_to(root).as_posix() for found in root.rglob("*") if found.is_symlink() or found.is_file()}
    if extra := sorted(present - set(manifest.files) - {MANIFEST}):
        raise BundleError(
            f"{root}: found {extra[0]!r}, which {MANIFEST} does not list; remove it or copy the bundle again"
        )
    files: dict[str, bytes] = {}
    for name, entry in manifest.files.items():
        if any((root / parent).is_symlink() for parent in PurePosixPath(name).parents):
            raise BundleError(f"{root}/{name}: found a link on the way to it, expected real directories")
        raw = read_regular(root, name, MAX_BUNDLE_BYTES)
        digest = hashlib.sha256(raw).hexdigest()
        if (len(raw), digest) != (entry.bytes, entry.sha256):
            raise BundleError(
                f"{root}/{name}: found {len(raw)} bytes with sha256 {digest[:16]}…, "
                f"expected {entry.bytes} with {entry.sha256[:16]}…; the file is damaged: copy the bundle again"
            )
        files[name] = raw
    return files
