"""What a kill in the middle of a write leaves in persistent weight memory, and what the network answers on it.

Before any repair it is what a user has whose device does not know what it was writing: nothing on it will ever write
those rows again. After it, it is what the journal made of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.strategies_states import loss
from benchmarks.strategies_victim import PIECES, scripted
from device_profiles.errors import GeoshiftError
from runtime.memory.files import Files
from runtime.memory.start import start
from runtime.memory.state_directory import StateDirectory
from runtime.memory.weight_memory import WeightMemory
from runtime.plan.bundle import Bundle
from runtime.plan.evaluation import Evaluator
from runtime.walking.net import DeployedPlan
from runtime.walking.rows import Floats

ROOT = Path(__file__).parent.parent
WALK_S = 0.6
"""Twice what a walk's pauses take together; where there are so many that the system's own counts, longer."""
SLEEP_S = 1e-4
"""What the shortest pause takes about."""
console = Console(stderr=True)


def killed(
    bundle: Bundle, ends: tuple[str, str], name: str, evaluator: Evaluator, times: int, seed: int
) -> dict[str, Any]:
    """Kill processes that walk by a strategy, each started on what the one before left.

    Args:
        bundle: The plan.
        ends: Modes that are walked between.
        name: The strategy.
        evaluator: Asks the plan's live graph.
        times: Processes to kill.
        seed: Of the moments.

    Returns:
        Loss against the dense network before and after the repair of each kill that hit a walk, how many of them left
        a row half written, and what went wrong with repairs.
    """
    plan, chance = scripted(bundle, ends, name), np.random.default_rng(seed)
    labels = evaluator.samples.labels
    dense = evaluator.at(bundle.table, bundle.table.dense()).outputs.argmax(axis=1)

    def lost(tensors: Mapping[str, Floats]) -> float:
        own = {key: np.array(tensor) for key, tensor in tensors.items()}
        classes = evaluator.answers(evaluator.session.bind(own)).outputs.argmax(axis=1)
        return loss(labels, dense, classes)[0]

    found: dict[str, Any] = {"kills": times, "walking": 0, "torn": 0, "before": [], "after": [], "unrepaired": []}
    pieces = (PIECES + 1) * len(plan.transitions[0].chunks)
    pause_s = WALK_S / (2 * pieces)
    longest_s = 2 * max(WALK_S, pieces * (pause_s + SLEEP_S))
    with (
        tempfile.TemporaryDirectory(prefix="geoshift-strategies-") as folder,
        _nursery(bundle, ends, name, folder, pause_s) as nursery,
    ):
        for _ in range(times):
            recovery = _kill(nursery, chance.uniform(0, longest_s))
            if recovery not in (None, "committed"):
                found["unrepaired"].append(f"recovery ended {recovery}")
            home = StateDirectory(folder, Files())
            try:
                before, torn = _left(plan, home, lost)
                begin = start(
                    plan, "persistent", DeployedPlan(plan, plan.profile, "persistent").route, home, migrate=False
                )
                assert begin.memory is not None
                if begin.place.walk is not None:
                    found["walking"] += 1
                    found["torn"] += torn
                    found["before"].append(round(before, 3))
                    found["after"].append(round(lost(begin.memory.tensors), 3))
            except GeoshiftError as error:
                found["unrepaired"].append(str(error)[:300])
            finally:
                home.close()
    worst, repaired = (max(found[key], default=0) for key in ("before", "after"))
    console.print(
        f"{bundle.path.name}, {name}: {found['walking']} of {times} kills on the way, {found['torn']} torn, "
        f"worst {worst:.1f}, repaired {repaired:.1f} points"
    )
    return found


def _left(plan: Bundle, home: StateDirectory, lost: Any) -> tuple[float, bool]:
    """Loss on the memory as it was left, and whether a row is neither what it was nor what it was to be."""
    standing = home.journal.standing
    assert standing is not None
    memory = WeightMemory(home.weights(plan.id), plan.table, plan.id, home.files)
    torn = False
    if (walk := standing.walk) is not None:
        move = plan.transitions[0]
        chunks = move.chunks if walk.at == move.ends[0] else move.chunks.reversed()
        states = [chunks.state_at(plan.states[walk.at], at) for at in (walk.position, walk.intended)]
        odd = [memory.differing(state) for state in states]
        nothing: NDArray[np.int32] = np.zeros(0, np.int32)
        torn = any(
            len(np.intersect1d(odd[0].get(name, nothing), odd[1].get(name, nothing))) for name in plan.table.names
        )
    return lost(memory.tensors), torn


@contextmanager
def _nursery(
    bundle: Bundle, ends: tuple[str, str], name: str, home: str, pause_s: float
) -> Iterator[subprocess.Popen[str]]:
    """Process that makes the victims."""
    words = {
        "path": str(bundle.path),
        "left": ends[0],
        "reached": ends[1],
        "name": name,
        "home": home,
        "pause_s": pause_s,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.strategies_victim", json.dumps(words)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        if process.wait():
            raise RuntimeError(f"{name}: found exit status {process.returncode} of what makes the victims, expected 0")


def _kill(nursery: subprocess.Popen[str], after_s: float) -> str | None:
    """Have a process made, let it walk for a time, and kill it; how its recovery ended, None if it had none."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write("one more\n")
    nursery.stdin.flush()
    heard: dict[str, Any] = {}
    while not {"pid", "ready"} <= heard.keys():
        line = nursery.stdout.readline()
        heard |= json.loads(line) if line else {"failed": "it ended"}
        if "failed" in heard:
            raise RuntimeError(f"a process that was to be killed failed before: {heard['failed']}")
    time.sleep(after_s)
    os.kill(heard["pid"], signal.SIGKILL)
    while "ended" not in heard:
        heard |= json.loads(nursery.stdout.readline())
    recovery: str | None = heard["recovery"]
    return recovery
