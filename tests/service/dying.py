"""System calls of private files, counted, at one of which the process ends.

Run as ``python -m tests.service.dying WHAT FOLDER NUMBER`` it does one thing of pairing and really kills itself there.
"""

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from runtime.pairing_proof import proof
from runtime.service.pairing import Pairing, PairingRefused
from runtime.service.tokens import Scope, Tokens
from tests.runtime.disks import Killed

MINE = "aa" * 32
NONCE = b"n" * 32
CALLS = ("open", "fsync", "replace", "unlink")


class Dying:
    """Counts calls, and ends the process before one of them, or half through a write.

    Args:
        number: Which call; 0 for none.
        half: Whether a write is done in half first.
    """

    def __init__(self, number=0, half=False):
        self.number, self.half = number, half
        self.names = []
        self.dead = False

    def step(self, name, half=None):
        if self.dead:
            raise Killed
        self.names.append(name)
        if len(self.names) == self.number:
            if self.half and half is not None:
                half()
            self.dead = True
            self.die()

    def die(self):
        raise Killed

    @contextmanager
    def watching(self):
        """All calls are counted until the context closes."""
        real = {name: getattr(os, name) for name in CALLS}
        fdopen = os.fdopen

        def watched(name):
            def call(*arguments, **options):
                self.step(name)
                return real[name](*arguments, **options)

            return call

        def opened(handle, mode, **options):
            # Unbuffered, so that a write is a write.
            if mode == "rb":
                return fdopen(handle, mode, **options)
            return _File(fdopen(handle, mode, buffering=0), self)

        with patch.multiple(os, fdopen=opened, **{name: watched(name) for name in CALLS}):
            yield self


class _File:
    def __init__(self, file, dying):
        self._file, self._dying = file, dying

    def write(self, content):
        self._dying.step("write", lambda: self._file.write(content[: len(content) // 2]))
        self._file.write(content)

    def flush(self):
        """Nothing is buffered."""

    def fileno(self):
        return self._file.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def pairing(folder, **limits):
    return Pairing(folder / "pairing.json", lambda: 0.0, lambda: "this boot", **limits)


def act(what, folder, key):
    """One thing that pairing does."""
    limits = {"most_wrong": 1} if what == "last" else {}
    one, tokens = pairing(folder, **limits), Tokens(folder / "tokens.json")
    if what == "open":
        return one.open(MINE, Scope.ADMIN)
    answer = proof(key, "client", NONCE) if what == "admit" else b"wrong"
    try:
        return one.admit(NONCE, answer, "desk", tokens)
    except PairingRefused as error:
        return error


class Deadly(Dying):
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with Deadly(int(sys.argv[3])).watching():
        act(sys.argv[1], Path(sys.argv[2]), bytes.fromhex(sys.stdin.read()))
