"""Find devices on the local network. What they say of themselves is a stranger's word until they are logged in to."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from runtime.discovery import addresses, mdns
from runtime.discovery.device_record import SERVICE_TYPE
from runtime.discovery.mdns import Service

MAX_DEVICES: Final = 1000
"""Devices that are kept apart; a network that shows more is not believed."""
MAX_TEXT: Final = 255
KEYS: Final = ("txtvers", "id", "api", "ver", "prof", "mode", "st", "auth", "tls")
POLL_S: Final = 0.2
"""How soon ``watch`` notices that it is to stop."""


class Found(Struct, frozen=True, kw_only=True):
    """A device that announces itself.

    Everything but ``name``, ``host``, ``port`` and ``addresses`` is empty where it says nothing, or nothing printable.
    """

    name: str
    host: str
    port: int
    addresses: tuple[str, ...]
    """IPv4 first; link-local ones last, with their zone."""
    txtvers: str = ""
    id: str = ""
    api: str = ""
    ver: str = ""
    prof: str = ""
    mode: str = ""
    st: str = ""
    auth: str = ""
    tls: str = ""


class Lost(Struct, frozen=True, kw_only=True):
    """A device that said goodbye, or was not heard of for two minutes."""

    name: str


def discover(timeout_s: float = 3.0, interfaces: Sequence[str] = ()) -> Iterator[Found]:
    """Look around for a while and yield devices as they are found, and again when what they say changes.

    Args:
        timeout_s: How long to look.
        interfaces: Names of network interfaces; without any, all but loopback.

    Raises:
        NoMulticast: The network does not let it.
    """
    end_s = time.monotonic() + timeout_s
    for one in watch(lambda: time.monotonic() >= end_s, interfaces):
        if isinstance(one, Found):
            yield one


def watch(stopped: Callable[[], bool], interfaces: Sequence[str] = ()) -> Iterator[Found | Lost]:
    """Yield devices as they come, change and go, until told to stop.

    Args:
        stopped: Asked several times a second.
        interfaces: Names of network interfaces; without any, all but loopback.

    Raises:
        NoMulticast: The network does not let it.
    """
    known: dict[str, Found] = {}
    with mdns.browse(addresses.choose(addresses.present(), interfaces)) as take:
        while not stopped():
            news = take(POLL_S)
            if news is None:
                continue
            found = None if news.service is None else parse(news.instance, news.service)
            if found is None:
                if (gone := known.pop(news.instance, None)) is not None:
                    yield Lost(name=gone.name)
            elif found != known.get(news.instance) and (news.instance in known or len(known) < MAX_DEVICES):
                known[news.instance] = found
                yield found


def parse(instance: str, service: Service) -> Found | None:
    """What a stranger's records say, safe to print; None if they make no device that could be called.

    Args:
        instance: Full name of the service.
        service: Its records.
    """
    name = instance.removesuffix(f".{SERVICE_TYPE}")
    host = service.host.removesuffix(".")
    usable = _sorted(service.addresses)
    if not (_plain(name) and _plain(host) and 1 <= service.port <= 65535 and usable):
        return None
    # Keys are compared without regard to case, and the first of several counts (RFC 6763, section 6.4).
    said: dict[str, str] = {}
    for key, value in service.txt.items():
        said.setdefault(key.decode("ascii", "replace").lower(), _text(value))
    return Found(name=name, host=host, port=service.port, addresses=usable, **{key: said.get(key, "") for key in KEYS})


def _text(value: bytes | None) -> str:
    """A value of the TXT record; nothing where it is not text that can be printed."""
    try:
        text = (value or b"").decode()
    except UnicodeDecodeError:
        return ""
    return text if _plain(text) else ""


def _plain(text: str) -> bool:
    return 0 < len(text) <= MAX_TEXT and text.isprintable()


def _sorted(found: Sequence[str]) -> tuple[str, ...]:
    """Addresses that can be called, the likeliest to work first."""
    parsed = []
    for text in found:
        try:
            one = ipaddress.ip_address(text)
        except ValueError:
            continue
        if not (one.is_multicast or one.is_unspecified):
            parsed.append((one.is_link_local, one.version, text))
    return tuple(text for _, _, text in sorted(set(parsed)))
