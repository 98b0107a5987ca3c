"""Whoever looks after the device hears from it, however many others wait for an answer."""

import asyncio
import contextlib
import os
import socket
import threading

import pytest

from runtime import private_files
from runtime.service.readiness import Condition, Readiness
from runtime.service.service import CONTROL_LINE
from tests.runtime.threads import PATIENCE_S, until
from tests.service.running import running


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """What systemd hears, which wants to hear something every tenth of a second."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(PATIENCE_S)
        listener.bind(os.fspath(path))
        yield listener


@contextlib.contextmanager
def full_line(device, tokens):
    """Keep as many calls of the device waiting as may wait."""
    host, _, port = device.url.removeprefix("http://").rpartition(":")
    body = b'{"name": "x", "scope": "read"}'
    head = (
        f"POST /v1/tokens HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {device.token()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        with private_files.locked(tokens):
            for _ in range(CONTROL_LINE):
                one = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
                one.sendall(head.encode() + body)
            until(lambda: device.service.control.busy == CONTROL_LINE)
            yield
        until(lambda: not device.service.control.busy)


def test_a_full_line_of_calls_keeps_neither_watchdog_nor_readiness_waiting(plan, tmp_path, systemd):
    with running(plan, tmp_path / "service", config={"limits": {"connections": 1024}}) as device:
        with device.http() as http, full_line(device, tmp_path / "service" / "tokens.json"):
            assert http.get("/v1/status").status_code == 429
            assert http.get("/readyz").status_code == 200
            assert http.get("/v2/health/ready").status_code == 200
            systemd.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while systemd.recv(100):
                    pass
            systemd.settimeout(PATIENCE_S)
            for _ in range(3):
                assert b"WATCHDOG=1" in systemd.recv(100)
        assert b"WATCHDOG=1" in systemd.recv(100)
        assert not any("watchdog" in line.event for line in device.service.log.kept())


def test_all_who_ask_at_once_share_one_question_and_who_gives_up_spoils_it_for_nobody():
    class Slow:
        """A device whose answer is waited for."""

        phase, answers = "idle", True

        def __init__(self):
            self.asked, self.may = 0, threading.Event()

        def status(self):
            self.asked += 1
            assert self.may.wait(PATIENCE_S)
            return self

    async def go():
        device = Slow()
        readiness = Readiness(device)
        asks = [asyncio.create_task(readiness.ask()) for _ in range(500)]
        await asyncio.sleep(0)
        asks[0].cancel()
        await asyncio.sleep(0)
        device.may.set()
        assert await asyncio.gather(*asks[1:]) == [Condition(well=True, ready=True)] * 499
        assert device.asked == 1
        device.answers = False
        assert await readiness.ask() == Condition(well=True, ready=False)
        device.phase = "failed"
        assert await readiness.ask() == Condition(well=False, ready=False)
        readiness.close()

    asyncio.run(go())
