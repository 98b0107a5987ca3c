"""`geoshift serve` as people run it: a process of its own, on loopback, asked with a token."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from device_profiles import Profile, loader
from runtime.plan.bundle import Bundle

START_S = 60.0
STOP_S = 30.0


@dataclass(frozen=True)
class Served:
    """A service that serves.

    Attributes:
        host: Where.
        port: Where.
        token: Lets its holder ask and switch.
        process: Its id.
        pinned: Whether it and this process have cores of their own.
    """

    host: str
    port: int
    token: str
    process: int
    pinned: bool


@contextmanager
def serving(bundle: Bundle, profile: Profile, policy: str, folder: Path) -> Iterator[Served]:
    """Serve a bundle until the context closes.

    Where there are two cores or more, the last of them is this process's for as long, and the others are the
    service's: what callers compute is not to be seen in what they measure.

    Args:
        bundle: The plan.
        profile: Device to run as.
        policy: Bank policy.
        folder: An empty one, for the profile, the state and the log.
    """
    settings = folder / "profile.yaml"
    # Every JSON text is YAML.
    settings.write_text(json.dumps(loader.as_builtins(profile)))
    state = folder / "state"
    token = _geoshift("tokens", "add", "callers", "--scope", "switch", "--state", str(state)).strip()
    cores = allowed_cores()
    here, there = cores[-1:], cores[:-1]
    command = [
        sys.executable, "-m", "geoshift", "serve", str(bundle.path), "--profile", str(settings), "--policy", policy,
        "--port", "0", "--no-announce", "--state", str(state),
    ]  # fmt: skip
    log = folder / "log"
    if there:
        _keep_to(there)  # inherited by the service
    try:
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=sink,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        if there:
            _keep_to(here)
        try:
            where = urlsplit(_said(process, log))
            assert where.hostname is not None
            assert where.port is not None
            yield Served(where.hostname, where.port, token, process.pid, bool(there))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)
    finally:
        if there:
            _keep_to(cores)
    if process.returncode != 0:
        raise RuntimeError(f"geoshift serve: found exit status {process.returncode}, expected 0: {log.read_text()}")


def device(bundle: Bundle, *, snap: bool, bytes_per_increment: int | None = None) -> Profile:
    """The plan's own profile for one core: one thread, and where asked for other increments."""
    profile = bundle.profile
    writes = profile.writes
    if bytes_per_increment is not None:
        writes = msgspec.structs.replace(writes, bytes_per_increment=bytes_per_increment)
    bank = msgspec.structs.replace(profile.bank, snap=snap)
    return msgspec.structs.replace(profile, threads=1, writes=writes, bank=bank)


def allowed_cores() -> list[int]:
    """Cores this process may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _keep_to(cores: list[int]) -> None:
    """All threads of this process that are there: other libraries' pools among them."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def _said(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it serves, from its log."""
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        for line in log.read_text().splitlines(keepends=True):
            if line.endswith("\n") and (said := json.loads(line))["event"] == "serving":
                return str(said["url"])
        time.sleep(0.02)
    raise RuntimeError(f"geoshift serve: did not serve within {START_S:.0f} s: {log.read_text()}")


def _geoshift(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "geoshift", *arguments], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"geoshift {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
