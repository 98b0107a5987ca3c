"""The simulator writes what the runtime writes: the same bytes, states and weights, bit for bit."""

import hashlib
import time

import msgspec
import numpy as np
import pytest

import geoshift
from runtime.simulation import ByHand, simulate_trace
from runtime.simulation.arrivals import Clock
from runtime.simulation.line import Line
from runtime.simulation.paths import paths_of
from runtime.simulation.walking import Walker
from runtime.walking.bank import InPlaceBank
from runtime.walking.engine import LiveRunner
from runtime.walking.operation import Outcome
from tests.runtime.bundles import profile
from tests.runtime.nets import opened
from tests.runtime.simulation.cases import LATENCY, trace

CALM = {"writes__stall_budget_ms": 1e9, "bank__policy": "in-place"}
"""A busy machine may take long over an increment; it must not write smaller ones for that."""


def digest(bank):
    found = hashlib.sha256()
    for name in sorted(bank._tensors):
        found.update(bank._tensors[name].tobytes())
    return found.hexdigest()


@pytest.fixture
def states(monkeypatch):
    """Digests of the weights after each increment that is written in place."""
    seen, write = [], InPlaceBank.write

    def noted(bank, increment):
        retries = write(bank, increment)
        seen.append(digest(bank))
        return retries

    monkeypatch.setattr(InPlaceBank, "write", noted)
    return seen


@pytest.mark.parametrize("size", [400, 700, 100_000])
@pytest.mark.parametrize("snap", [False, True])
def test_bytes_states_and_weights_are_the_live_runtime_s(plan, stage, states, tmp_path, size, snap):
    modes = ["C2", "C3", "C2", "C1"]
    device = profile(**CALM, writes__bytes_per_increment=size, bank__snap=snap)
    file = tmp_path / "device.yaml"
    file.write_bytes(msgspec.json.encode(device))
    written = 0
    with geoshift.open(plan.path, file) as net:
        for mode in modes:
            result = net.switch(mode).wait()
            assert result.outcome is Outcome.COMMITTED, result.reason
            written += result.bytes_written
    live, states[:] = list(states), []
    manual = tuple(ByHand(at_s=1 + 9 * place, mode=mode) for place, mode in enumerate(modes))
    kept = {}
    found = simulate_trace(
        plan, device, trace(manual=manual), ["planned"], latency_s=LATENCY, stage=stage, keep=kept.__setitem__
    )
    assert states == live
    assert len(live) >= len(modes)
    assert found.strategies["planned"].bytes_written == written
    held = kept["planned"].mover.runner().bank._tensors
    for name, tensor in plan.table.tensors(plan.states["C1"]).items():
        np.testing.assert_array_equal(held[name], tensor)


def test_a_walk_that_turns_writes_what_a_live_one_writes(plan, stage, states):
    """It turns once two increments are written or, on a machine that is slow to notice, a few more; back it goes by the
    same rows. The virtual walk turns at the same place."""
    with opened(plan, writes__bytes_per_increment=400) as net:
        # Slow enough to turn on the way, whatever the machine does.
        net._controller._writes = msgspec.structs.replace(net._controller._writes, increments_per_second=20.0)
        operation = net.switch("C2")
        while len(states) < 2:
            time.sleep(0.001)
        operation.retarget("C1").wait()
    live = list(states)
    states[:] = []
    clock, paths = Clock(), paths_of(plan, "planned")
    device = profile(**CALM, writes__bytes_per_increment=400)
    bank = InPlaceBank(paths.table, paths.states["C1"], stage.session.bind)
    walker = Walker(
        paths, LiveRunner(stage.session, bank), "C1", device.writes, Line(8), clock, lambda: None, snap=False
    )
    operation = walker.switch("C2")
    there = next(place for place in range(1, len(live)) if live[place] in live[:place] or place == len(live) - 1)
    turned = None
    while (due := walker.due_s()) is not None:
        clock.now_s = due
        if turned is None and len(states) == there:
            turned = operation.retarget("C1")
        walker.advance(due)
    assert turned is not None
    assert states == live
    assert walker.mode == "C1"
