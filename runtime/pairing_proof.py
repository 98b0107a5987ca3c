"""What a one-time code proves, and to whom: the part of pairing that device and client share.

The code never travels. Both sides stretch it with the certificate's digest as salt and answer a fresh number with it.
Somebody in the middle shows the client another certificate, so the client's proof is worthless at the device; and the
client keeps no token unless the device has proved the code too. Of 2^60 codes a device looks at 2^24 guesses at most,
and a proof that was overheard takes longer to guess back than the code lives: 60 bits at 2^14 rounds of scrypt.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, Literal

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no letter that looks like a digit."""
CODE_LENGTH: Final = 12


def new_code() -> str:
    """A fresh code in three groups, as people read it out."""
    letters = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
    return "-".join(letters[start : start + 4] for start in range(0, CODE_LENGTH, 4))


def normal(code: str) -> str:
    """The code without the ways in which people write it: case, spaces, dashes, O for 0, I or L for 1."""
    plain = "".join(one for one in code.upper() if one.isalnum())
    return plain.translate(str.maketrans("OIL", "011"))


def stretch(code: str, certificate_sha256: str) -> bytes:
    """Key that both sides have when both know the code and see the same certificate.

    Args:
        code: As a person typed it.
        certificate_sha256: Digest of the certificate that this side sees, in hexadecimal.
    """
    salt = bytes.fromhex(certificate_sha256)
    return hashlib.scrypt(normal(code).encode(), salt=salt, n=1 << 14, r=8, p=1, maxmem=1 << 26, dklen=32)


def proof(key: bytes, side: Literal["client", "device"], nonce: bytes) -> bytes:
    """Proof that a side has the key, fresh through the client's nonce."""
    return hmac.digest(key, b"geoshift pairing " + side.encode() + b" " + nonce, "sha256")
