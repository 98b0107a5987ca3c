"""A device against a simple model of who decides: every mixture of asking, giving back, holds, triggers, safety, time.

The device is a real one: triggers read files of a tree of sysfs that the machine writes to, and its network walks. One
machine lets every walk end before it goes on. For the other a walk stands after its first increment, so that everything
happens while one is under way.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runtime.device.views import RANKS
from runtime.errors import Conflict, IllegalEvent, UnknownHold
from runtime.plan import bundle as bundles
from tests.runtime.bundles import write_bundle
from tests.runtime.decision_model import DWELL_S, POWER, Model
from tests.runtime.devices import AWAY, HOT, LOW, STANDS, Clock, made, settled
from tests.runtime.sysfs_trees import board, put

modes = st.sampled_from(POWER)
durations = st.none() | st.integers(1, 30)


class Surroundings(RuleBasedStateMachine):
    """What both machines do: time, batteries, heat, holds."""

    bundle = None
    policy = "in-place"
    pace = {}  # noqa: RUF012  # never changed

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.root, self.clock, self.model = board(self.folder), Clock(), Model()
        rules = {"triggers": [LOW, {**AWAY, "dwell_s": DWELL_S}], "safety": [{**HOT, "mode": "C2"}]}
        self.device = made(self.bundle, self.root, self.clock, policy=self.policy, **rules, **self.pace)
        self.released = []

    @rule()
    def give_back(self):
        self.device.auto(who="ann")
        self.model.manual = None
        self.model.end()

    @rule(mode=modes, ttl=durations)
    def hold(self, mode, ttl):
        hold = self.device.hold(mode, who="backup", reason="a test", ttl_s=ttl)
        self.model.place(hold.id, mode, ttl)

    @rule(place=st.integers(0, 9))
    def release(self, place):
        # No precondition: what is drawn must not depend on whether a walk ended in time.
        if self.model.holds:
            name = list(self.model.holds)[place % len(self.model.holds)]
            self.device.release(name)
            del self.model.holds[name]
            self.released.append(name)
            self.model.end()

    @rule()
    def release_again(self):
        if self.released:
            with pytest.raises(UnknownHold):
                self.device.release(self.released[-1])

    @rule(percent=st.integers(0, 100) | st.sampled_from([29, 30, 40, 41]))
    def battery(self, percent):
        put(self.root, "class/power_supply/battery/capacity", percent)
        self.model.percent = percent
        self.poll()

    @rule(plugged=st.booleans())
    def charger(self, plugged):
        put(self.root, "class/power_supply/battery/status", "Charging" if plugged else "Discharging")
        self.model.plugged = plugged
        self.poll()

    @rule(celsius=st.integers(20, 110) | st.sampled_from([69, 70, 80, 81]))
    def temperature(self, celsius):
        put(self.root, "class/thermal/thermal_zone0/temp", celsius * 1000)
        self.model.celsius = celsius
        self.poll()

    @rule(seconds=st.integers(1, 15))
    def time(self, seconds):
        self.clock.forward(seconds)
        self.model.now_s += seconds
        self.poll()

    @rule()
    def poll(self):
        self.device.poll()
        self.model.read()

    @invariant()
    def decision_holds_and_triggers_are_those_of_the_model(self):
        status = self.device.status()
        assert (status.decision.mode, status.decision.rank) == self.model.decided()
        assert {hold.id: hold.mode for hold in status.holds} == {
            name: mode for name, (mode, _) in self.model.holds.items()
        }
        assert {one.name: one.active for one in status.triggers} == {
            "hot": self.model.hot, "low": self.model.low, "away": self.model.away,
        }  # fmt: skip

    def teardown(self):
        self.device.close()
        shutil.rmtree(self.folder)


class AtRest(Surroundings):
    """Every walk ends before the next thing happens."""

    @rule(mode=modes, lease=durations)
    def switch(self, mode, lease):
        settled(self.device)
        if self.model.decided(manual=mode) != (mode, "manual"):
            with pytest.raises(Conflict, match="safety rule hot"):
                self.device.switch(mode, who="ann", lease_s=lease)
            return
        operation = self.device.switch(mode, who="ann", lease_s=lease)
        self.model.ask(mode, lease)
        assert self.device.wait(operation.id, 60).outcome == "committed"

    @invariant()
    def the_network_is_where_the_model_says(self):
        status = settled(self.device)
        assert (status.mode, status.phase) == (self.model.decided()[0], "idle")
        assert {one.outcome for one in self.device.operations()} <= {"committed", "retargeted"}


class UnderWay(Surroundings):
    """A walk goes on for an hour unless it is turned or cancelled near its begin."""

    pace = STANDS

    @initialize()
    def begin(self):
        super().begin()
        self.previous = {}
        self.ours = None

    def asked(self, operation, before, mode, lease):
        """Note what is asked for by hand, and what counts again if the walk is cancelled."""
        if operation.id not in self.previous:
            self.previous[operation.id] = self.previous.get(before, self.model.manual)
        self.ours = operation.id
        self.model.ask(mode, lease)

    @rule(mode=modes, lease=durations)
    def switch(self, mode, lease):
        status = self.device.status()
        under_way = self.device.operation(status.operation) if status.operation else None
        allowed = self.model.decided(manual=mode) == (mode, "manual")
        try:
            operation = self.device.switch(mode, who="ann", lease_s=lease)
        except Conflict as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            assert ("active" in refusal) is not allowed
            assert under_way is not None or not allowed
        else:
            assert allowed
            self.asked(operation, status.operation, mode, lease)

    @rule(mode=modes)
    def retarget(self, mode):
        before = self.device.status().operation
        if before is None:
            return
        rank = self.device.operation(before).rank
        allowed = self.model.decided(manual=mode) == (mode, "manual")
        try:
            operation = self.device.retarget(before, mode)
        except Conflict:
            refused = True
        except IllegalEvent:
            return  # it ended, or cannot be turned any more
        else:
            refused = False
        assert refused == (rank == "safety" or not allowed)
        if not refused:
            # The lease of what was asked for before goes on; the device knows it best.
            self.asked(operation, before, mode, self.device.status().decision.expires_in_s)

    @rule()
    def cancel(self):
        before = self.device.status().operation
        if before is None:
            return
        rank = self.device.operation(before).rank
        try:
            self.device.cancel(before)
        except Conflict:
            refused = True
        except IllegalEvent:
            return  # it ended, or is on its way back
        else:
            refused = False
        assert refused == (rank == "safety")
        if not refused and before == self.ours and self.model.manual is not None:
            self.model.manual = self.previous[before]
            self.ours = None
        self.model.end()

    @rule()
    def pause(self):
        self.signal(self.device.pause)

    @rule()
    def resume(self):
        self.signal(self.device.resume)

    def signal(self, event):
        before = self.device.status().operation
        if before is None:
            return
        rank = self.device.operation(before).rank
        try:
            event(before)
        except Conflict:
            assert rank == "safety"
        except IllegalEvent:
            return  # it ended, or stands already, or does not stand
        else:
            assert rank != "safety"
        self.model.end()

    @invariant()
    def a_paused_walk_leads_where_the_decision_says(self):
        status = self.device.status()
        if status.phase == "paused":
            walk = self.device.operation(status.operation)
            assert (walk.to, walk.rank) == (status.decision.mode, status.decision.rank)

    @invariant()
    def a_walk_that_another_rank_took_over_is_not_ours_any_more(self):
        if self.ours is not None and RANKS.index(self.device.operation(self.ours).rank) > RANKS.index("manual"):
            assert self.model.manual is None
            del self.previous[self.ours]
            self.ours = None

    @invariant()
    def a_walk_leads_where_the_decision_says_unless_a_lower_rank_waits(self):
        status = self.device.status()
        if status.operation is None:
            return
        walk = self.device.operation(status.operation)
        turnable = status.phase in ("walking", "paused")
        if turnable and RANKS.index(status.decision.rank) < RANKS.index(walk.rank):
            assert walk.to == status.decision.mode

    @invariant()
    def one_switch_at_most_is_under_way(self):
        with self.device._switches.changed:
            current = self.device._switches.current
            open_ones = [one for one in self.device._switches.operations.all() if one.final is None]
        assert all(one is current or one.stopped == "retargeted" for one in open_ones)


@pytest.mark.parametrize("policy", ["in-place", "shadow"])
@pytest.mark.parametrize("machine", [AtRest, UnderWay])
def test_the_machine(tmp_path, machine, policy):
    read = bundles.read(write_bundle(tmp_path / "plan"))
    case = type("Case", (machine,), {"bundle": read, "policy": policy}).TestCase
    case.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
    case().runTest()
