"""Turning a walk to another mode: on the way, without a jump, and by the shorter of the two ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import Closed, IllegalEvent, UnknownMode
from runtime.plan import bundle as bundles
from runtime.walking.bank import Increment
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from runtime.walking.retarget import Way, turn
from runtime.walking.route import Leg, route
from runtime.walking.rows import same_state
from runtime.walking.table import Phase
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.nets import PACE, hurry, opened, stands_at
from tests.runtime.test_controller import Instants
from tests.runtime.threads import until

MODES = ("C1", "C2", "C3")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("retarget") / "plan"))


def routes(bundle):
    return lambda begin, end: route(bundle.transitions, bundle.table, begin, end)


def size(way, table):
    return int(way.chunks.chunk_bytes(table)[way.start :].sum())


@given(data=st.data())
def test_a_way_from_anywhere_begins_there_ends_there_and_jumps_nowhere(bundle, data):
    modes, table, go = st.sampled_from(MODES), bundle.table, routes(bundle)
    begin, target = data.draw(modes), data.draw(modes)
    way = Way.along(begin, go(begin, target), table)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(way.start, len(way.chunks)))
        before = way.chunks.state_at(bundle.states[way.at], position)
        target = data.draw(modes)
        way = turn(way, position, target, go, table)
        assert same_state(way.chunks.state_at(bundle.states[way.at], way.start), before)
        assert same_state(way.chunks.state_at(bundle.states[way.at], len(way.chunks)), bundle.states[target])
        # every chunk of it is one of a transition: the way never leaves what was measured
        way.chunks.check(table, bundle.states[way.at], bundle.states[target], "way")


@given(data=st.data())
def test_turning_back_is_the_way_that_was_walked(bundle, data):
    begin, end = data.draw(st.sampled_from([(a, b) for a in MODES for b in MODES if a != b]))
    table, go = bundle.table, routes(bundle)
    way = Way.along(begin, go(begin, end), table)
    position = data.draw(st.integers(0, len(way.chunks)))
    back = turn(way, position, begin, go, table)
    walked = way.chunks.reversed()
    left = len(back.chunks) - back.start
    assert left == position
    for name in ("layer", "row", "old", "new"):
        found, expected = getattr(back.chunks, name), getattr(walked, name)
        assert found[len(found) - left :].tolist() == expected[len(expected) - left :].tolist()


def test_of_two_ways_the_one_with_fewer_legs_is_taken_then_the_one_with_fewer_bytes(bundle):
    table, go = bundle.table, routes(bundle)
    way = Way.along("C1", go("C1", "C2"), table)
    for position in range(len(way.chunks) + 1):
        found = turn(way, position, "C3", go, table)
        if position in (0, len(way.chunks)):
            assert [(leg.begin, leg.end) for leg in found.legs] == [("C2" if position else "C1", "C3")]
            continue
        back = Way.along(
            "C2", (Leg("C2", "C1", way.chunks.reversed()), *go("C1", "C3")), table, len(way.chunks) - position
        )
        on = Way.along("C1", (*go("C1", "C2"), *go("C2", "C3")), table, position)
        assert size(found, table) == min(size(back, table), size(on, table))


def test_to_where_it_goes_already_it_goes_on(bundle):
    table, go = bundle.table, routes(bundle)
    way = Way.along("C1", go("C1", "C2"), table)
    for position in range(1, len(way.chunks)):
        found = turn(way, position, "C2", go, table)
        assert (found.at, found.start, len(found.legs)) == ("C1", position, 1)


def test_a_place_is_a_leg_and_what_is_behind_of_it(bundle):
    table, go = bundle.table, routes(bundle)
    first, second = go("C1", "C2")[0], go("C2", "C3")[0]
    way = Way.along("C1", (first, second), table)
    length = len(first.chunks)
    assert [(way.place(at)[0].end, way.place(at)[1]) for at in (0, length, length + 1, len(way.chunks))] == [
        ("C2", 0), ("C2", length), ("C3", 1), ("C3", len(second.chunks)),
    ]  # fmt: skip


def walk_to_the_middle(bundle, policy="in-place", to="C3"):
    """A network that stands after its first increment and will stand there for an hour."""
    device = profile(**PACE | {"writes__increments_per_second": 1 / 3600}, bank__snap=False)
    net = Net(bundle, device, policy)
    operation = net.switch(to)
    until(lambda: operation.progress > 0)
    return net, operation


@pytest.mark.parametrize("policy", ["in-place", "shadow"])
@pytest.mark.parametrize("paused", [False, True])
def test_the_old_operation_ends_as_retargeted_and_the_new_one_goes_on(bundle, policy, paused):
    net, old = walk_to_the_middle(bundle, policy)
    with net:
        if paused:
            old.pause()
        hurry(net)
        new = old.retarget("C2")
        result = old.wait(30)
        assert (result.outcome, result.mode, result.reason) == (Outcome.RETARGETED, "C1", "")
        assert result.bytes_written > 0
        assert (new.begin, new.target) == ("C1", "C2")
        assert new.wait(30).outcome is Outcome.COMMITTED
        assert (net.mode, net.phase) == ("C2", Phase.IDLE)
        assert stands_at(net, "C2")
        for act in (old.cancel, old.pause, lambda: old.retarget("C1")):
            with pytest.raises(IllegalEvent, match=r"C1 → C3 is over"):
                act()


def test_no_state_between_is_left_out_or_jumped_to(bundle, monkeypatch):
    """Written rows go from the version that they have to the one that the next chunk of a transition says."""
    state = {name: rows.copy() for name, rows in bundle.states["C1"].items()}
    gather = Increment.gather

    def follow(table, chunks, begin, end):
        for at in range(begin, end):
            name, row = chunks.layers[chunks.layer[at]], int(chunks.row[at])
            assert state[name][row] == chunks.old[at]
            state[name][row] = chunks.new[at]
        return gather(table, chunks, begin, end)

    monkeypatch.setattr(Increment, "gather", follow)
    net, operation = walk_to_the_middle(bundle)
    with net:
        for mode in ("C2", "C3", "C2"):
            operation = operation.retarget(mode)
            until(lambda operation=operation: operation.progress > 0)
        hurry(net)
        operation = operation.retarget("C3")
        assert operation.wait(30).outcome is Outcome.COMMITTED
        assert same_state(state, bundle.states["C3"])
        assert stands_at(net, "C3")


def test_a_cancelled_walk_may_be_turned_and_goes_on(bundle):
    net, old = walk_to_the_middle(bundle)
    with net:
        hurry(net)
        with net._engine._turnstile.turn():  # nothing is written while this turn is held
            old.cancel()
            assert net.phase is Phase.ROLLING_BACK
            new = old.retarget("C2")
            assert net.phase is Phase.WALKING
        assert old.wait(30).outcome is Outcome.RETARGETED
        assert new.wait(30).outcome is Outcome.COMMITTED
        assert stands_at(net, "C2")


def test_cancelling_a_turned_walk_leads_to_the_mode_that_was_left(bundle):
    net, old = walk_to_the_middle(bundle)
    with net:
        new = old.retarget("C2")
        hurry(net)
        new.cancel()
        result = new.wait(30)
        assert (result.outcome, result.mode) == (Outcome.CANCELLED, "C1")
        assert stands_at(net, "C1")


def test_a_mode_that_is_not_there_is_refused_and_the_walk_goes_on(bundle):
    net, operation = walk_to_the_middle(bundle)
    with net:
        with pytest.raises(UnknownMode, match="'C9'"):
            operation.retarget("C9")
        assert net.phase is Phase.WALKING
        assert operation.result is None


def test_a_walk_that_goes_back_because_something_failed_is_not_turned(bundle):
    with opened(bundle) as net:
        refused = []

        def reject(runner):
            net._plan.canary = canary
            net._plan.rest = rest
            return "canary: found 0 right answers, expected 16"

        def rest(mode, live):
            if mode == "C1":
                with pytest.raises(
                    IllegalEvent, match=r"retarget: the walk is on its way back, since C2: canary: found 0"
                ):
                    operation.retarget("C3")
                refused.append(mode)
            return live

        canary, net._plan.canary = net._plan.canary, reject
        with net._engine._turnstile.turn():
            operation = net.switch("C2")
        assert operation.wait(30).outcome is Outcome.ROLLED_BACK
        assert refused == ["C1"]


def test_a_verifying_walk_is_not_turned(bundle):
    with opened(bundle) as net:
        canary = net._plan.canary

        def ask(runner):
            with pytest.raises(IllegalEvent, match="retarget: the controller is verifying"):
                operation.retarget("C3")
            return canary(runner)

        net._plan.canary = ask
        with net._engine._turnstile.turn():
            operation = net.switch("C2")
        assert operation.wait(30).outcome is Outcome.COMMITTED


def test_turned_back_to_the_mode_it_left_with_a_wrong_canary_there_it_stops_answering(bundle):
    net, old = walk_to_the_middle(bundle)
    with net:
        net._plan.canary = lambda runner: "canary: found 0 right answers, expected 16"
        hurry(net)
        result = old.retarget("C1").wait(30)
        assert (result.outcome, net.phase) == (Outcome.FAILED, Phase.FAILED)
        assert result.reason == "C1: canary: found 0 right answers, expected 16"
        with pytest.raises(Closed):
            net.infer(bundle.evaluation.inputs[:1])


@pytest.mark.parametrize(("right", "outcome"), [(16, Outcome.COMMITTED), (0, Outcome.ROLLED_BACK)])
def test_the_guard_on_the_way_turns_a_bad_walk_back_and_says_why(bundle, right, outcome):
    with opened(bundle, guard__canary_every_increments=1) as net:
        asked = []
        net._plan._right = lambda runner: asked.append(net.phase) or (right if net.phase is Phase.WALKING else 16)
        result = net.switch("C2").wait(30)
        assert result.outcome is outcome
        assert Phase.WALKING in asked
        if outcome is Outcome.ROLLED_BACK:
            assert "C1 → C2: guard: found 0 right answers, expected at least" in result.reason
            assert stands_at(net, "C1")


def test_without_a_guard_on_the_way_nothing_is_asked_there(bundle):
    with opened(bundle) as net:
        net._plan.guard = None
        assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED


@pytest.mark.parametrize("target", ["C3", "C1", "C2"])
def test_at_any_instant_it_is_turned_or_refused_and_ends_where_it_said(bundle, target):
    turned = {}

    def turn_to(net):
        try:
            if net._controller._current is not None and net not in turned:
                turned[net] = net._controller._current.retarget(target)
        except IllegalEvent:
            assert net.phase is Phase.VERIFYING

    outcomes = set()
    for net, operation in Instants(lambda: opened(bundle), turn_to):
        outcome = operation.wait(30).outcome
        outcomes.add(outcome)
        until(lambda net=net: net.phase is Phase.IDLE)
        if outcome is Outcome.RETARGETED:
            assert turned[net].wait(30).outcome is Outcome.COMMITTED
        assert net.mode == (target if outcome is Outcome.RETARGETED else "C2")
        assert stands_at(net, net.mode)
    assert outcomes == {Outcome.RETARGETED, Outcome.COMMITTED}


@pytest.mark.parametrize("snap", [False, True])
@pytest.mark.parametrize("target", ["C3", "C1"])
def test_on_the_way_back_it_is_turned_at_any_instant_or_back_already(bundle, monkeypatch, snap, target):
    """Also between the last increment back and the end of the operation."""
    x = bundle.evaluation.inputs[:9]
    answers = {}
    for mode in ("C1", target):
        with opened(bundle, snap=snap) as net:
            net.switch(mode).wait(30)
            answers[mode] = net.infer(x).tobytes()
    gather, nets, turned = Increment.gather, [], {}

    def cancel_at_the_second(table, chunks, begin, end):
        current = nets[-1]._controller._current
        if begin and current.target == "C2" and nets[-1].phase is Phase.WALKING:
            current.cancel()
        return gather(table, chunks, begin, end)

    def make():
        nets.append(opened(bundle, snap=snap))
        return nets[-1]

    def turn_to(net):
        current = net._controller._current
        if net.phase is Phase.ROLLING_BACK and current is not None and net not in turned:
            turned[net] = current.retarget(target)

    monkeypatch.setattr(Increment, "gather", cancel_at_the_second)
    outcomes = set()
    for net, operation in Instants(make, turn_to):
        outcome = operation.wait(30).outcome
        outcomes.add(outcome)
        until(lambda net=net: net.phase is Phase.IDLE)
        if outcome is Outcome.RETARGETED:
            assert turned[net].wait(30).outcome is Outcome.COMMITTED
        assert net.mode == (target if outcome is Outcome.RETARGETED else "C1")
        assert net.infer(x).tobytes() == answers[net.mode]
    assert outcomes == {Outcome.RETARGETED, Outcome.CANCELLED}
