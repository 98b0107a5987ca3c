"""Runs the service: binds first, says that it is ready, and stops in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn

from device_profiles.errors import GeoshiftError
from runtime.service.app import application
from runtime.service.certificate import Certificate
from runtime.service.connection import bounded
from runtime.service.handshakes import Handshakes
from runtime.service.listening import BACKLOG, Place
from runtime.service.logs import Bridge
from runtime.service.notify import notify, watchdog_period_s
from runtime.service.service import Service

GRACE_S: Final = 5
"""For answers under way when the service stops."""


LOGGERS: Final = ("asyncio", "uvicorn.error", "geoshift")
"""What logs in Python's own way, and is taken into the service's log."""


class Server(uvicorn.Server):
    """A server of one service.

    Args:
        service: What it serves.
        place: Where.
        ready: Called once it serves, on the event loop.
    """

    def __init__(self, service: Service, place: Place, ready: Callable[[], None]) -> None:
        limits = service.config.limits
        self.handshakes = Handshakes(limits.handshakes)
        super().__init__(
            uvicorn.Config(
                application(service),
                # That many are accepted at one go, too, before the first of them is looked at.
                backlog=BACKLOG,
                http=bounded(limits, self.handshakes.end),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=limits.keep_alive_s,
                timeout_graceful_shutdown=GRACE_S,
                h11_max_incomplete_event_size=16 << 10,
                ssl_context_factory=(lambda *_: _tls(service.certificate)) if place.tls else None,
            )
        )
        self._service = service
        self._place = place
        self._ready = ready
        self._watchdog: asyncio.Task[None] | None = None

    def run_until_stopped(self) -> None:
        """Serve until a signal or ``stop`` comes."""
        handshake_s = self._service.config.limits.header_s
        listener = self.handshakes.listening(self._place.socket) if self._place.tls else self._place.socket
        bridge = Bridge(self._service.log)
        loggers = [logging.getLogger(name) for name in LOGGERS]
        for one in loggers:
            one.addHandler(bridge)
        try:
            with asyncio.Runner(loop_factory=lambda: _Loop(handshake_s)) as runner:
                runner.run(self.serve(sockets=[listener]))
        finally:
            for one in loggers:
                one.removeHandler(bridge)
            listener.close()
            self._place.close()
            self._service.close()

    def stop(self) -> None:
        """Stop in order; may be called from any thread, and from a signal."""
        self.should_exit = True

    async def startup(self, sockets: Any = None) -> None:
        """Begin to serve, and say so."""
        await super().startup(sockets)
        self._ready()
        notify("READY=1")
        period_s = watchdog_period_s()
        if period_s is not None:
            self._watchdog = asyncio.create_task(self._pat(period_s))
            self._watchdog.add_done_callback(self._patted)

    async def shutdown(self, sockets: Any = None) -> None:
        """Send listeners home first: their streams would last until the end of the grace."""
        notify("STOPPING=1")
        if self._watchdog is not None:
            self._watchdog.cancel()
            await asyncio.wait([self._watchdog])
            error = None if self._watchdog.cancelled() else self._watchdog.exception()
            if error is not None and not isinstance(error, GeoshiftError):
                raise error
        self._service.feed.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal. Uvicorn would raise it again, and the process be gone before the device is closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for one in signals:
            loop.add_signal_handler(one, self.stop)
        try:
            yield
        finally:
            for one in signals:
                loop.remove_signal_handler(one)

    async def _pat(self, period_s: float) -> None:
        """Keep systemd's watchdog quiet for as long as the device answers."""
        # Well is enough: a plan that takes another's place may take longer than the watchdog waits.
        while (await self._service.readiness.ask()).well:
            # Ready once more: systemd did not take the first word if it was not reading at that moment.
            notify("READY=1\nWATCHDOG=1")
            await asyncio.sleep(period_s)
        self._service.log.write("error", "device failed", detail="the watchdog is left to restart the service")

    def _patted(self, watchdog: asyncio.Task[None]) -> None:
        """Say at once why the watchdog is left alone."""
        error = None if watchdog.cancelled() else watchdog.exception()
        if error is not None:
            self._service.log.fault("watchdog is left to restart the service", error)


class _Loop(asyncio.SelectorEventLoop):
    """The event loop, with less patience for a client that begins TLS and goes silent."""

    def __init__(self, handshake_s: float) -> None:
        super().__init__()
        self._handshake_s = handshake_s

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class does."""
        if kwargs.get("ssl") is not None:
            kwargs.setdefault("ssl_handshake_timeout", self._handshake_s)
        return await super().create_server(*args, **kwargs)


def _tls(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A client that pins the certificate is of this project; none of them needs anything older.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context
