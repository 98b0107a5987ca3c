"""Tells systemd that the service is ready, alive and stopping, where it asked to be told."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send a state such as ``READY=1``; whether there was somebody to send it to. Never waits, never raises.

    Args:
        state: As ``sd_notify(3)`` has it.
        environment: Where systemd says where to send it.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            # An abstract address begins with a zero byte, which the environment cannot hold.
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.send(state.encode())
    except OSError:
        # Whoever asked is gone, or does not read, or no descriptor is left: no reason to stop serving, nor to wait.
        return False
    return True


def watchdog_period_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often systemd wants to hear from this process, halved as its manual advises; None if it does not."""
    wanted = environment.get("WATCHDOG_USEC", "")
    whose = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not wanted.isdecimal() or int(wanted) == 0 or whose != str(os.getpid()):
        return None
    return int(wanted) / 2e6
