"""Networks that a test makes for itself: two namespaces with a cable between them, where the system lets it."""

import ctypes
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

CLONE_NEWNET = 0x40000000
_IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Namespace:
    """One machine of a network; entered, everything that this thread opens or starts is on it."""

    def __init__(self, name):
        self.name = name

    def ip(self, *words):
        subprocess.run([_IP, "-n", self.name, *words], check=True, capture_output=True)

    @contextmanager
    def entered(self):
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield self
            finally:
                assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


@contextmanager
def made(count):
    """New namespaces, without an address, not even loopback's."""
    names = [f"gs{uuid4().hex[:10]}" for _ in range(count)]
    try:
        for name in names:
            subprocess.run([_IP, "netns", "add", name], check=True, capture_output=True)
        yield [Namespace(name) for name in names]
    finally:
        for name in names:
            subprocess.run([_IP, "netns", "delete", name], check=False, capture_output=True)


@contextmanager
def cabled():
    """Two machines: ``eth`` of the first is 10.9.0.1 and fd09::1, that of the second 10.9.0.2 and fd09::2."""
    with made(2) as (one, other):
        one.ip("link", "add", "eth", "type", "veth", "peer", "name", "eth", "netns", other.name)
        for number, space in enumerate((one, other), 1):
            space.ip("link", "set", "lo", "up")
            space.ip("address", "add", f"10.9.0.{number}/24", "dev", "eth")
            space.ip("address", "add", f"fd09::{number}/64", "dev", "eth", "nodad")
            space.ip("link", "set", "eth", "addrgenmode", "none")
            space.ip("link", "set", "eth", "up")
        yield one, other


def possible():
    """Whether this machine lets us make them."""
    if _IP is None or not Path("/proc/thread-self/ns/net").exists():
        return False
    try:
        with cabled() as (one, _), one.entered():
            return True
    except (OSError, subprocess.CalledProcessError, AssertionError):
        return False
