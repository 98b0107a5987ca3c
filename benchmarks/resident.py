"""Memory of one process in which a network answers, at rest and while it walks. ``memory`` runs it, see there."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import msgspec
import psutil

from benchmarks.bare import answer
from runtime.plan.bundle import read
from runtime.walking.net import Net
from runtime.walking.operation import Outcome

LOOK_S = 0.002
"""Between two looks at what is resident: no faster can a process touch 20 MB."""


@dataclass
class Peaks:
    """The most that was seen, in bytes; own is what no file stands for, and no other process changes."""

    resident: int = 0
    own: int = 0
    looks: int = 0
    own_looks: list[int] = field(default_factory=list)


def measure(path: str, policy: str, snap: bool, rest_s: float, tours: int) -> dict[str, Any]:
    """Open, answer for a while at rest, then walk the tour and answer on.

    Args:
        path: Of the bundle.
        policy: Bank policy.
        snap: Whether modes are answered from their compact graphs.
        rest_s: Seconds at rest.
        tours: How often the tour is walked.
    """
    bundle = read(path)
    profile = msgspec.structs.replace(
        bundle.profile, threads=1, bank=msgspec.structs.replace(bundle.profile.bank, snap=snap)
    )
    moved = sum(layer.row_bytes * layer.units for layer in bundle.table.layers)
    samples = cycle(range(len(bundle.evaluation)))
    with Net(bundle, profile, policy) as net:

        def ask() -> None:
            at = next(samples)
            net.infer(bundle.evaluation.inputs[at : at + 1])

        for _ in range(20):
            ask()
        gc.collect()
        until = time.monotonic() + rest_s
        rest = _watched(ask, lambda: time.monotonic() < until)
        walks = islice(cycle(move.ends[1] for move in bundle.transitions), tours * len(bundle.transitions))
        under_way = [net.switch(next(walks))]

        def walking() -> bool:
            if under_way[0].result is not None:
                result = under_way[0].wait()
                assert result.outcome is Outcome.COMMITTED, result.reason
                if (target := next(walks, None)) is None:
                    return False
                under_way[0] = net.switch(target)
            return True

        walk = _watched(ask, walking)
    return {
        "moved_bytes": moved,
        "rest": {"resident": rest.resident, "own": sorted(rest.own_looks)[len(rest.own_looks) // 2]},
        "walking": {"resident": walk.resident, "own": walk.own},
        "looks": [rest.looks, walk.looks],
    }


def _watched(ask: Callable[[], None], goes_on: Callable[[], bool]) -> Peaks:
    """Ask for as long as it goes on, while a thread looks at the memory."""
    process, peaks, ends = psutil.Process(), Peaks(), threading.Event()

    def look() -> None:
        while not ends.wait(LOOK_S):
            memory = process.memory_info()
            peaks.resident = max(peaks.resident, memory.rss)
            peaks.own_looks.append(memory.rss - memory.shared)
            peaks.own = max(peaks.own, peaks.own_looks[-1])
            peaks.looks += 1

    watcher = threading.Thread(target=look, name="watcher")
    watcher.start()
    try:
        while goes_on():
            ask()
    finally:
        ends.set()
        watcher.join()
    return peaks


if __name__ == "__main__":
    answer(measure)
