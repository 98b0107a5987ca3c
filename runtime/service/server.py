"""Runs the service: binds first, says that it is ready, and stops in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import uvicorn

from runtime.service.app import application
from runtime.service.certificate import Certificate
from runtime.service.connection import bounded
from runtime.service.health import is_ready
from runtime.service.listening import Place
from runtime.service.logs import Bridge
from runtime.service.notify import notify, watchdog_period_s
from runtime.service.service import Service

GRACE_S: Final = 5
"""For answers under way when the service stops."""


LOGGERS: Final = ("uvicorn.error", "geoshift")
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
        super().__init__(
            uvicorn.Config(
                application(service),
                http=bounded(limits),
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
        bridge = Bridge(self._service.log)
        loggers = [logging.getLogger(name) for name in LOGGERS]
        for one in loggers:
            one.addHandler(bridge)
        try:
            with asyncio.Runner(loop_factory=lambda: _Loop(handshake_s)) as runner:
                runner.run(self.serve(sockets=[self._place.socket]))
        finally:
            for one in loggers:
                one.removeHandler(bridge)
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

    async def shutdown(self, sockets: Any = None) -> None:
        """Send listeners home first: their streams would last until the end of the grace."""
        notify("STOPPING=1")
        if self._watchdog is not None:
            self._watchdog.cancel()
            with suppress(asyncio.CancelledError):
                await self._watchdog
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
        while await is_ready(self._service):
            notify("WATCHDOG=1")
            await asyncio.sleep(period_s)
        self._service.log.write("error", "device failed", detail="the watchdog is left to restart the service")


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
