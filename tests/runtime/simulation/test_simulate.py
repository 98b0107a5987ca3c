"""What a trace does to a plan under each strategy."""

import msgspec
import numpy as np
import pytest

from runtime.errors import BundleError
from runtime.plan.evaluation import Evaluator
from runtime.plan.fit import peak_bytes
from runtime.simulation import ByHand, Stage, TraceError, as_json, simulate_trace
from runtime.simulation.simulate import STEPS
from runtime.simulation.simulator import PLANNED, STRATEGIES
from runtime.simulation.trace import Arrivals
from runtime.walking.behind import SLOWER
from tests.runtime.bundles import profile
from tests.runtime.simulation.cases import LATENCY, heated, trace

SLOW = {"bytes_per_increment": 100, "increments_per_second": 2.0}


def in_place(**changes):
    return profile(bank__policy="in-place", **changes)


def played(plan, stage, one=None, names=("planned", "naive", "flip", "reload"), *, device=None, **options):
    options = {"latency_s": LATENCY, **SLOW, **options}
    kept = {}
    result = simulate_trace(
        plan, device or in_place(), one or trace(), names, stage=stage, keep=kept.__setitem__, **options
    )
    return result, kept


def test_every_strategy_plays_and_ends_at_the_mode_asked_for_last(plan, stage):
    names = [name for name in (PLANNED, *STRATEGIES) if name != "geodesic"]
    result, kept = played(plan, stage, names=names, increments_per_second=50.0)
    assert set(result.strategies) == set(names)
    for name, one in result.strategies.items():
        assert kept[name].mover.mode == "C1"
        assert one.switches == 3
        assert one.answered + one.refused == one.requests
        assert sum(one.mode_s.values()) == pytest.approx(40.0)
    assert "geodesic" in played(plan, stage, names=["geodesic"])[0].left_out


def test_answers_are_those_of_the_state_that_gave_them(plan, stage):
    """An oracle of its own: each state is built from its versions and asked as evidence is asked."""
    _, kept = played(plan, stage, names=["planned"])
    one = kept["planned"]
    samples = np.random.default_rng([0, 2]).integers(0, len(plan.evaluation), len(one.label))
    evaluator = Evaluator(stage.session, plan.evaluation)
    paths = stage.of_strategy("planned")
    chunks = {move.ends: move.chunks for move in paths.transitions}
    by_place = {}
    for place in one.visited:
        begin, end, behind = place
        state = paths.states[begin]
        if begin != end:
            state = chunks[begin, end].state_at(state, behind)
        by_place[place] = np.argmax(evaluator.at(paths.table, state).outputs, axis=1)
    assert len(by_place) > 5
    # every answer is one that some visited state gives, and those at rest are the mode's own
    possible = np.array([labels[samples] for labels in by_place.values()])
    assert (possible == one.label).any(axis=0).all()
    resting = ~one.mixed
    at_rest = np.array([by_place[mode, mode, 0][samples] for mode in ("C1", "C2", "C3")])
    assert (at_rest == one.label).any(axis=0)[resting].all()


def test_the_same_seed_gives_the_same_result_whatever_is_known_already(plan, stage):
    one, again = played(plan, Stage.of(plan), seed=5)[0], played(plan, stage, seed=5)[0]
    assert msgspec.json.encode(one) == msgspec.json.encode(again)
    assert msgspec.json.encode(played(plan, stage, seed=6)[0]) != msgspec.json.encode(one)
    assert as_json(one)["seed"] == 5


def test_all_strategies_get_the_same_requests(plan, stage):
    result, kept = played(plan, stage)
    lengths = {len(one.label) for one in kept.values()}
    assert len(lengths) == 1
    assert len({one.requests for one in result.strategies.values()}) == 1


def test_only_walks_answer_from_states_in_between(plan, stage):
    result, kept = played(plan, stage)
    assert kept["planned"].mixed.sum() > 100
    assert result.strategies["planned"].on_the_way == kept["planned"].mixed.sum()
    for name in ("flip", "reload"):
        assert result.strategies[name].on_the_way == result.strategies[name].wrong_by_transition == 0


def test_counts_fit_together(plan, stage):
    result, _ = played(plan, stage)
    for one in result.strategies.values():
        assert one.wrong_by_transition <= one.lost_on_the_way <= min(one.lost, one.on_the_way)
        assert one.right - one.dense_right == one.gained - one.lost
        assert one.lost + one.gained <= one.different
        assert sum(one.series.answered) == one.answered
        assert sum(one.series.refused) == one.refused
        assert sum(one.series.wrong_by_transition) == one.wrong_by_transition
        assert one.harmed == one.refused + one.late + one.wrong_by_transition


def test_a_walk_takes_as_long_as_its_increments_and_writes_its_bytes(plan, stage):
    result, kept = played(plan, stage, trace(manual=(ByHand(at_s=5, mode="C2"),)), ["planned"])
    move = plan.transitions[0]
    one = result.strategies["planned"]
    assert one.bytes_written == move.entry.bytes_written
    # the first increment is written at once; after the last, the canary gets the time that callers leave
    asked_s = one.walking_s - (one.increments - 1) / SLOW["increments_per_second"]
    alone_s = len(plan.canary) * (LATENCY["live"] + LATENCY["C2"])
    assert alone_s < asked_s < 2 * alone_s
    assert sum(rows.sum() for rows in kept["planned"].mover.ledger.wear.values()) == len(move.chunks)


def test_without_room_for_a_second_copy_flip_is_left_out_and_a_reload_leaves_a_gap(plan, stage):
    device = in_place(queue_limit=4)
    result, _ = played(plan, stage, names=["planned", "flip", "reload"], device=device, second_copy=False)
    assert "no second copy" in result.left_out["flip"]
    reload = result.strategies["reload"]
    assert reload.refused > 0
    assert reload.longest_ms > 1000
    assert result.choice.strategy == "planned"
    assert "flip" in result.choice.why
    roomy, _ = played(plan, stage, names=["reload"], device=device)
    assert roomy.strategies["reload"].refused == 0
    assert roomy.strategies["reload"].peak_weight_bytes > reload.peak_weight_bytes


def test_memory_that_is_too_small_leaves_a_strategy_out_by_name(plan, stage):
    device = msgspec.structs.replace(profile(), memory=msgspec.structs.replace(profile().memory, weights_bytes=10))
    result, _ = played(plan, stage, device=device)
    assert not result.strategies
    assert result.choice is None
    assert set(result.left_out) == {"planned", "naive", "flip", "reload"}
    assert all("weights_bytes is 10" in why for why in result.left_out.values())


def test_late_and_refused_requests_are_counted_against_the_deadline_and_the_line(plan, stage):
    crowd = trace(
        requests=(Arrivals(kind="bursts", every_s=10.0, count=20, within_s=0.0),),
        manual=(),
        deadline_ms=9.5,
        seconds=10,
    )
    result, _ = played(plan, stage, crowd, ["planned"], device=in_place(queue_limit=9, bank__snap=False))
    one = result.strategies["planned"]
    # of 20 at once, one is served and nine wait, 3 ms each: those from the fourth on take longer
    assert (one.answered, one.refused, one.late) == (10, 10, 7)
    assert one.longest_ms == pytest.approx(30.0)


def test_writing_that_takes_time_keeps_callers_out_and_shrinks_to_the_stall_budget(plan, stage):
    device = in_place(writes__bytes_per_second={"value": 1e4, "provenance": "assumed", "source": "test"})
    result, _ = played(plan, stage, names=["planned"], device=device, bytes_per_increment=400)
    one = result.strategies["planned"]
    assert one.longest_stall_ms == pytest.approx(0.04 * 1e3, rel=0.3)
    # the budget halves for as long as an increment stalls longer than 2 ms, so that more of them are needed
    assert (
        one.increments
        > played(plan, stage, names=["planned"], bytes_per_increment=400)[0].strategies["planned"].increments
    )
    assert one.p99_ms > 3.0


def test_retries_and_whole_units_of_the_memory_cost_bytes_energy_and_wear(plan, stage):
    figure = {"provenance": "assumed", "source": "test"}
    device = in_place(
        writes__granularity_bytes=64,
        writes__verify={"mean_writes": {"value": 3.0, **figure}, "most_writes": 10},
        writes__endurance_writes={"value": 1000.0, **figure},
        energy={
            "idle_w": {"value": 2.0, **figure},
            "joules_per_mac": {"value": 1e-3, **figure},
            "joules_per_byte_written": {"value": 1e-2, **figure},
        },
    )
    result, kept = played(plan, stage, trace(manual=(ByHand(at_s=5, mode="C2"),)), ["planned"], device=device)
    one, move = result.strategies["planned"], plan.transitions[0]
    sizes = move.chunks.chunk_bytes(plan.table)
    assert one.physical_bytes == pytest.approx(3 * sum(-(-int(size) // 64) * 64 for size in sizes))
    assert one.wear_writes == 3.0
    assert one.wear_share == pytest.approx(0.003)
    assert one.energy.idle_j == pytest.approx(80.0)
    assert one.energy.writes_j == pytest.approx(one.physical_bytes * 1e-2)
    macs = {mode.name: mode.macs for mode in plan.manifest.modes}
    asked = len(plan.canary) * (macs["C1"] + macs["C2"])
    assert one.energy.answers_j == pytest.approx((kept["planned"].macs.sum() + asked) * 1e-3)
    assert one.total_j == pytest.approx(one.energy.idle_j + one.energy.answers_j + one.energy.writes_j)
    assert sum(one.series.watts) * result.window_s == pytest.approx(one.total_j, rel=1e-6)
    assert {line.name for line in result.assumptions} >= {"writes.verify.mean_writes", "energy.idle_w"}


def test_triggers_change_the_mode_with_hysteresis_and_dwell(plan, stage):
    flicker = [(0.0, 75.0), (10.0, 75.0), (12.0, 82.0), (14.0, 75.0), (20.0, 75.0), (22.0, 90.0), (35.0, 90.0)]
    moved, _ = played(plan, stage, heated(*flicker), ["flip"], increments_per_second=1e3)
    patient, _ = played(plan, stage, heated(*flicker, dwell_s=5.0), ["flip"], increments_per_second=1e3)
    # without a dwell time it goes at 12 s, and stays: 75 °C is above the lower threshold
    assert moved.strategies["flip"].mode_s["C3"] == pytest.approx(28.0, abs=0.5)
    # with one, two seconds above the threshold do not count
    assert 10 < patient.strategies["flip"].mode_s["C3"] < 16
    assert moved.triggers == "trace"


def test_a_reading_that_falls_back_waits_for_the_walk_s_end_as_on_a_device(plan, stage):
    """Only a higher rank turns a walk; the default mode is the lowest."""
    swings = [(0.0, 75.0), (2.0, 90.0), (6.0, 60.0), (40.0, 60.0)]
    result, kept = played(plan, stage, heated(*swings), ["planned", "flip"], increments_per_second=1.5)
    for name in ("planned", "flip"):
        assert (result.strategies[name].switches, result.strategies[name].turned) == (2, 0)
        assert kept[name].mover.mode == "C1"


def test_a_walk_asked_for_by_hand_is_turned_by_hand_on_its_way(plan, stage):
    swift = trace(manual=(ByHand(at_s=5, mode="C2"), ByHand(at_s=7.2, mode="C1")))
    result, kept = played(plan, stage, swift, ["planned", "flip"], increments_per_second=1.0)
    for name in ("planned", "flip"):
        assert result.strategies[name].turned == 1
        assert kept[name].mover.mode == "C1"
        assert result.strategies[name].mode_s["C2"] == 0.0
    # it goes back over the states that it came by
    there = kept["planned"].visited
    assert there == there[::-1]
    assert len(there) > 4


def test_a_profile_s_own_triggers_go_before_the_trace_s(plan, stage):
    own = {"name": "own", "mode": "C2", "source": "temperature", "enter_above": 50.0, "leave_below": 40.0}
    result, kept = played(
        plan, stage, heated((0.0, 60.0)), ["flip"], device=profile(triggers=[own]), increments_per_second=1e3
    )
    assert result.triggers == "profile"
    assert kept["flip"].mover.mode == "C2"


def test_what_the_plan_does_not_have_is_refused(plan, stage):
    with pytest.raises(TraceError, match="found 'C9'"):
        played(plan, stage, trace(manual=(ByHand(at_s=1, mode="C9"),)))
    with pytest.raises(TraceError, match="latency: found none of C3"):
        played(plan, stage, latency_s={"C1": 1e-3, "C2": 1e-3})
    with pytest.raises(BundleError, match="mode 'C9'"):
        played(plan, stage, device=msgspec.structs.replace(profile(), default_mode="C9"))


def test_under_shadow_nobody_waits_for_writing_and_two_copies_are_held(plan, stage):
    slow = {"writes__bytes_per_second": {"value": 1e4, "provenance": "assumed", "source": "test"}}
    turns, _ = played(plan, stage, names=["planned"], device=in_place(**slow), bytes_per_increment=400)
    both, kept = played(plan, stage, names=["planned"], device=profile(**slow), bytes_per_increment=400)
    one, other = both.strategies["planned"], turns.strategies["planned"]
    assert (both.policy, turns.policy) == ("shadow", "in-place")
    assert one.longest_stall_ms == 0.0 < other.longest_stall_ms
    assert one.longest_ms < other.longest_ms
    moved = sum(layer.row_bytes * layer.units for layer in plan.table.layers)
    assert one.peak_weight_bytes == other.peak_weight_bytes + moved
    assert one.bytes_written == other.bytes_written
    # of each row the second copy takes one more write, later; no cell is written more often for that
    assert one.physical_bytes > other.physical_bytes
    assert one.wear_writes == other.wear_writes
    assert kept["planned"].mover.mode == "C1"


def test_without_room_auto_walks_in_place_and_shadow_is_left_out(plan, stage):
    need = peak_bytes(plan, 2, snap=True)
    assert played(plan, stage, names=["planned"], device=profile(memory__weights_bytes=need))[0].policy == "shadow"
    small, _ = played(plan, stage, names=["planned"], device=profile(memory__weights_bytes=need - 1))
    assert (small.policy, list(small.strategies)) == ("in-place", ["planned"])
    assert played(plan, stage, names=["planned"], device=profile(), second_copy=False)[0].policy == "in-place"
    refused, _ = played(plan, stage, names=["planned"], device=profile(), second_copy=False, policy="shadow")
    assert "second copy" in refused.left_out["planned"]
    with pytest.raises(BundleError, match="policy: found 'elsewhere'"):
        played(plan, stage, policy="elsewhere")


@pytest.mark.parametrize("busy", [False, True])
def test_a_canary_gets_the_time_that_callers_leave(plan, stage, busy):
    """Against a line that is never empty, a seventieth of what callers get; those wait a seventieth longer."""
    rate = 400.0 if busy else 0.1
    one = trace(
        requests=(Arrivals(kind="constant", per_second=rate),), manual=(ByHand(at_s=5, mode="C2"),), deadline_ms=1e4
    )
    device = in_place(bank__snap=False, queue_limit=10)
    result, kept = played(plan, stage, one, ["planned"], device=device, bytes_per_increment=10**6)
    alone_s = len(plan.canary) * LATENCY["live"]
    walking_s = result.strategies["planned"].walking_s
    # the one increment takes its turn behind ten callers
    waited_s = 10 * LATENCY["live"] if busy else 0.0
    assert walking_s == pytest.approx((1 + 1 / (SLOWER - 1) if busy else 1) * alone_s + waited_s, rel=0.02)
    if busy:
        seconds = kept["planned"].latency_s
        assert np.nanmax(seconds) == pytest.approx(11 * LATENCY["live"] * SLOWER, rel=0.05)


def test_who_waits_is_told_how_far_it_is_and_interrupts_at_once(plan, stage):
    told = []
    played(plan, stage, names=["planned", "geodesic", "flip"], step=told.append)
    assert len(told) == 3 * STEPS, "those left out count as played"
    assert told[1] == "planned, 4 of 40 s"

    def interrupt(detail):
        if detail == "planned, 20 of 40 s":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        played(plan, stage, names=["planned"], step=interrupt)
    assert played(plan, stage, names=["planned"])[0].strategies["planned"].switches == 3, "the stage is as it was"


def test_rows_of_strategies_are_kept_up_to_a_limit(plan, monkeypatch):
    monkeypatch.setattr("runtime.simulation.simulate.MOST_PATH_BYTES", 0)
    stage = Stage.of(plan)
    large = stage.of_strategy("ramp")
    assert large.own_bytes > plan.table.pool[plan.table.names[0]].nbytes
    stage.of_strategy("planned")
    assert list(stage.paths) == ["planned"], "the ramp's rows are let go"
    assert stage.of_strategy("planned") is stage.of_strategy("planned")


def test_latency_is_told_at_rest_and_while_switching(plan, stage):
    slow = {"writes__bytes_per_second": {"value": 1e4, "provenance": "assumed", "source": "test"}}
    result, kept = played(plan, stage, names=["planned"], device=in_place(**slow), bytes_per_increment=400)
    one, seen = result.strategies["planned"], kept["planned"]
    assert one.at_rest.answered + one.under_way.answered == one.answered
    assert one.under_way.p99_ms > one.at_rest.p99_ms
    assert one.under_way.p50_ms == pytest.approx(1e3 * np.median(seen.latency_s[seen.under_way]))
    assert (seen.mixed <= seen.under_way).all()
    still, _ = played(plan, stage, trace(manual=()), ["planned"], device=in_place())
    assert still.strategies["planned"].under_way is None
