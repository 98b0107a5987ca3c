"""A real device behind a real server, on a port that the system chose."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import StringIO

import httpx

from runtime.desktop.pinning import context
from runtime.device.device import Device
from runtime.memory.state_directory import StateDirectory
from runtime.plan.bundle import read
from runtime.service.certificate import ensure
from runtime.service.config import Config, override
from runtime.service.listening import bind
from runtime.service.logs import ServiceLog
from runtime.service.server import Server
from runtime.service.service import Service, assemble
from runtime.service.tokens import Scope
from runtime.walking.net import Net
from tests.runtime.bundles import profile
from tests.runtime.threads import PATIENCE_S

FAST = {"writes__increments_per_second": 1e9, "writes__stall_budget_ms": 1e9}
STILL = {"writes__increments_per_second": 0.001, "writes__stall_budget_ms": 1e9}
"""The first increment is written at once, the next one in a quarter of an hour: a walk that is under way for sure."""


@cache
def bundle(path):
    return read(path)


@dataclass
class Running:
    """A service that serves, and ways in."""

    service: Service
    server: Server
    url: str
    stream: StringIO

    @property
    def log(self):
        """What was logged so far, all of it."""
        assert self.service.log.drain(PATIENCE_S)
        return self.stream

    def token(self, scope=Scope.ADMIN, name="tester"):
        return self.service.tokens.add(name, scope)

    def http(self, scope=Scope.ADMIN, **options):
        """An httpx client, with a token unless the scope is None."""
        headers = {} if scope is None else {"Authorization": f"Bearer {self.token(scope)}"}
        url = self.url
        if url.startswith("unix:"):
            options["transport"] = httpx.HTTPTransport(uds=url.removeprefix("unix:"))
            url = "http://localhost"
        elif url.startswith("https"):
            host, _, port = url.removeprefix("https://").rpartition(":")
            options["verify"] = context(host.strip("[]"), int(port), self.service.certificate.sha256)
        return httpx.Client(
            base_url=url, headers=headers | options.pop("headers", {}), timeout=PATIENCE_S, trust_env=False, **options
        )


@contextmanager
def running(
    bundle_path, folder, *, policy="in-place", config=None, pace=FAST, state=None, trust=None, **profile_changes
):
    """Serve the small bundle until the context closes; with a state directory it takes pushes."""
    home = None if state is None else StateDirectory(state)
    net = Net(bundle(bundle_path), profile(**pace, bank__snap=False, **profile_changes), policy, home=home)
    settings = override(Config(port=0), **(config or {}))
    log = StringIO()
    with Device(net, id="device-under-test", state=state, trust=trust) as device:
        service = assemble(device, settings, folder, ensure(folder), ServiceLog("debug", log))
        place = bind(settings)
        serves = threading.Event()
        server = Server(service, place, serves.set)
        thread = threading.Thread(target=server.run_until_stopped, name="test-server")
        thread.start()
        try:
            assert serves.wait(PATIENCE_S), "the server did not start"
            yield Running(service, server, place.url, log)
        finally:
            server.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the server did not stop"
            service.log.close()
