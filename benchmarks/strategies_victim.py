"""Processes that walk in persistent weight memory until somebody kills them.

``python -m benchmarks.strategies_victim`` reads one plan, then makes a fresh process for every line that it is sent,
and says how that one fared: its id, then what its start found, then that it has ended. A process walks between two
modes, there and back, by the strategy it is told, for as long as it lives; all of them by the device's own engine,
journal included. Rows are written in pieces that take time, as cells of a crossbar or of flash do, so a kill finds one
half written more often than not.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import sys
import time
import traceback
from itertools import cycle
from typing import Final

import msgspec
import numpy as np

from device_profiles import Profile
from runtime.memory.files import Files
from runtime.memory.state_directory import StateDirectory
from runtime.plan.bundle import Bundle, read
from runtime.simulation.simulator import compile_strategy, ends_of
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from runtime.walking.rows import Floats

PIECES: Final = 4
INCREMENTS: Final = 20
"""Of a walk: between two, the journal is written."""
UNPACED: Final = 1e9
LINE_BYTES: Final = 100
LOOK_S: Final = 0.02


class SlowCells(Files):
    """A file system on whose mapped memory numbers are written a few at a time.

    Args:
        pause_s: Seconds that a piece of a row takes.
    """

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s

    def store(self, cells: Floats, values: Floats) -> None:
        """Write numbers into mapped memory, piece after piece."""
        for place in np.array_split(np.arange(len(cells)), min(PIECES, len(cells))):
            part = slice(int(place[0]), int(place[-1]) + 1)
            np.copyto(cells[part], values[part])
            time.sleep(self._pause_s)


def scripted(bundle: Bundle, ends: tuple[str, str], name: str) -> Bundle:
    """The plan with one transition, written by a strategy."""
    move = next(one for one in bundle.transitions if one.ends == ends)
    table, chunks = compile_strategy(bundle, move, name, *ends_of(bundle, move, name))
    return dataclasses.replace(bundle, table=table, transitions=(dataclasses.replace(move, chunks=chunks),))


def device(bundle: Bundle) -> Profile:
    """The plan's device with room for any strategy's rows, and no pace but that of its cells."""
    chunks = bundle.transitions[0].chunks
    budget = max(chunks.total_bytes(bundle.table) // INCREMENTS, *(layer.row_bytes for layer in bundle.table.layers))
    profile = bundle.profile
    return msgspec.structs.replace(
        profile,
        threads=1,
        memory=msgspec.structs.replace(profile.memory, weights_bytes=1 << 40),
        bank=msgspec.structs.replace(profile.bank, snap=False),
        writes=msgspec.structs.replace(
            profile.writes, bytes_per_increment=budget, increments_per_second=UNPACED, stall_budget_ms=UNPACED
        ),
    )


def walk(bundle: Bundle, home: str, pause_s: float) -> None:
    """Bring an interrupted walk to its end, say how that went, and walk there and back for ever."""
    left, reached = bundle.transitions[0].ends
    with Net(bundle, device(bundle), "persistent", home=StateDirectory(home, SlowCells(pause_s))) as net:
        recovery = None if net.recovery is None else net.recovery.wait()
        _say(ready=net.mode, recovery=None if recovery is None else recovery.outcome.value)
        for mode in cycle((reached, left) if net.mode == left else (left, reached)):
            result = net.switch(mode).wait()
            if result.outcome is not Outcome.COMMITTED:
                raise RuntimeError(
                    f"switch to {mode}: found {result.outcome.value}, expected committed: {result.reason}"
                )


def main(path: str, left: str, reached: str, name: str, home: str, pause_s: float) -> None:
    """Make a process for every line of the standard input; who closes it ends the last one too."""
    bundle = scripted(read(path), (left, reached), name)
    while os.read(sys.stdin.fileno(), LINE_BYTES):
        child = os.fork()
        if child == 0:
            try:
                walk(bundle, home, pause_s)
            except BaseException:  # noqa: BLE001 - whatever it is, the one who waits is told
                _say(failed=traceback.format_exc()[-1000:])
            os._exit(1)
        _say(pid=child)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            # Nothing is asked for while one lives: something to be read is the end of the one who asks.
            if select.select([sys.stdin], [], [], LOOK_S)[0]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
        _say(ended=child)


def _say(**words: object) -> None:
    os.write(sys.stdout.fileno(), json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
