"""A network at work against a simple model of it: every mixture of switching, pausing, cancelling, failing, asking.

A gate holds the walk before each increment, so that the model knows at every step on which state the weights stand,
and compares them bit for bit, on the way too.
"""

import threading
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime import bundle as bundles
from runtime import controller
from runtime.bank import increments
from runtime.chunks import ChunkList
from runtime.engine import CompactRunner
from runtime.errors import Busy, Closed, IllegalEvent, UnknownMode
from runtime.graphs import compact_session, live_session
from runtime.operation import Outcome
from runtime.table import Phase
from tests.runtime.bundles import SMALL_INCREMENT, profile, write_bundle
from tests.runtime.nets import PACE, opened
from tests.runtime.threads import until

MODES = ("C1", "C2", "C3")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("machine") / "plan", profile(**PACE)))


class Truth:
    """What the network must answer, asked of sessions of its own."""

    def __init__(self, bundle):
        self.table = bundle.table
        self.x = bundle.evaluation.inputs[:3]
        self._live = live_session(bundle, 1)
        self._compact = {mode: compact_session(bundle, mode, 1) for mode in MODES}
        self._answers = {}

    def live(self, state):
        key = b"".join(state[name].tobytes() for name in sorted(state))
        if key not in self._answers:
            weights = self._live.bind(self.table.tensors(state))
            self._answers[key] = self._live.run(self.x, weights).tobytes()
        return self._answers[key]

    def compact(self, mode):
        return CompactRunner(self._compact[mode]).run(self.x).tobytes()


class Machine(RuleBasedStateMachine):
    bundle = truth = None

    @initialize(policy=st.sampled_from(["in-place", "shadow"]), snap=st.booleans())
    def open(self, policy, snap):
        self.snap = snap
        self.net = opened(self.bundle, policy, snap)
        self.control = self.net._controller
        self.permits = self.arrived = 0
        self.patch = mock.patch.object(controller, "increments", self.gated)
        self.patch.start()
        self.canary = self.net._plan.canary
        self.mode, self.phase, self.compact = "C1", Phase.IDLE, snap
        self.operation = self.result = None
        self.closed = self.rejected = False

    def gated(self, *arguments):
        """Increments of a walk, each of which waits for a permit; closing lets it through."""
        for one in increments(*arguments):
            with self.control._changed:
                self.arrived += 1
                self.control._changed.wait_for(lambda: self.permits or self.control._closed)
                self.permits = 0
            yield one

    def settle(self, act):
        """Do something after which the walk comes to the gate again, or to its end."""
        before = self.arrived
        act()
        until(lambda: self.arrived > before or self.operation.result is not None)

    def permit(self):
        with self.control._changed:
            self.permits = 1
            self.control._changed.notify_all()

    # What the model knows of a walk: `chunks` of the way there, `position` on it, increments `ahead` in its direction.

    @property
    def under_way(self):
        return self.phase is not Phase.IDLE and not self.closed

    @property
    def state(self):
        if self.phase is Phase.IDLE:
            return self.bundle.states[self.mode]
        return self.chunks.state_at(self.bundle.states[self.mode], self.position)

    def turn(self):
        self.phase = Phase.ROLLING_BACK
        back = self.chunks.reversed()
        self.ahead = list(increments(back, self.bundle.table, lambda: SMALL_INCREMENT, len(back) - self.position))

    def end(self, outcome, mode, compact):
        self.phase, self.mode, self.compact = Phase.IDLE, mode, compact
        self.result = (outcome, mode, self.written)

    @precondition(lambda self: not self.closed)
    @rule(wanted=st.sampled_from(MODES))
    def switch(self, wanted):
        if self.under_way:
            with pytest.raises(Busy, match="under way, expected none; wait for it or cancel it"):
                self.net.switch(wanted)
            return
        legs = self.net._plan.route(self.mode, wanted)

        def begin():
            self.operation = self.net.switch(wanted)

        self.operation = mock.Mock(result=None)
        self.settle(begin)
        self.written = self.position = 0
        if not legs:
            self.end(Outcome.COMMITTED, wanted, self.compact)
            return
        self.result, self.target, self.turned, self.compact = None, wanted, False, False
        self.phase = Phase.WALKING
        self.chunks = ChunkList.join([leg.chunks for leg in legs])
        self.ahead = list(increments(self.chunks, self.bundle.table, lambda: SMALL_INCREMENT))

    @precondition(lambda self: not self.closed)
    @rule(wanted=st.sampled_from(["C9", "", "c1"]))
    def switch_to_nowhere(self, wanted):
        with pytest.raises(Busy if self.under_way else UnknownMode):
            self.net.switch(wanted)

    @precondition(lambda self: self.under_way and self.phase is not Phase.PAUSED)
    @rule(count=st.integers(1, 9))
    def walk(self, count):
        for _ in range(count):
            if not self.under_way:
                break
            self.settle(self.permit)
            self.stepped()

    def stepped(self):
        if self.turned:  # the increment that it waited for is not written any more
            self.turned = False
        else:
            _, end, size = self.ahead.pop(0)
            self.position = end if self.phase is Phase.WALKING else len(self.chunks) - end
            self.written += size
        if self.ahead:
            return
        if self.phase is Phase.ROLLING_BACK:
            self.end(Outcome.ROLLED_BACK if self.rejected else Outcome.CANCELLED, self.mode, self.snap)
            self.accept()
        elif self.rejected:
            self.turn()
        else:
            self.end(Outcome.COMMITTED, self.target, self.snap)

    @precondition(lambda self: self.under_way and self.phase is Phase.WALKING)
    @rule()
    def reject(self):
        """The canary will refuse the mode when it is reached."""
        self.rejected = True
        self.net._plan.canary = lambda runner: "canary: found 0 right answers, expected 16"

    def accept(self):
        self.rejected = False
        self.net._plan.canary = self.canary

    @precondition(lambda self: self.under_way and self.phase is not Phase.PAUSED and not self.turned)
    @rule()
    def fail(self):
        """The next write stops after its first row."""
        bank = self.control._live.bank

        def write(increment):
            tensors = bank._tensors[1 - bank._front] if isinstance(bank._tensors, list) else bank._tensors
            name, rows, values = increment.writes[0]
            self.bundle.table.write(tensors, name, rows[:1], values[:1])
            raise OSError("bus error")

        bank.write = write
        self.settle(self.permit)
        assert "OSError: bus error" in self.operation.result.reason
        self.end(Outcome.ROLLED_BACK, self.mode, compact=False)
        self.accept()

    @precondition(lambda self: self.operation is not None)
    @rule(event=st.sampled_from(["pause", "resume", "cancel"]))
    def signal(self, event):
        legal = {Phase.WALKING: ("pause", "cancel"), Phase.PAUSED: ("resume", "cancel")}
        if self.closed or event not in legal.get(self.phase, ()):
            with pytest.raises(IllegalEvent):
                getattr(self.operation, event)()
            return
        getattr(self.operation, event)()
        if event == "cancel":
            self.turn()
            self.turned, self.rejected = True, False
            self.accept()
        else:
            self.phase = Phase.PAUSED if event == "pause" else Phase.WALKING

    @rule()
    def infer(self):
        if self.closed:
            with pytest.raises(Closed, match="open it again"):
                self.net.infer(self.truth.x)
            return
        expected = self.truth.compact(self.mode) if self.compact else self.truth.live(self.state)
        assert self.net.infer(self.truth.x).tobytes() == expected

    @rule(chance=st.integers(0, 9))
    def close(self, chance):
        if chance:  # most walks are worth more than their end
            return
        self.net.close()
        if self.under_way:
            self.result = (Outcome.FAILED, self.mode, self.written)
            assert "the network was closed during the walk" in self.operation.result.reason
        self.closed = True
        with pytest.raises(Closed, match="switch: the network is closed; open it again"):
            self.net.switch("C1")

    @invariant()
    def weights_are_those_of_the_state_bit_for_bit(self):
        live = self.control._live
        assert (live is None) == self.compact
        if live is not None:
            bank = live.bank
            held = bank._tensors[bank._front] if isinstance(bank._tensors, list) else bank._tensors
            expected = self.bundle.table.tensors(self.state)
            assert all(np.array_equal(held[name].view(np.int32), expected[name].view(np.int32)) for name in expected)

    @invariant()
    def the_network_says_where_it_is(self):
        assert (self.net.mode, self.net.phase) == (self.mode, self.phase)
        if self.operation is None:
            return
        found = self.operation.result
        assert (found and (found.outcome, found.mode, found.bytes_written)) == self.result
        if self.result is None:
            assert self.operation.progress == pytest.approx(self.position / len(self.chunks))
        elif found.outcome is not Outcome.FAILED:
            assert self.operation.progress == (found.outcome is Outcome.COMMITTED)

    def teardown(self):
        if hasattr(self, "net"):
            self.net.close()
            self.patch.stop()
            assert "geoshift-walk" not in [thread.name for thread in threading.enumerate()]


def test_a_network_does_what_a_simple_model_of_it_does(bundle):
    Machine.bundle, Machine.truth = bundle, Truth(bundle)
    case = Machine.TestCase
    case.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
    case().runTest()
