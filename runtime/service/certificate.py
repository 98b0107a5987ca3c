"""The device's certificate: made on the device, signed by itself, pinned by its digest. The one file with X.509.

Nobody vouches for a board in a cupboard, so clients do not ask who signed the certificate but whether it is the one
they paired with. It is valid from 1970 to the end of 9999 (RFC 5280's date for no end), since a board may wake up
without knowing the date.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime import private_files

CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"
MAX_BYTES: Final = 1 << 16
_BEGIN: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_END: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Certificate:
    """A certificate and where its key is.

    Attributes:
        certificate: PEM file.
        key: PEM file of the private key.
        sha256: Digest of the certificate's DER form, in hexadecimal: what clients pin.
    """

    certificate: Path
    key: Path
    sha256: str


def ensure(folder: Path) -> Certificate:
    """The certificate in a folder, made if there is none.

    Raises:
        PrivateFileError: What is there is damaged, or others may read it.
    """
    private_files.folder(folder)
    certificate, key = folder / CERTIFICATE, folder / KEY
    with private_files.locked(certificate), private_files.locked(key):
        held = private_files.read(certificate, MAX_BYTES)
        if held is None or private_files.read(key, MAX_BYTES) is None:
            made_key, held = _make()
            # The key first: a certificate without its key would be pinned and never work.
            private_files.write(key, made_key)
            private_files.write(certificate, held)
    try:
        der = ssl.PEM_cert_to_DER_cert(held.decode("ascii"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    except (ValueError, ssl.SSLError) as error:
        raise private_files.PrivateFileError(
            f"{certificate}: {error}; remove it and {key.name}, then pair every client again"
        ) from error
    return Certificate(certificate, key, hashlib.sha256(der).hexdigest())


def _make() -> tuple[bytes, bytes]:
    """A fresh private key and a certificate for it, both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "geoshift device")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        # Not an authority: the key cannot vouch for another certificate.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("geoshift.local")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)
