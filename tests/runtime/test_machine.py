"""A network at work against a simple model of it: every mixture of switching, pausing, cancelling, turning to another
mode, failing, asking, killing and starting again.

A gate holds the walk before each increment, so that the model knows at every step on which state the weights stand,
and compares them bit for bit, on the way too: with the weights in memory, and with what the journal says.
"""

import shutil
import tempfile
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.errors import Busy, Closed, IllegalEvent, UnknownMode
from runtime.memory.journal import load
from runtime.memory.state_directory import StateDirectory
from runtime.plan import bundle as bundles
from runtime.plan.costs import split
from runtime.plan.graphs import compact_session, live_session
from runtime.walking import controller
from runtime.walking.bank import increments
from runtime.walking.chunks import ChunkList
from runtime.walking.engine import CompactRunner
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from runtime.walking.table import Phase
from tests.runtime.bundles import SMALL_INCREMENT, profile, write_bundle
from tests.runtime.disks import Disk, Killed
from tests.runtime.nets import PACE
from tests.runtime.restarts import key, told
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
        self._live = {aliased: live_session(bundle, 1, aliased=aliased) for aliased in (False, True)}
        self._compact = {mode: compact_session(bundle, mode, 1) for mode in MODES}
        self._answers = {}

    def live(self, state, policy):
        aliased = policy == "persistent"
        key = (aliased, *(state[name].tobytes() for name in sorted(state)))
        if key not in self._answers:
            weights = self._live[aliased].bind(self.table.tensors(state))
            self._answers[key] = self._live[aliased].run(self.x, weights).tobytes()
        return self._answers[key]

    def compact(self, mode):
        return CompactRunner(self._compact[mode]).run(self.x).tobytes()


class Machine(RuleBasedStateMachine):
    bundle = truth = None

    @initialize(policy=st.sampled_from(["in-place", "shadow", "persistent"]), snap=st.booleans())
    def open(self, policy, snap):
        self.policy, self.snap = policy, snap
        self.folder = Path(tempfile.mkdtemp())
        self.permits = self.arrived = 0
        self.patch = mock.patch.object(controller, "split", self.gated)
        self.patch.start()
        self.mode, self.phase, self.compact = "C1", Phase.IDLE, snap
        self.start(None)
        self.operation = self.result = None

    def start(self, resume):
        self.disk = Disk()
        home = StateDirectory(self.folder, self.disk)
        device = profile(**PACE, bank__snap=self.snap)
        self.net = Net(self.bundle, device, self.policy, home=home, resume=resume)
        self.net._recorder._interval_s = (
            0.0  # each increment is a checkpoint, so that the journal is as exact as we are
        )
        self.control = self.net._controller
        self.canary = self.net._plan.canary
        self.closed = self.rejected = self.turned = self.waits = False
        self.retargeted = []

    def gated(self, *arguments):
        """Increments of a walk, each of which waits for a permit; closing lets it through."""
        control = threading.current_thread()._target.__self__
        for one in split(*arguments):
            with control._changed:
                self.arrived += 1
                control._changed.wait_for(lambda: self.permits or control._closed)
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

    # What the model knows of a walk: `legs` from mode `at`, their `chunks`, of which `start_at` were behind when it was
    # taken, `position` on it, increments `ahead`. `turned`: it goes another way once it is let through the gate, and
    # `waits` for that is an operation that has not had its turn. `goal`: where the journal says that it leads.

    @property
    def under_way(self):
        return self.phase is not Phase.IDLE and not self.closed

    @property
    def state(self):
        if self.phase is Phase.IDLE:
            return self.bundle.states[self.mode]
        return self.chunks.state_at(self.bundle.states[self.at], self.position)

    @property
    def share(self):
        whole = len(self.chunks) - self.start_at
        return (self.position - self.start_at) / whole if whole else 1.0

    def leg(self, begin, end):
        (one,) = self.net._plan.route(begin, end)
        return one.chunks

    def take(self, at, legs, start):
        table = self.bundle.table
        self.at, self.legs, self.start_at, self.position = at, legs, start, start
        lists = [self.leg(*one) for one in legs]
        self.chunks = ChunkList.join(lists) if lists else ChunkList.build(table.names, {}, [])
        self.ahead = list(increments(self.chunks, table, lambda: SMALL_INCREMENT, start))

    def way(self, target):
        """Of the two ways from here, back to the beginning of the leg or on to its end, the shorter one."""
        if not self.legs:
            return self.at, [(self.at, target)] if self.at != target else [], 0
        offset = self.position
        for begin, end in self.legs:
            length = len(self.leg(begin, end))
            if offset <= length:
                break
            offset -= length
        ways = []
        for one, other, done in ((end, begin, length - offset), (begin, end, offset)):
            there = done == length
            legs = ([] if there else [(one, other)]) + ([] if other == target else [(other, target)])
            sizes = [int(chunk) for leg in legs for chunk in self.leg(*leg).chunk_bytes(self.bundle.table)]
            start = 0 if there else done
            ways.append((len(legs), sum(sizes[start:]), other if there else one, legs, start))
        return min(ways, key=lambda one: one[:2])[2:]

    def heads(self, goal):
        """The walk has taken its way to a mode, and told the journal."""
        self.take(*self.way(goal))
        self.goal = goal

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

        def begin():
            self.operation = self.net.switch(wanted)

        self.operation = mock.Mock(result=None)
        self.settle(begin)
        self.written = 0
        if wanted == self.mode:
            self.end(Outcome.COMMITTED, wanted, self.compact)
            return
        self.result, self.target, self.turned, self.compact = None, wanted, False, False
        self.phase, self.goal, self.behind = Phase.WALKING, wanted, 0.0
        self.take(self.mode, [(self.mode, wanted)], 0)

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
            self.turn()
        else:
            _, self.position, size = self.ahead.pop(0)
            self.written += size
        if self.ahead:
            return
        if self.phase is Phase.ROLLING_BACK:
            self.end(Outcome.ROLLED_BACK if self.rejected else Outcome.CANCELLED, self.mode, self.snap)
            self.accept()
        elif self.rejected:
            self.phase = Phase.ROLLING_BACK
            self.turn()
        else:
            self.end(Outcome.COMMITTED, self.target, self.snap)

    def turn(self):
        if self.phase is Phase.ROLLING_BACK:
            self.behind = 0.0 if self.waits else self.share
        self.waits = False
        self.heads(self.mode if self.phase is Phase.ROLLING_BACK else self.target)

    @precondition(lambda self: self.under_way and self.phase is Phase.WALKING and self.target != self.mode)
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
            self.phase, self.turned, self.rejected = Phase.ROLLING_BACK, True, False
            self.accept()
        else:
            self.phase = Phase.PAUSED if event == "pause" else Phase.WALKING

    @precondition(lambda self: self.operation is not None)
    @rule(wanted=st.sampled_from(MODES))
    def retarget(self, wanted):
        if not self.under_way or (self.phase is Phase.ROLLING_BACK and self.rejected):
            with pytest.raises(IllegalEvent):
                self.operation.retarget(wanted)
            return
        before, self.operation = self.operation, self.operation.retarget(wanted)
        assert (self.operation.begin, self.operation.target) == (self.mode, wanted)
        self.retargeted.append((before, self.written))
        self.phase, self.turned, self.waits, self.target, self.written = Phase.WALKING, True, True, wanted, 0
        self.accept()

    @rule(resume=st.sampled_from([None, "back", "forward"]))
    def start_again(self, resume):
        """The process is killed, unless the network was closed, and another one opens the state directory."""
        if not self.closed:
            self.disk.die()
            if self.under_way:
                if self.phase is Phase.PAUSED:
                    self.permits = 1  # it comes as far as to write down that it is paused
                self.permit()
                until(lambda: not self.control._thread.is_alive())
        self.permits = 0
        walking = self.phase is not Phase.IDLE
        if walking:
            ways = {goal: self.way(goal) for goal in (self.mode, self.goal)}
            sizes = {goal: self.bytes_of(way) for goal, way in ways.items()}
            nearer = "back" if sizes[self.mode] <= sizes[self.goal] else "forward"
            self.target = self.mode if (resume or nearer) == "back" else self.goal

        def begin():
            self.start(resume)
            self.operation = self.net.recovery or mock.Mock(result=True)

        self.operation = mock.Mock(result=None)
        self.settle(begin)
        self.compact = self.snap and not walking
        if not walking:
            assert self.net.recovery is None
            self.operation = self.result = None
            return
        self.result, self.written, self.behind, self.phase = None, 0, 0.0, Phase.WALKING
        self.turned = False
        self.heads(self.target)
        if not self.ahead:
            self.end(Outcome.COMMITTED, self.target, self.snap)

    def bytes_of(self, way):
        _, legs, start = way
        sizes = [int(chunk) for leg in legs for chunk in self.leg(*leg).chunk_bytes(self.bundle.table)]
        return sum(sizes[start:])

    @rule()
    def infer(self):
        if self.closed:
            with pytest.raises(Closed, match="open it again"):
                self.net.infer(self.truth.x)
            return
        expected = self.truth.compact(self.mode) if self.compact else self.truth.live(self.state, self.policy)
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
            back = self.phase is Phase.ROLLING_BACK and not self.turned
            expected = self.behind * (1 - self.share) if back else self.share
            if self.waits:
                expected = 0.0
            assert self.operation.progress == pytest.approx(expected)
        elif found.outcome is not Outcome.FAILED:
            assert self.operation.progress == (found.outcome is Outcome.COMMITTED)

    @invariant()
    def the_journal_tells_the_state_that_the_weights_have(self):
        assert key(told(self.bundle, load(self.folder, Disk()))) == key(self.state)

    @invariant()
    def an_operation_that_was_turned_away_from_says_so(self):
        for before, written in self.retargeted:
            if before.result is None:
                assert self.turned
                assert not self.closed
            else:
                found = before.result
                assert (found.outcome, found.mode, found.bytes_written) == (Outcome.RETARGETED, before.begin, written)

    def teardown(self):
        if hasattr(self, "net"):
            self.net.close()
            self.patch.stop()
            shutil.rmtree(self.folder)
            assert "geoshift-walk" not in [thread.name for thread in threading.enumerate()]


def test_a_network_does_what_a_simple_model_of_it_does(bundle, monkeypatch):
    hook = threading.excepthook  # a killed thread has nobody to report to
    monkeypatch.setattr(threading, "excepthook", lambda it: None if it.exc_type is Killed else hook(it))
    Machine.bundle, Machine.truth = bundle, Truth(bundle)
    case = Machine.TestCase
    case.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
    case().runTest()
