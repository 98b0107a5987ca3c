"""Which bundles a device takes: those that a pinned key signed, and none older than what it has committed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.errors import Untrusted
from runtime.plan import signing
from runtime.plan.manifest import Manifest
from runtime.plan.signing import PublicKey


@dataclass(frozen=True)
class Trust:
    """What a device demands of a bundle.

    Attributes:
        keys: Public keys, any of which may have signed; several while one replaces another. Never empty.
        release: Release that the device has committed; 0 before the first.
    """

    keys: tuple[PublicKey, ...]
    release: int = 0

    def __post_init__(self) -> None:
        if not self.keys:
            raise Untrusted("keys: found none, expected at least one; pin a key, or ask for no trust at all")

    def signer(self, message: bytes, signature: bytes | None, origin: str) -> PublicKey:
        """The key that signed a manifest.

        Args:
            message: Raw bytes of the manifest, before anything in them is believed.
            signature: The bundle's signature; None if it has none.
            origin: Name of the bundle, for the error.

        Raises:
            Untrusted: There is no signature, or none of the pinned keys made it for these bytes.
        """
        pinned = ", ".join(key.id[:16] for key in self.keys)
        if signature is None:
            raise Untrusted(
                f"{origin}: found no signature, expected one by {pinned}; sign it with `geoshift bundle sign`"
            )
        for key in self.keys:
            if key.verifies(signature, message):
                return key
        raise Untrusted(
            f"{origin}: found a signature that is not of these bytes or not by a pinned key, expected one by {pinned}; "
            "copy the bundle again, or have it signed again"
        )

    def check_release(self, manifest: Manifest, origin: str) -> None:
        """Check that a signed bundle does not take the device back to a release that was replaced.

        Raises:
            Untrusted: Its release is lower than the committed one.
        """
        if manifest.release < self.release:
            raise Untrusted(
                f"{origin}: release: found {manifest.release}, expected at least {self.release}, which this device has "
                "committed; sign a newer one, with `geoshift bundle sign --release` above that"
            )


def pin(paths: Iterable[str | os.PathLike[str]], release: int = 0) -> Trust | None:
    """The trust that key files give; none at all without a file.

    Args:
        paths: Public keys in PEM, as ``geoshift bundle keygen`` writes them.
        release: Release that the device has committed.

    Raises:
        KeyFileError: A file is no such key.
    """
    keys = tuple(signing.load_public(path) for path in paths)
    return Trust(keys, release) if keys else None
