"""The simulator writes what the runtime writes: the same bytes, states and weights, bit for bit."""

import hashlib
from dataclasses import replace

import msgspec
import numpy as np
import pytest

import geoshift
from runtime.device.succession import macs_of
from runtime.plan.costs import split
from runtime.plan.evaluation import Evaluator
from runtime.plan.graphs import live_session
from runtime.plan.samples import Samples
from runtime.simulation import ByHand, simulate_trace
from runtime.simulation.arrivals import Clock
from runtime.simulation.line import Line
from runtime.simulation.paths import paths_of
from runtime.simulation.questions import Questions
from runtime.simulation.walking import Walker
from runtime.walking.bank import InPlaceBank, ShadowBank
from runtime.walking.engine import LiveRunner
from runtime.walking.net import DeployedPlan, Net
from runtime.walking.operation import Outcome
from tests.runtime.bundles import SMALL_INCREMENT, profile
from tests.runtime.nets import opened, pace
from tests.runtime.simulation.cases import LATENCY, trace
from tests.runtime.threads import until

CALM = {"writes__stall_budget_ms": 1e9}
"""A busy machine may take long over an increment; it must not write smaller ones for that."""


FIGURE = {"provenance": "assumed", "source": "test"}
PAUSED = {
    "writes__quiesce_required": True, "writes__granularity_bytes": 64, "writes__stall_budget_ms": 20.0,
    "writes__bytes_per_second": {"value": 1e6, **FIGURE}, "writes__increments_per_second": 1e3,
    "writes__verify": {"mean_writes": {"value": 4.0, **FIGURE}, "most_writes": 30},
}  # fmt: skip
"""Of a pause of 20 ms, 600 bytes are sure to be written; of its timer, 14 ms are left."""


def answering(bank):
    return bank._tensors if bank.exclusive else bank._tensors[bank._front]


def digest(bank):
    found, tensors = hashlib.sha256(), answering(bank)
    for name in sorted(tensors):
        found.update(tensors[name].tobytes())
    return found.hexdigest()


@pytest.fixture
def states(monkeypatch):
    """Digests of the weights that answer after each increment."""
    seen = []

    def note(kind):
        write = kind.write

        def noted(bank, increment):
            retries = write(bank, increment)
            seen.append(digest(bank))
            return retries

        monkeypatch.setattr(kind, "write", noted)

    note(InPlaceBank)
    note(ShadowBank)
    return seen


@pytest.mark.parametrize("size", [400, 700, 100_000])
@pytest.mark.parametrize("snap", [False, True])
@pytest.mark.parametrize("policy", ["in-place", "shadow"])
def test_bytes_states_and_weights_are_the_live_runtime_s(plan, stage, states, tmp_path, size, snap, policy):
    device = profile(**CALM, writes__bytes_per_increment=size, bank__snap=snap, bank__policy=policy)
    one = same_as_live(plan, stage, states, tmp_path, device)
    assert one.policy == policy
    # The second copy gets all but the last increment, too.
    again = one.strategies["planned"].physical_bytes - one.strategies["planned"].bytes_written
    assert (0 < again < one.strategies["planned"].bytes_written) == (policy == "shadow")


@pytest.mark.parametrize("guard", [0, 2])
def test_so_they_are_where_pauses_whole_units_and_checks_limit_increments(plan, stage, states, tmp_path, guard):
    device = profile(**PAUSED, writes__bytes_per_increment=4096, guard__canary_every_increments=guard)
    one = same_as_live(plan, stage, states, tmp_path, device).strategies["planned"]
    assert one.longest_stall_ms <= 20.0
    assert one.physical_bytes == 4 * one.bytes_written
    assert one.bytes_written % 64 == 0


def same_as_live(plan, stage, states, tmp_path, device):
    """Go from mode to mode, live and virtually, and compare."""
    modes = ["C2", "C3", "C2", "C1"]
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
    held = answering(kept["planned"].mover.runner().bank)
    for name, tensor in plan.table.tensors(plan.states["C1"]).items():
        np.testing.assert_array_equal(held[name], tensor)
    return found


def test_a_canary_that_is_wrong_sends_both_back(plan, states):
    """Of samples that C1 answers right, C2 gets one wrong."""
    inputs = questions(plan)
    right = labels(plan, plan.states["C1"], inputs)
    wrong = right != labels(plan, plan.states["C2"], inputs)
    chosen = [*np.flatnonzero(~wrong)[:5], np.flatnonzero(wrong)[0]]
    one = both_sent_back(replace(plan, canary=Samples(inputs[chosen], right[chosen])), states)
    assert states[:-1] == states[:-1][::-1], "there to the end, and back by the same states"
    assert (one.switches, one.rolled_back) == (0, 1)


def test_a_guard_that_is_wrong_on_the_way_sends_both_back(plan, states):
    """The plan claims that nothing is lost in between, and the samples are some that the second state gets wrong."""
    inputs, move = questions(plan), plan.transitions[0]
    device = profile()
    _, second, *_ = [end for _, end, _ in split(move.chunks, plan.table, device.writes, lambda: SMALL_INCREMENT)]
    right = labels(plan, plan.states["C1"], inputs)
    chosen = np.flatnonzero(labels(plan, move.chunks.state_at(plan.states["C1"], second), inputs) != right)[:6]
    claims = msgspec.structs.replace(move.entry, min_accuracy=1.0)
    told = replace(plan, transitions=(replace(move, entry=claims), *plan.transitions[1:]))
    one = both_sent_back(
        replace(told, canary=Samples(inputs[chosen], right[chosen])), states, guard__canary_every_increments=2
    )
    assert (one.switches, one.rolled_back) == (0, 1)
    assert one.increments == len(states) == 4
    assert one.bytes_written < 2 * move.entry.bytes_written


def questions(plan):
    """So many samples that some are answered differently in any two states."""
    return np.random.default_rng(0).normal(size=(4000, *plan.evaluation.inputs.shape[1:])).astype(np.float32)


def labels(plan, state, inputs):
    asked = Evaluator(live_session(plan, 1), Samples(inputs, np.zeros(len(inputs), np.int64)))
    return np.argmax(asked.at(plan.table, state).outputs, axis=1).astype(np.int64)


def both_sent_back(plan, states, **changes):
    """Ask for C2, live and virtually; both go back to C1 by the same states."""
    device = profile(**CALM, bank__policy="in-place", **changes)
    with Net(plan, device) as net:
        result = net.switch("C2").wait()
    assert result.outcome is Outcome.ROLLED_BACK, result.reason
    live, states[:] = list(states), []
    kept = {}
    # A device tries again after some seconds; the trace is over by then.
    short = trace(manual=(ByHand(at_s=1, mode="C2"),), seconds=4.0)
    found = simulate_trace(plan, device, short, ["planned"], latency_s=LATENCY, keep=kept.__setitem__)
    one = found.strategies["planned"]
    assert states == live
    assert one.bytes_written == result.bytes_written
    assert kept["planned"].mover.mode == "C1"
    return one


def test_a_walk_that_turns_writes_what_a_live_one_writes(plan, stage, states):
    """It turns once two increments are written or, on a machine that is slow to notice, a few more; back it goes by the
    same rows. The virtual walk turns at the same place."""
    with opened(plan, "in-place", writes__bytes_per_increment=400) as net:
        # Slow enough to turn on the way, whatever the machine does.
        pace(net, msgspec.structs.replace(net.profile.writes, increments_per_second=20.0))
        operation = net.switch("C2")
        until(lambda: len(states) >= 2)
        operation.retarget("C1").wait()
    live = list(states)
    states[:] = []
    clock, paths = Clock(), paths_of(plan, "planned")
    device = profile(**CALM, writes__bytes_per_increment=400)
    bank = InPlaceBank(paths.table, paths.states["C1"], stage.session.bind)
    questions = Questions(
        DeployedPlan(plan, device, "in-place"), LATENCY, macs_of(plan.manifest), {}, "planned", every=0, snap=False,
        trusting=False,
    )  # fmt: skip
    live_net = LiveRunner(stage.session, bank)
    walker = Walker(paths, live_net, "C1", device.writes, Line(8), clock, lambda: None, questions, snap=False)
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
