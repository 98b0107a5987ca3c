"""Looks a device over, as far as one can from outside, and says what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Final

import numpy as np

from device_profiles.errors import GeoshiftError
from runtime.client import Client

SLOW_S: Final = 1.0
"""For one inference, the network included; above it, callers notice."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        ok: Whether it is as it should be.
        detail: What was found, and what to do if it is not.
    """

    name: str
    ok: bool
    detail: str


def examine(connect: Callable[[], Client]) -> list[Finding]:
    """Look at everything; what cannot be looked at because of something before is left out.

    Args:
        connect: Makes a client, or fails with a reason.
    """
    found: list[Finding] = []
    try:
        with connect() as client:
            found.append(Finding("reachable", True, client.url))
            found.extend(_of(client))
    except GeoshiftError as error:
        found.append(Finding("reachable and trusted" if not found else "answers", False, str(error)))
    return found


def _of(client: Client) -> Iterator[Finding]:
    who = client.identity()
    yield Finding("trusted", True, f"as {who.principal}, scope {who.scope}")
    mine = metadata.version("geoshift")
    yield Finding("version", who.version == mine, f"device {who.version}, this machine {mine}")
    ready = client.ready()
    yield Finding("ready", ready, "answers inference" if ready else "does not: look at `geoshift logs`")
    status = client.status()
    failed = status.phase == "failed"
    yield Finding("network", not failed, "failed: restart the service" if failed else f"{status.mode}, {status.phase}")
    for trigger in status.triggers:
        if trigger.error:
            yield Finding(f"trigger {trigger.name}", False, trigger.error)
    power = status.power.provenance.get("power_w")
    yield Finding("power", True, "not known" if power is None else f"{power.basis}: {power.source}")
    yield from _inference(client)


def _inference(client: Client) -> Iterator[Finding]:
    x = np.zeros((1, *client.input_shape()), np.float32)
    begun = time.perf_counter()
    client.infer(x)
    seconds = time.perf_counter() - begun
    yield Finding("inference", seconds < SLOW_S, f"one answer in {seconds * 1e3:.1f} ms, the network included")
