"""Whatever a device loses, process, power or disk, and whenever: does it start again on a state of the path?

A small network of three modes walks: to a mode, cancelled on the way, turned to another mode, refused by its canary,
and on from a row that a power cut left half written. At every file operation of these walks, in turn, the disk fails
(full once, broken once, broken for good, half a write taken), the process ends (before the operation, or half through
it), or the power goes, and with it a random part of what was not flushed. Besides, real processes are killed at random
instants. After each, a model of its own, row by row in plain Python, says what the device must hold, bit for bit, and
the device must reach a mode and switch again.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.frame import Claim, Findings, main
from device_profiles.errors import GeoshiftError
from runtime.plan import bundle as bundles
from runtime.plan.bundle import Bundle
from tests.runtime.bundles import write_bundle
from tests.runtime.disks import BROKEN, FULL, Disk, Forgetful, Killed
from tests.runtime.disturbed import WALKS, live, operations, recover, sample, tear, ways
from tests.runtime.killings import killed_at_random
from tests.runtime.restarts import DEVICE, restart

SEEDS = (0, 1, 2)
"""Each another network, other parts that a power cut takes, other instants."""
POLICIES = ("in-place", "shadow", "persistent")
STATES = ("nothing", "rest", "walking", "verifying", "rolling-back", "repairing")
"""What the journal speaks of when it happens; nothing: no journal yet. Repairing: a start on a torn row, and on."""
REPAIR = "repair"
ERROR, KILL, POWER, INSTANT = "error", "kill", "power cut", "kill at any instant"
INSTANTS = 20
"""Processes that are killed, a seed and policy: over a hundred in all."""
console = Console(stderr=True)


@dataclass
class Tally:
    """Starts after a loss, by state and kind of loss.

    Attributes:
        tried: How many.
        illegal: How many of them were not what the journal and the plan say.
        complaints: The first words of each of those.
    """

    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    illegal: Counter[tuple[str, str]] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take another one's starts over."""
        self.tried += other.tried
        self.illegal += other.illegal
        self.complaints += other.complaints

    def judge(self, state: str, kind: str, start: Callable[[], object]) -> None:
        """Count a start."""
        self.tried[state, kind] += 1
        try:
            start()
        except (AssertionError, GeoshiftError) as error:
            self.illegal[state, kind] += 1
            self.complaints.append(f"{kind} while {state}: {type(error).__name__}: {error}"[:300])


def run(quick: bool) -> Findings:
    """Measure; quick: one operation of each kind in each state, two walks, and few processes."""
    walks = ("commit", "cancel") if quick else tuple(WALKS)
    policies = ("in-place", "persistent") if quick else POLICIES
    tasks = [(seed, policy, walk, quick) for seed in SEEDS for policy in policies for walk in (*walks, "")]
    tasks += [(seed, "persistent", REPAIR, quick) for seed in SEEDS]
    by_seed = {seed: Tally() for seed in SEEDS}
    with ProcessPoolExecutor(
        min(2, os.cpu_count() or 1), mp_context=get_context("spawn"), initializer=_let_them_die
    ) as pool:
        for (seed, policy, walk, _), found in zip(tasks, pool.map(measure, *zip(*tasks, strict=True)), strict=True):
            by_seed[seed].add(found)
            what = walk or INSTANT
            console.print(
                f"seed {seed}, {policy}, {what}: {found.tried.total()} starts, {found.illegal.total()} illegal"
            )
    return findings(by_seed)


def measure(seed: int, policy: str, walk: str, quick: bool) -> Tally:
    """One network, one policy, one walk; without a walk, processes that are killed at random instants."""
    found = Tally()
    with tempfile.TemporaryDirectory(prefix="geoshift-kill-") as folder:
        home = Path(folder)
        bundle = bundles.read(write_bundle(home / "plan", DEVICE, seed))
        if not walk:
            _instants(found, bundle, home / "state", policy, 2 if quick else INSTANTS, seed)
            return found
        torn = home / "torn" if walk == REPAIR else None
        steps = _steps(bundle, home, policy, walk, torn)
        for number in sample(steps) if quick else range(1, len(steps) + 1):
            state, name = steps[number - 1]
            for kind, disk_at in _losses(number, name, seed):
                with _lost(bundle, home / "state", policy, walk, torn, disk_at) as disk:
                    if kind == ERROR or disk.dead:
                        found.judge(state, kind, partial(restart, bundle, home / "state", policy))
    return found


def _steps(bundle: Bundle, home: Path, policy: str, walk: str, torn: Path | None) -> list[tuple[str, str]]:
    """File operations of a walk that nothing disturbs: state and name."""
    if torn is None:
        return operations(bundle, home / "whole", policy, walk)
    tear(bundle, torn)
    shutil.copytree(torn, home / "whole")
    disk = Disk()
    recover(bundle, home / "whole", disk)
    return [("repairing", name) for name in disk.names]


def _losses(number: int, name: str, seed: int) -> Iterator[tuple[str, Callable[[Path], Disk]]]:
    """Everything that can be lost at one operation: its kind, and what makes the disk it is lost on."""
    yield ERROR, lambda _: Disk(number, FULL)
    yield ERROR, lambda _: Disk(number, BROKEN)
    yield ERROR, lambda _: Disk(number, BROKEN, times=10**6)
    if name == "write":
        yield ERROR, lambda _: Disk(number, "short")
    for way in ways(name):
        yield KILL, lambda _, way=way: Disk(number, way)
    yield POWER, lambda path: Forgetful(path, number, seed=1000 * seed + number)


@contextmanager
def _lost(
    bundle: Bundle, path: Path, policy: str, walk: str, torn: Path | None, disk_at: Callable[[Path], Disk]
) -> Iterator[Disk]:
    """Live until something is lost; what is left, for as long as the context is open."""
    if torn is None:
        disk = disk_at(path)
        live(bundle, path, policy, walk, disk)
    else:
        shutil.copytree(torn, path)
        disk = disk_at(path)
        recover(bundle, path, disk)
    if isinstance(disk, Forgetful) and disk.dead and path.exists():
        disk.cut()
    try:
        yield disk
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _instants(found: Tally, bundle: Bundle, path: Path, policy: str, times: int, seed: int) -> None:
    """Kill processes that walk, each started on what the one before left."""
    for number in range(times):
        seen: Counter[str] = Counter()
        one = Tally()
        one.judge("", INSTANT, lambda at=number, seen=seen: seen.update(_killed(bundle, path, policy, at, seed)))
        # What it was doing is known once it has started again; a start that fails is one from an unknown state.
        state = next(iter(seen), "rest")
        found.add(Tally(_of(one.tried, state), _of(one.illegal, state), one.complaints))


def _killed(bundle: Bundle, path: Path, policy: str, number: int, seed: int) -> Counter[str]:
    return killed_at_random(bundle, path, policy, 1, seed=1000 * seed + number)


def _of(counts: Counter[tuple[str, str]], state: str) -> Counter[tuple[str, str]]:
    return Counter({(state, kind): count for (_, kind), count in counts.items()})


def _let_them_die() -> None:
    """A thread that is killed has nobody to report to."""
    hook = threading.excepthook
    threading.excepthook = lambda it: None if it.exc_type is Killed else hook(it)


def findings(by_seed: dict[int, Tally]) -> Findings:
    """Print the matrix, and judge."""
    whole = Tally()
    for tally in by_seed.values():
        whole.add(tally)
    kinds = (ERROR, KILL, POWER, INSTANT)
    table = Table("state", *kinds, title="illegal of all starts, by what was lost when", box=None)
    for state in STATES:
        table.add_row(state, *(f"{whole.illegal[state, kind]} of {whole.tried[state, kind]}" for kind in kinds))
    Console().print(table)
    for complaint in whole.complaints[:20]:
        console.print(complaint, markup=False)
    illegal = [float(tally.illegal.total()) for tally in by_seed.values()]
    empty = [float(sum(not tally.tried[state, kind] for state in STATES for kind in kinds[:2]))
             for tally in by_seed.values()]  # fmt: skip
    claims = [
        Claim("illegal_states", sum(illegal), "starts, of all seeds", "==", 0, illegal),
        Claim("cells_never_tried", max(empty), "of state × {error, kill}", "==", 0, empty),
    ]
    cells = {
        state: {kind: {"tried": whole.tried[state, kind], "illegal": whole.illegal[state, kind]} for kind in kinds}
        for state in STATES
    }
    data = {"matrix": cells, "starts": whole.tried.total(), "complaints": whole.complaints[:100]}
    return Findings(list(by_seed), claims, {}, data, picture(whole, kinds))


def picture(found: Tally, kinds: tuple[str, ...]) -> Figure:
    """How many starts there were, by state and kind, and those that were illegal."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        at = [place + number * width for place in range(len(STATES))]
        axes.bar(at, [found.tried[state, kind] for state in STATES], width, label=kind)
        axes.bar(at, [found.illegal[state, kind] for state in STATES], width, color="black")
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(STATES))], STATES)
    axes.set_ylabel("starts (illegal ones black)")
    axes.set_title("Starts after a loss, by what the journal spoke of")
    axes.legend()
    return figure


if __name__ == "__main__":
    sys.exit(main("kill", run))
