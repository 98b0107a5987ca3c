"""A device that switches thousands of times, and what it holds then. ``soak`` runs it, see there."""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from benchmarks.bare import answer
from runtime.device.device import Device
from runtime.memory.state_directory import StateDirectory
from runtime.plan.bundle import read
from runtime.walking.net import Net

NO_PACE = 1e9
PATIENCE_S = 60.0
SETTLE_S = 2.0


def measure(path: str, policy: str, seed: int, warm: int, transitions: int, looks: int) -> dict[str, Any]:
    """Switch to random modes, with a question now and then, and look at the process in between.

    Args:
        path: Of the bundle.
        policy: Bank policy.
        seed: Of the modes and the questions.
        warm: Transitions before the first look.
        transitions: Those that count.
        looks: After the first one, equally far apart.
    """
    bundle = read(path)
    writes = msgspec.structs.replace(bundle.profile.writes, increments_per_second=NO_PACE)
    profile = msgspec.structs.replace(bundle.profile, threads=1, writes=writes)
    rng = np.random.default_rng(seed)
    modes = list(bundle.states)
    inputs = bundle.evaluation.inputs
    with tempfile.TemporaryDirectory(prefix="geoshift-soak-") as folder:
        net = Net(bundle, profile, policy, home=StateDirectory(Path(folder) / "state"))
        with Device(net, id="soaking", state=Path(folder) / "state") as device:
            mode = net.mode

            def walk(count: int) -> None:
                nonlocal mode
                for _ in range(count):
                    mode = str(rng.choice([one for one in modes if one != mode]))
                    asked = device.switch(mode, who="soak")
                    at = int(rng.integers(len(inputs)))
                    device.infer(inputs[at : at + 1])
                    found = device.wait(asked.id, PATIENCE_S)
                    assert found.outcome == "committed", found

            walk(warm)
            seen = [_look(0)]
            begun = time.monotonic()
            for number in range(looks):
                begin, end = (transitions * one // looks for one in (number, number + 1))
                walk(end - begin)
                seen.append(_look(end))
            seconds = time.monotonic() - begun
            counted = device.status().counters
    return {"looks": seen, "seconds": seconds, "transitions": counted.transitions, "answers": counted.answers}


def _look(transitions: int) -> dict[str, int]:
    """What the process holds; threads that are ending are given the time to."""
    gc.collect()
    process = psutil.Process()
    until, fewest = time.monotonic() + SETTLE_S, process.num_threads()
    while time.monotonic() < until:
        time.sleep(0.05)
        fewest = min(fewest, process.num_threads())
    memory = process.memory_info()
    return {
        "transitions": transitions, "resident": memory.rss, "own": memory.rss - memory.shared,
        "descriptors": process.num_fds(), "threads": fewest,
    }  # fmt: skip


if __name__ == "__main__":
    answer(measure)
