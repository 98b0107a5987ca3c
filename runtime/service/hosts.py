"""Which names a request may call the device by.

A page of another site can have its own name resolve to a board's address and then talk to it as if they were one site.
It cannot choose what the browser writes in Host. So a request must call the device by an address, or by a name that is
known to be its own; and what changes something must not come from the page of another origin.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit


def own_names(names: Iterable[str] = ()) -> frozenset[str]:
    """Names of this device: the host's own, those it is announced by, and those given."""
    host = socket.gethostname().lower()
    short = host.partition(".")[0]
    return frozenset({"localhost", host, short, f"{short}.local", "geoshift.local", *(one.lower() for one in names)})


def is_own(host: str, names: frozenset[str]) -> bool:
    """Whether a Host header calls the device by an address or by one of its names."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name.rstrip(".") in names:
        return True
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def same_origin(origin: str, host: str, scheme: str) -> bool:
    """Whether the page that sends a request came from where the request goes to."""
    return origin.lower() == f"{scheme}://{host}".lower()
