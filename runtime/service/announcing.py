"""Keeps what the local network is told in step with the device."""

from __future__ import annotations

import logging
import threading
from typing import Final

from runtime.device.device import Device
from runtime.discovery.announce import Announcer, Hints
from runtime.service.certificate import Certificate
from runtime.service.config import Config
from runtime.service.listening import Place, is_loopback
from runtime.service.logs import Bridge, ServiceLog
from runtime.service.service import version

API: Final = "v1,v2"
LOGGERS: Final = ("geoshift.announce", "zeroconf")
"""Whose warnings go into the service's log."""
PERIOD_S: Final = 1.0
"""How often the thread looks whether it should end; events wake it at once."""


class Announcing:
    """Announces a device that others can reach, after it is ready and beside its work.

    Args:
        device: The device.
        place: Where it listens.
        certificate: What clients pin.
        config: Whether and how.
        log: Where trouble goes; it is never more than that.
    """

    def __init__(self, device: Device, place: Place, certificate: Certificate, config: Config, log: ServiceLog) -> None:
        self._device = device
        self._tls = certificate.sha256 if place.tls else ""
        self._auth = "token" if config.auth else "none"
        self._bridge = Bridge(log)
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._announcer: Announcer | None = None
        if config.announce.enabled and place.path is None and not is_loopback(config.host):
            listening, port = place.socket.getsockname()[:2]
            self._announcer = Announcer(port, self._hints(), config.announce, listening=listening)

    def start(self) -> None:
        """Begin; returns at once."""
        if self._announcer is None:
            return
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._bridge)
        self._announcer.start()
        self._thread = threading.Thread(target=self._follow, args=(self._announcer,), name="geoshift-announce")
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        """Withdraw what was announced."""
        self._ends.set()
        if self._announcer is not None:
            self._announcer.close()
        if self._thread is not None:
            self._thread.join()
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._bridge)

    def _follow(self, announcer: Announcer) -> None:
        events = self._device.events()
        last = events.last_id
        announcer.update(self._hints())
        while not self._ends.is_set() and not events.closed:
            found = events.wait(last, PERIOD_S)
            if found:
                last = found[-1].id
                announcer.update(self._hints())

    def _hints(self) -> Hints:
        status = self._device.status()
        return Hints(
            id=self._device.id, api=API, ver=version(), prof=self._device.profile.name, mode=status.mode,
            st=status.phase, auth=self._auth, tls=self._tls,
        )  # fmt: skip
