"""Release a bundle: give it a number that devices only count up, and sign it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from runtime.errors import BundleError
from runtime.plan import bundle as bundles
from runtime.plan import bundle_files
from runtime.plan import manifest as schema
from runtime.plan.bundle import Bundle
from runtime.plan.bundle_files import MANIFEST, SIGNATURE
from runtime.plan.signing import PrivateKey
from runtime.plan.trust import Trust


def sign(path: str | os.PathLike[str], key: PrivateKey, release: int | None = None) -> Bundle:
    """Check a bundle whole, then sign it; a signature that is there is replaced.

    Whatever interrupts it, the bundle is afterwards as it was, unsigned or signed, never signed wrongly.

    Args:
        path: The bundle's directory.
        key: Private half of the pair.
        release: Release number to write into the manifest first; without it the one that is there stays.

    Returns:
        The bundle as a device reads it that pinned the key.

    Raises:
        BundleError: The bundle is refused, or cannot be written to.
    """
    root = Path(path)
    bundle = bundles.read(root)
    raw = bundle.files[MANIFEST]
    try:
        if release is not None and release != bundle.manifest.release:
            raw = schema.encode(msgspec.structs.replace(bundle.manifest, release=release))
            schema.decode(raw, f"{root}/{MANIFEST}")
            (root / SIGNATURE).unlink(missing_ok=True)
            bundle_files.put(root, MANIFEST, raw)
        bundle_files.put(root, SIGNATURE, key.sign(raw))
    except OSError as error:
        raise BundleError(f"{error.filename or root}: cannot be written: {error.strerror}") from error
    return bundles.read(root, Trust((key.public,)))
