"""What the handlers of a service share."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from litestar.di import NamedDependency

from runtime.device.device import Device
from runtime.device.views import HoldView, OperationView
from runtime.service.auth import Door
from runtime.service.budget import Budget
from runtime.service.certificate import Certificate
from runtime.service.config import Config
from runtime.service.events import Streams
from runtime.service.feed import Feed
from runtime.service.idempotency import Once
from runtime.service.logs import ServiceLog
from runtime.service.metrics import Metrics
from runtime.service.pairing import Pairing
from runtime.service.rate import Buckets
from runtime.service.readiness import Readiness
from runtime.service.sessions import Sessions
from runtime.service.tokens import Tokens
from runtime.service.workers import Workers

TOKENS = "tokens.json"
PAIRING = "pairing.json"
CONTROL_THREADS = 8
"""Calls of the device that change or read it take microseconds; eight of them at once are many."""
CONTROL_LINE = 64


@dataclass(frozen=True)
class Service:
    """All that a service is made of.

    Attributes:
        device: What is served.
        config: How.
        door: Who is let in.
        tokens: The tokens.
        sessions: Browsers' sessions.
        pairing: The one-time code.
        certificate: What clients pin.
        feed: Events, on the event loop.
        streams: Open streams of events.
        once_operation: Switches by idempotency key.
        once_hold: Holds by idempotency key.
        inference: Threads that answer.
        bodies: Memory for what they are asked.
        control: Threads for all other calls of the device.
        readiness: Whether the device answers.
        metrics: What Prometheus reads.
        log: The service's log.
        following: What is waited for on the event loop, to be logged.
        model: Name of the model in the Open Inference Protocol.
    """

    device: Device
    config: Config
    door: Door
    tokens: Tokens
    sessions: Sessions
    pairing: Pairing
    certificate: Certificate
    feed: Feed
    streams: Streams
    once_operation: Once[OperationView | None]
    once_hold: Once[HoldView]
    inference: Workers
    bodies: Budget
    control: Workers
    readiness: Readiness
    metrics: Metrics
    log: ServiceLog
    model: str
    following: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def version(self) -> str:
        """The model's version: the bundle's release."""
        return str(self.device.bundle.manifest.release)

    def close(self) -> None:
        """Let the threads go."""
        self.inference.close()
        self.control.close()
        self.readiness.close()


Here = NamedDependency[Service]
"""How a handler asks for the service it belongs to."""


def assemble(device: Device, config: Config, folder: Path, certificate: Certificate, log: ServiceLog) -> Service:
    """A service around a device.

    Args:
        device: What is served; it stays the caller's to close.
        config: How.
        folder: Where tokens and codes are kept.
        certificate: What clients pin.
        log: Where it writes.
    """
    limits = config.limits
    tokens = Tokens(folder / TOKENS)
    sessions = Sessions(tokens.knows)
    door = Door(
        tokens,
        sessions,
        Buckets(limits.failures_per_minute / 60, max(1, int(limits.failures_per_minute))),
        Buckets(limits.requests_per_second, limits.requests_burst),
        required=config.auth,
    )
    feed = Feed(device.events())
    model = config.model_name or _plain(device.bundle.manifest.model.id)
    labels = {"version": version(), "profile": device.profile.name, "model": model}
    return Service(
        device=device,
        config=config,
        door=door,
        tokens=tokens,
        sessions=sessions,
        pairing=Pairing(folder / PAIRING),
        certificate=certificate,
        feed=feed,
        streams=Streams(feed, limits.streams),
        once_operation=Once(),
        once_hold=Once(),
        inference=Workers("infer", min(device.profile.queue_limit + 1, limits.inferences)),
        bodies=Budget(limits.memory_bytes),
        control=Workers("control", CONTROL_LINE, threads=CONTROL_THREADS),
        readiness=Readiness(device),
        metrics=Metrics(device, labels),
        log=log,
        model=model,
    )


def version() -> str:
    """Of geoshift."""
    return metadata.version("geoshift")


def _plain(name: str) -> str:
    """A model's name as a path of a URL can have it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "model"
