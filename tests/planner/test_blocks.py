"""Paths reordered and divided into blocks where the ordered one breaks the guard."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from planner.candidates import NoSafePath
from planner.cost import CostMeter
from planner.deploy import deploy, row_table
from planner.endpoint import EndPoint, Refit
from planner.endpoint_search import EndPointSearch
from planner.executors import InProcess
from planner.modes import ModeTarget
from planner.network import trace
from planner.progress import Silent
from planner.race import choose_paths
from planner.steady import HALVINGS, Verdict, hold, in_order, stages_at, steady_order
from planner.store import Store
from planner.study import BLOCKS, Job
from runtime.walking.strategies import ordered

pytestmark = pytest.mark.xdist_group("blocks")  # what they share takes long: made once, in one process

ENDS = ("C1", "C2")
PAIRS = 32
NAMES = ("weight", "bias")


@pytest.fixture(scope="module")
def twins(digits, trained, study):
    """A study of the digits network with 32 pairs of hidden nodes, between two ends that answer alike.

    At the first end both nodes of a pair are equal and count by half; at the second, one's rows are 1.95 times as large
    and the other's 0.05 times. Seats are such that in storage order all writes that speak for the digit 1 come before
    all that speak against it.
    """
    inputs = torch.from_numpy(digits.train_x)
    original = trace(trained, inputs[:2])
    search = EndPointSearch(original, inputs[:500], inputs[500:900], CostMeter())
    targets = {"C1": ModeTarget("C1", None, {}), "C2": ModeTarget("C2", "C1", {"fc1": PAIRS})}
    smaller = search.find(targets, Silent().step)["C2"]
    kept = smaller.kept(original.layer("fc1"))
    rows, bias = (smaller.tensors[f"fc1.{part}"][kept].repeat(2, *[1] * (part == "weight")) for part in NAMES)
    read = smaller.tensors["fc2.weight"][:, kept].repeat(1, 2) / 2
    factor = torch.tensor([1.95] * PAIRS + [0.05] * PAIRS)
    module = copy.deepcopy(trained)
    module.load_state_dict({**smaller.tensors, "fc1.weight": rows, "fc1.bias": bias, "fc2.weight": read})
    with torch.no_grad():
        active = torch.nn.Sequential(*list(module.children())[:6], torch.nn.Flatten(), module.fc1, module.relu3)(
            inputs[500:700]
        ).mean(0)
    seats = torch.argsort((factor - 1) * active * read[1], descending=True)
    module.load_state_dict({
        **smaller.tensors, "fc1.weight": rows[seats], "fc1.bias": bias[seats], "fc2.weight": read[:, seats],
    })  # fmt: skip
    network = trace(module, inputs[:2])
    dense = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    grown = {
        **dense, "fc1.weight": dense["fc1.weight"] * factor[seats, None],
        "fc1.bias": dense["fc1.bias"] * factor[seats],
    }  # fmt: skip
    refit = Refit(torch.empty(0), 0.0, 0.0)
    ends = {"C1": EndPoint("C1", {}, dense, {}), "C2": EndPoint("C2", {}, grown, {"fc1": refit})}
    table, states = row_table(network, ends)
    deployed = deploy(network, ends, table, states, inputs[:2], Silent())
    return replace(
        study, network=network, points=ends, table=table, states=states, live=deployed.live,
        constants=deployed.constants, max_drop=0.015, pool=inputs[500:564], probes=64,
    )  # fmt: skip


def race(study, **options):
    cost = CostMeter()
    options = {"every_candidate": False, "progress": Silent()} | options
    return choose_paths(study, (ENDS,), InProcess(), lambda one: one, cost=cost, **options)[ENDS], cost.forward_passes


@pytest.fixture(scope="module")
def raced(twins):
    return race(twins)


def test_blocks_hold_a_guard_that_the_ordered_path_breaks(twins, raced):
    choice, _ = raced
    by_name = {one.name: one for one in choice.candidates}
    ordered_one, chosen = by_name["ordered"], choice.chosen
    assert not ordered_one.complete
    (whole,) = twins.do(Job(ENDS, "ordered", race=False)).candidates
    assert whole.bound < twins.dense.accuracy - 3 * twins.max_drop
    assert chosen.name == f"ordered {BLOCKS}"
    assert chosen.strategy == "ordered"
    assert chosen.complete
    assert chosen.bytes_written == ordered_one.bytes_written
    assert chosen.bound >= twins.dense.accuracy - twins.max_drop
    chosen.path.chunks.check(twins.table, twins.states["C1"], twins.states["C2"], "in blocks")
    assert sorted(chosen.path.chunks.row.tolist()) == sorted(ordered_one.path.chunks.row.tolist())


def test_states_between_any_two_rows_are_better_in_blocks(twins, raced):
    """All whole states, not only those that were looked at: among the others one may lie a little below the guard."""
    chosen, plain = raced[0].chosen.path, ordered(twins.table, *_states(twins))
    everywhere = tuple(range(1, len(chosen.chunks)))
    in_blocks, in_order = (
        twins.measure(ENDS, "every state", replace(path, stops=everywhere), None, CostMeter())
        for path in (chosen, plain)
    )
    assert in_blocks.worst > in_order.worst + 0.03
    assert in_blocks.bound > in_order.bound + 0.03
    assert in_blocks.divergence < in_order.divergence / 3


def test_the_same_blocks_every_time(twins, raced):
    again = race(twins)[0]
    assert again.chosen.path.stops == raced[0].chosen.path.stops
    for name, array in again.chosen.path.chunks.arrays().items():
        assert np.array_equal(array, raced[0].chosen.path.chunks.arrays()[name])


def test_blocks_are_not_asked_for_where_something_is_feasible(study):
    for every in (False, True):
        cost = CostMeter()
        choices = choose_paths(study, (ENDS,), InProcess(), lambda one: one, every_candidate=every, cost=cost,
                               budget=5 * study.price(Job(ENDS, "ordered")), progress=Silent())  # fmt: skip
        for choice in choices.values():
            said = {*(one.name for one in choice.candidates), *choice.skipped, *choice.too_dear}
            assert not any(BLOCKS in name for name in said)


def test_where_blocks_do_not_hold_the_ladder_goes_on_and_ends_in_a_refusal(twins):
    with pytest.raises(NoSafePath, match="C1 → C2: found at best"):
        race(
            replace(twins, max_drop=0.001),
            budget=twins.price(Job(ENDS, "ordered")) + 2 * twins.price(Job(ENDS, "naive")),
        )
    with pytest.raises(NoSafePath, match=f"{BLOCKS}, .*geodesic were left out, raise --budget"):
        race(twins, budget=0)


def test_blocks_cost_no_more_than_their_price(twins):
    outcome = twins.do(Job(ENDS, BLOCKS, race=False))
    assert outcome.forward_passes <= twins.price(Job(ENDS, BLOCKS))


def test_blocks_are_kept_with_finished_work(twins, tmp_path):
    store, job = Store(tmp_path, twins.digest), Job(ENDS, BLOCKS)
    outcome = twins.do(job)
    path = replace(outcome.candidates[0].path, stops=(3, 5))
    store.save(job, replace(outcome, candidates=(replace(outcome.candidates[0], path=path),)))
    found = store.load(job)
    assert found.candidates[0].path.stops == (3, 5)
    assert found.candidates[0].name == f"ordered {BLOCKS}"


def _states(study):
    return study.states["C1"], study.states["C2"]


class Script:
    """Says of each block what it was told, and keeps what it was asked."""

    def __init__(self, verdict):
        self.verdict = verdict
        self.asked = []

    def __call__(self, chunks, begin, end):
        self.asked.append((begin, end))
        return self.verdict(begin, end)


def held(twins, verdict):
    look = Script(verdict)
    chunks = ordered(twins.table, *_states(twins)).chunks
    found = hold(
        twins.network, twins.table, twins.states["C1"], chunks, twins.pool[:4], look, cost=CostMeter()
    )  # fmt: skip
    found.chunks.check(twins.table, *_states(twins), "held")
    return found, look.asked, chunks


def test_what_holds_is_left_as_it_is(twins):
    found, asked, chunks = held(twins, lambda begin, end: Verdict.HOLDS)
    assert found.stops == ()
    assert asked == stages_at(chunks)
    assert np.array_equal(found.chunks.row, chunks.row)


def test_a_stage_is_reordered_first_and_then_halved_where_it_breaks(twins):
    found, asked, _ = held(twins, lambda begin, end: Verdict.BREAKS if begin == 0 and end > 16 else Verdict.HOLDS)
    assert asked == [(0, 64), (0, 64), (0, 32), (0, 16), (16, 32), (32, 64)]
    assert found.stops == (16, 32)


def test_a_middle_that_breaks_in_steady_order_ends_the_search(twins):
    found, asked, chunks = held(twins, lambda begin, end: Verdict.MIDDLE)
    assert asked == [(0, 64), (0, 64)]
    assert found.stops == ()
    assert not np.array_equal(found.chunks.row, chunks.row)


def test_halving_ends(twins):
    found, asked, _ = held(twins, lambda begin, end: Verdict.BREAKS)
    assert asked[-1] == (0, 64 >> HALVINGS)
    assert len(found.stops) == HALVINGS


def test_steady_order_pairs_what_cancels():
    effects = torch.tensor([[3.0], [3.0], [3.0], [-2.0], [-2.0], [-2.0]])
    sums = effects[steady_order(effects)].cumsum(0)
    assert (sums - torch.arange(1, 7)[:, None] / 2).abs().max() <= 2.5
    assert sorted(steady_order(effects).tolist()) == list(range(6))


def test_an_order_moves_whole_writes(twins):
    chunks = ordered(twins.table, *_states(twins)).chunks
    order = np.random.default_rng(0).permutation(len(chunks))
    mixed = in_order(chunks, order)
    assert np.array_equal(mixed.new, chunks.new[order])
    mixed.check(twins.table, *_states(twins), "mixed")
