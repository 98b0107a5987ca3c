"""Ed25519 keys and signatures: who made a bundle. The one door to that side of cryptography.

A signature is 64 bytes over the raw bytes of ``plan.json``, which lists the digest of every other file. Keys are PEM
files as OpenSSL writes them, so that ``openssl pkeyutl`` signs and verifies the same bundles.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runtime.errors import KeyFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE_BYTES: Final = 64
MAX_KEY_FILE_BYTES: Final = 4096
"""A PEM file of either half has about 115 bytes."""
_PRIVATE_MODE: Final = 0o600
_PUBLIC_MODE: Final = 0o644
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_AGAIN: Final = "make a pair with `geoshift bundle keygen`"

_PRIME: Final = 2**255 - 19
_EIGHTH: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER: Final = frozenset({0, 1, _PRIME - 1, _EIGHTH, _PRIME - _EIGHTH, _PRIME, _PRIME + 1})
"""Encodings, less the sign, of the points that a small multiple takes to zero: a signature by one of them says
nothing, and a file of zeros would be such a key."""


@dataclass(frozen=True)
class PublicKey:
    """The half of a key pair that a device pins.

    Attributes:
        raw: The encoded point, 32 bytes.
    """

    raw: bytes

    @property
    def id(self) -> str:
        """SHA-256 of the raw key, 64 hexadecimal digits: what people compare."""
        return hashlib.sha256(self.raw).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the other half of this key signed exactly this message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """The half of a key pair that signs. It stays on the machine that releases plans.

    Attributes:
        raw: The seed, 32 bytes; never shown.
    """

    raw: bytes = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """The other half."""
        return PublicKey(self._key().public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 bytes; the same for the same message."""
        return self._key().sign(message)

    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.raw)


def generate() -> PrivateKey:
    """A new key from the system's random numbers."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return PrivateKey(Ed25519PrivateKey.generate().private_bytes_raw())


def write_pair(private: str | os.PathLike[str], public: str | os.PathLike[str], key: PrivateKey) -> None:
    """Write both halves to new files, both or neither; the private one is its owner's alone from the first moment.

    Raises:
        KeyFileError: One of the files is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as pem

    secret = key._key()
    texts = {
        Path(private): secret.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()),
        Path(public): secret.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo),
    }
    made: list[Path] = []
    try:
        with ExitStack() as stack:
            handles = []
            for path, mode in zip(texts, (_PRIVATE_MODE, _PUBLIC_MODE), strict=True):
                # Both are made before either is filled, so that a file that is in the way is found in time.
                handles.append(stack.enter_context(open(os.open(path, _NEW, mode), "wb")))
                made.append(path)
            for handle, text in zip(handles, texts.values(), strict=True):
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
    except BaseException as error:
        for path in made:
            with suppress(FileNotFoundError):
                path.unlink()
        if isinstance(error, FileExistsError):
            raise KeyFileError(
                f"{error.filename}: found a file, expected none; a key is never overwritten: choose another name"
            ) from error
        if isinstance(error, OSError):
            raise KeyFileError(f"{error.filename or private}: cannot be written: {error.strerror}") from error
        raise


def load_private(path: str | os.PathLike[str]) -> PrivateKey:
    """Read the private half of a key pair.

    Raises:
        KeyFileError: It cannot be read, others may read it too, or it is not a private Ed25519 key without passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    raw, mode = _read(path)
    if os.name == "posix" and mode & 0o077:
        raise KeyFileError(
            f"{path}: found mode {mode:04o}, expected {_PRIVATE_MODE:04o}: others can read a key that is to be "
            f"private; if nobody has, `chmod 600` it, else {_AGAIN}"
        )
    try:
        key = pem.load_pem_private_key(raw, password=None)
    except TypeError as error:
        raise KeyFileError(f"{path}: found a key under a passphrase, expected one without; {_AGAIN}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path}: found {_kind(raw)}, expected a private Ed25519 key in PEM; {_AGAIN}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: found {type(key).__name__}, expected a private Ed25519 key; {_AGAIN}")
    return PrivateKey(key.private_bytes_raw())


def load_public(path: str | os.PathLike[str]) -> PublicKey:
    """Read the public half of a key pair.

    Raises:
        KeyFileError: It cannot be read, is not a public Ed25519 key, or is one whose signatures say nothing.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw, _ = _read(path)
    try:
        key = pem.load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path}: found {_kind(raw)}, expected a public Ed25519 key in PEM; {_AGAIN}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path}: found {type(key).__name__}, expected a public Ed25519 key; {_AGAIN}")
    public = PublicKey(key.public_bytes_raw())
    if int.from_bytes(public.raw, "little") & (1 << 255) - 1 in _SMALL_ORDER:
        raise KeyFileError(f"{path}: found a key under which anything verifies, expected one of a pair; {_AGAIN}")
    return public


def _kind(raw: bytes) -> str:
    """What a file that is no key of the wanted kind seems to be, without quoting it: it may be a secret."""
    for mark, kind in ((b"PRIVATE KEY-----", "a private key"), (b"PUBLIC KEY-----", "a public key")):
        if mark in raw:
            return f"what should be {kind}"
    return f"{len(raw)} bytes of something else"


def _read(path: str | os.PathLike[str]) -> tuple[bytes, int]:
    """Content and permission bits of a key file."""
    # Without waiting: a pipe would never end.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags), "rb") as handle:
            found = os.fstat(handle.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise KeyFileError(f"{path}: found no regular file, expected a key; {_AGAIN}")
            raw = handle.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}; {_AGAIN}") from error
    if len(raw) > MAX_KEY_FILE_BYTES:
        raise KeyFileError(f"{path}: found more than {MAX_KEY_FILE_BYTES} bytes, expected a key; {_AGAIN}")
    return raw, stat.S_IMODE(found.st_mode)
