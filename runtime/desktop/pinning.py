"""Trust in exactly one certificate: the one whose digest was pinned. Names, dates and authorities do not matter."""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from typing import Final

from device_profiles.errors import GeoshiftError

TIMEOUT_S: Final = 10.0


class WrongCertificate(GeoshiftError):
    """Somebody else answers at the device's address, or the device has a new certificate. Nothing was sent."""


class Unreachable(GeoshiftError):
    """Nobody answers at the device's address, or not in time. Look whether it is on."""


def seen(host: str, port: int) -> str:
    """The certificate that a server shows, PEM; nothing is said to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is looked at, not trusted
    try:
        with (
            socket.create_connection((host, port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            der = wrapped.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:
        raise Unreachable(f"{host} port {port}: {error}; is the device on, and `geoshift serve` running?") from error
    assert der is not None, "a TLS server shows a certificate"
    return ssl.DER_cert_to_PEM_cert(der)


def digest(pem: str) -> str:
    """SHA-256 of a certificate, in hexadecimal."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def context(host: str, port: int, sha256: str) -> ssl.SSLContext:
    """Context under which only the pinned certificate passes, with the handshake and before anything is sent.

    Args:
        host: Where the device is.
        port: Its port.
        sha256: Pinned digest, in hexadecimal.

    Raises:
        WrongCertificate: Another certificate is shown there.
        Unreachable: Nobody is there.
    """
    pem = seen(host, port)
    found = digest(pem)
    if not hmac.compare_digest(found, sha256):
        raise WrongCertificate(
            f"{host} port {port}: found a certificate {found[:16]}..., expected {sha256[:16]}...; if the device made a "
            "new one, run `geoshift pair` there and `geoshift login` here; if not, somebody sits in between"
        )
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # A pinned certificate is its own proof: the address may be any, and so may the date of either side.
    trusting.check_hostname = False
    trusting.minimum_version = ssl.TLSVersion.TLSv1_3
    trusting.load_verify_locations(cadata=pem)
    return trusting
