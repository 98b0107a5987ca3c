"""The choice among candidates, and how candidates from several compilations share one table."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load
from scipy.optimize import minimize_scalar

from device_profiles import loader
from planner.adopt import adopt, alternative_file
from planner.candidates import (
    Candidate,
    NoSafePath,
    UnknownCost,
    check_trade_off,
    choose,
    drop_bound,
    functional_length,
)
from runtime.plan.evaluation import Answers
from runtime.plan.manifest import CostEntry
from runtime.walking import strategies
from runtime.walking.rows import ZERO, same_state
from tests.runtime.plans import table

N = 1000


def answers(right):
    return Answers(np.zeros((N, 2), np.float32), np.arange(N) < right)


DENSE = answers(980)


def candidate(name, lost, written, divergence=1.0):
    path = strategies.naive(table(), table().dense(), table().dense())
    other = answers(980 - lost)
    return Candidate(
        name, name.split()[0], path, written, 1.0, other.accuracy,
        DENSE.accuracy - drop_bound(DENSE, other), divergence,
    )  # fmt: skip


MANY_WRONG = answers(900)


def changed(lost, gained):
    """What ``MANY_WRONG`` answers, some answers lost and some gained."""
    right = np.arange(N) < 900
    right[:lost] = False
    right[900 : 900 + gained] = True
    return Answers(np.zeros((N, 2), np.float32), right)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (7, 0), (20, 5), (5, 20), (500, 3)])
def test_the_drop_bound_is_where_the_score_statistic_reaches_its_quantile(lost, gained):
    """Independent of the closed form: the constrained likelihood is maximised by search."""
    bound = drop_bound(MANY_WRONG, changed(lost, gained))

    def log_likelihood(q):
        p = q + bound
        return lost * np.log(p) + gained * np.log(q) + (N - lost - gained) * np.log1p(-p - q)

    q = minimize_scalar(lambda q: -log_likelihood(q), bounds=(1e-12, (1 - bound) / 2), method="bounded",
                        options={"xatol": 1e-13}).x  # fmt: skip
    score = (lost - gained - N * bound) / np.sqrt(N * (2 * q + bound * (1 - bound)))
    assert score == pytest.approx(-1.6449, abs=2e-3)
    assert bound > (lost - gained) / N


@pytest.mark.parametrize(("lose", "gain"), [(0.02, 0.01), (0.005, 0.0), (0.06, 0.05)])
def test_the_drop_bound_covers_the_true_drop_about_95_times_in_100(lose, gain):
    rng = np.random.default_rng(1)
    covered = 0
    for lost, gained, _ in rng.multinomial(N, [lose, gain, 1 - lose - gain], size=400):
        covered += drop_bound(MANY_WRONG, changed(lost, gained)) >= lose - gain
    assert 0.92 <= covered / 400 <= 1.0


def test_losing_every_answer_is_bounded_by_one():
    assert drop_bound(answers(N), answers(0)) == 1.0


def test_the_fewest_bytes_win_among_feasible_ones():
    found = choose([candidate("a", 2, 300), candidate("b", 3, 100), candidate("c", 40, 50)], DENSE, 0.02, "C1 → C2")
    assert found.chosen.name == "b"
    assert {one.name for one in found.feasible} == {"a", "b"}
    assert len(found.candidates) == 3


def test_among_equals_the_best_worst_state_and_then_the_divergence_decides():
    same_bytes = [candidate("a", 3, 100, 0.1), candidate("b", 2, 100, 0.9), candidate("c", 2, 100, 0.5)]
    assert choose(same_bytes, DENSE, 0.02, "").chosen.name == "c"


def test_a_longer_path_must_earn_its_bytes():
    cheap = candidate("ordered", 10, 100)
    assert choose([cheap, candidate("ramp", 9, 1000)], DENSE, 0.03, "").chosen is cheap
    better = candidate("ramp", 0, 1000)
    assert better.bound > cheap.worst
    assert choose([cheap, better], DENSE, 0.03, "").chosen is better


def test_no_feasible_path_is_refused_with_the_best_and_what_to_do():
    with pytest.raises(NoSafePath) as error:
        choose([candidate("naive", 90, 10), candidate("ordered", 20, 10)], DENSE, 0.01, "C1 → C2")
    said = str(error.value)
    assert "C1 → C2: found at best ordered, whose worst state is right on 96.00%" in said
    assert "expected a lower bound of at least 97.00%" in said
    assert "guard.max_drop_points" in said


def test_functional_length_adds_root_mean_squares():
    path = [Answers(np.full((4, 2), value, np.float32), np.ones(4, bool)) for value in (0.0, 3.0, 1.0)]
    assert functional_length(path) == pytest.approx(np.sqrt(2) * 5)


def compiled():
    """Two ramps between the same states, compiled apart: their versions collide."""
    start, end = table().dense(), table().dense()
    start["a"][4] = ZERO
    end["b"][:] = [2, 3, 4, 5]
    end["c"][:] = [2, 0, 3]
    return start, end, [strategies.ramp(table(), start, end, steps) for steps in (3, 5)]


def test_adopted_paths_write_the_same_weights_on_one_joint_table():
    start, end, paths = compiled()
    joint, adopted = adopt(table(), dict(enumerate(paths)))
    for k, path in enumerate(paths):
        adopted[k].check(joint, start, end, "adopted")
        own = path.table(table())
        for position in range(len(path.chunks) + 1):
            one = own.tensors(path.chunks.state_at(start, position))
            other = joint.tensors(adopted[k].state_at(start, position))
            assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_an_alternative_goes_on_from_the_final_table():
    start, end, (first, second) = compiled()
    joint, _ = adopt(table(), {"first": first})
    arrays = load(alternative_file(second, table(), joint))
    rows = {name.removeprefix("rows/"): value for name, value in arrays.items() if name.startswith("rows/")}
    chunks = type(second.chunks)(second.chunks.layers, *(arrays[name] for name in ("layer", "row", "old", "new")))
    extended = joint.extended(rows)
    chunks.check(extended, start, end, "alternative")
    middle = len(chunks) // 2
    one = second.table(table()).tensors(second.chunks.state_at(start, middle))
    other = extended.tensors(chunks.state_at(start, middle))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert same_state(chunks.state_at(start, len(chunks)), end)


def priced(name, lost, written, *, seconds=1.0, joules=1.0, wear=1e-6):
    cost = CostEntry(
        bytes=written, increments=1, seconds=seconds, joules=joules, cell_writes=1, wear=wear, transitions_left=9
    )
    return replace(candidate(name, lost, written), cost=cost)


def test_the_cost_that_the_profile_names_is_minimised():
    found = [
        priced("few bytes", 3, 100, seconds=9, joules=3e-6, wear=3e-6),
        priced("fast", 3, 300, seconds=1, joules=2e-6, wear=2e-6),
        priced("thrifty", 3, 400, seconds=5, joules=1e-6, wear=9e-6),
        priced("gentle", 3, 500, seconds=6, joules=8e-6, wear=1e-6),
        replace(priced("accurate", 1, 900, seconds=8, joules=9e-6, wear=8e-6), divergence=0.5),
        priced("not feasible", 60, 1, seconds=0.1, joules=0, wear=0),
    ]
    wanted = {"bytes": "few bytes", "seconds": "fast", "energy": "thrifty", "wear": "gentle", "accuracy": "accurate"}
    for trade_off, name in wanted.items():
        choice = choose(found, DENSE, 0.02, "", trade_off=trade_off)
        assert (choice.chosen.name, choice.trade_off) == (name, trade_off)
    assert choose(found, DENSE, 0.02, "").chosen.name == "few bytes"


def test_a_dearer_path_earns_whatever_the_trade_off_counts():
    cheap, better = priced("ordered", 10, 1000, seconds=1), priced("ramp", 0, 100, seconds=2)
    assert choose([cheap, better], DENSE, 0.03, "", trade_off="seconds").chosen is better
    worse = priced("ramp", 9, 100, seconds=2)
    assert choose([cheap, worse], DENSE, 0.03, "", trade_off="seconds").chosen is cheap


def test_equals_in_cost_and_worst_state_are_told_apart_by_bytes():
    found = [priced("long", 3, 300), priced("short", 3, 200)]
    for trade_off in ("seconds", "energy", "wear", "accuracy"):
        assert choose(found, DENSE, 0.02, "", trade_off=trade_off).chosen.name == "short"


def straight(name, lost, written, *, divergence=1.0, travelled=1.0):
    return replace(candidate(name, lost, written, divergence), fisher_length=travelled)


def steadiest(*found):
    return choose(found, DENSE, 0.05, "", trade_off="accuracy").chosen.name


def test_accuracy_leaves_out_what_is_known_to_be_worse():
    best, near, worse = candidate("best", 0, 300), candidate("near", 2, 200), candidate("worse", 30, 100)
    assert near.worst > best.bound > worse.worst
    assert worse.bound >= 0.98 - 0.05  # within the guard, and the cheapest
    assert steadiest(best, near, worse) == "near"  # alike in all but bytes
    assert steadiest(best, replace(near, divergence=2.0), replace(worse, divergence=0.1)) == "best"


def test_accuracy_takes_what_strays_least_then_what_travels_least_then_the_fewest_bytes():
    ordered = straight("ordered", 1, 100, divergence=1.5, travelled=1.0)
    bent = straight("bent", 2, 400, divergence=1.0, travelled=2.0)
    ramp = straight("ramp 10", 2, 900, divergence=1.0001, travelled=1.5)
    short = straight("ramp 4", 2, 500, divergence=1.0, travelled=1.51)
    assert steadiest(ordered, bent) == "bent"
    assert steadiest(ordered, bent, ramp) == "ramp 10"  # ends that all paths share differ in the last bits
    assert steadiest(ordered, bent, ramp, short) == "ramp 4"
    assert steadiest(ordered, bent, ramp, replace(short, fisher_length=1.7)) == "ramp 10"
    unmeasured = [replace(one, fisher_length=None, length=one.fisher_length) for one in (ordered, bent, ramp, short)]
    assert steadiest(*unmeasured) == "ramp 4"


def test_a_trade_off_without_figures_is_refused_with_what_to_add():
    plain = loader.load("generic-x86")
    for trade_off, field in (("energy", "energy.joules_per_byte_written"), ("wear", "writes.endurance_writes")):
        asked = msgspec.structs.replace(plain, trade_off=trade_off, energy=None)
        with pytest.raises(UnknownCost, match=rf"trade_off: found '{trade_off}' without {field}.*add it"):
            check_trade_off(asked)
    for trade_off in ("bytes", "seconds", "accuracy"):  # the pace, which every profile has, is enough for seconds
        check_trade_off(msgspec.structs.replace(plain, trade_off=trade_off))
