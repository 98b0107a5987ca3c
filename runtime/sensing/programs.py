"""Runs a program of the profile's allow-list to its end, or kills it."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from contextlib import suppress
from typing import Final

from runtime.errors import CommandFailed

MOST_BYTES: Final = 4096
"""Of a program's output that count: a state is a word or a number."""
_PIECE_BYTES: Final = 1 << 16
_ENVIRONMENT: Final = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
"""All that a program inherits: nothing that the service was given may leak into it."""


def run(name: str, argv: tuple[str, ...], timeout_s: float) -> str:
    """Run a program and give what it printed, without the white space around it. No shell reads its words.

    Args:
        name: What the profile calls it.
        argv: Program, by its absolute path, and arguments.
        timeout_s: Seconds after which it is killed, with all that it started.

    Raises:
        CommandFailed: It cannot be started, ends with another status than 0, or takes too long.
    """
    try:
        # A session of its own, so that what it started can be killed with it.
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        ) as child:
            try:
                printed, said = _heard(child, timeout_s)
            except subprocess.TimeoutExpired as error:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                raise CommandFailed(
                    f"command {name}: found it at work after {timeout_s:g} s, expected its end; it was killed: "
                    "look at what it waits for, or raise its timeout_s"
                ) from error
    except OSError as error:
        raise CommandFailed(
            f"command {name}: {argv[0]}: {error.strerror}; expected a program that can be run: correct its path"
        ) from error
    if child.returncode != 0:
        words = said[-200:].decode("utf-8", "replace").strip()
        raise CommandFailed(
            f"command {name}: found exit status {child.returncode}, expected 0; run it by hand, it said {words!r}"
        )
    return printed.decode("utf-8", "replace").strip()


def _heard(child: subprocess.Popen[bytes], timeout_s: float) -> tuple[bytes, bytes]:
    """The begin of what a program prints and the end of its errors; the rest is read too, and kept nowhere.

    Raises:
        TimeoutExpired: It is still at work, or something that it started holds its output.
    """
    assert child.stdout is not None
    assert child.stderr is not None
    printed, said = bytearray(), bytearray()
    end_s = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as ready:
        for stream in (child.stdout, child.stderr):
            ready.register(stream, selectors.EVENT_READ)
        while ready.get_map():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise subprocess.TimeoutExpired(child.args, timeout_s)
            for key, _ in ready.select(left_s):
                piece = os.read(key.fd, _PIECE_BYTES)
                if not piece:
                    ready.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    printed += piece[: MOST_BYTES - len(printed)]
                else:
                    said = (said + piece)[-MOST_BYTES:]
    child.wait(max(0.0, end_s - time.monotonic()))
    return bytes(printed), bytes(said)
