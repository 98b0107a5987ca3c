"""Chosen paths divided into blocks so that more of their answers can be proved right, as far as the device."""

from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
import torch

from device_profiles import Change, Guard, Mode, Selector, Writes, loader
from planner.certificate import certify, stages_of
from planner.cost import CostMeter
from planner.deploy import deploy, row_table
from planner.division import DIVIDED_ON, WITNESSES, divide_choices
from planner.endpoint_search import EndPointSearch
from planner.executors import InProcess
from planner.modes import ModeTarget
from planner.plan import make_plan
from planner.progress import Silent
from planner.race import choose_paths
from planner.study import BLOCKS
from runtime.errors import BundleError
from runtime.plan import bundle_parts
from runtime.plan.bundle import read
from runtime.plan.samples import Samples
from runtime.plan.verification import verify
from runtime.reporting.findings import reason
from runtime.reporting.inspection import summary
from runtime.walking.bank import increments
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from tests.planner.conftest import OPTIONS

pytestmark = pytest.mark.xdist_group("division")  # what they share takes long: made once, in one process

ENDS = ("C1", "C2")
DEEP = 13
"""Of conv1's 16 filters; with as many removed, whole stages leave a tenth of the answers unproved."""

MOST_FOR_WITNESSES = 250 * WITNESSES
"""Forward passes: two stages, in each 6 or so for intervals, and 20 for margins by each of four rules."""


@pytest.fixture(scope="module")
def deep(digits, study):
    """A study of one transition that removes many filters, within a loose guard."""
    inputs = torch.from_numpy(digits.train_x)
    search = EndPointSearch(study.network, inputs[:600], inputs[600:900], CostMeter())
    targets = {"C1": ModeTarget("C1", None, {}), "C2": ModeTarget("C2", "C1", {"conv1": DEEP})}
    ends = search.find(targets, Silent().step)
    table, states = row_table(study.network, ends)
    deployed = deploy(study.network, ends, table, states, inputs[:2], Silent())
    return replace(
        study, points=ends, table=table, states=states, live=deployed.live, constants=deployed.constants, max_drop=0.1
    )


@pytest.fixture(scope="module")
def choices(deep):
    return choose_paths(
        deep, (ENDS,), InProcess(), lambda one: one, every_candidate=False, budget=0, cost=CostMeter(),
        progress=Silent(),
    )  # fmt: skip


def divided(study, choices, share, budget=None):
    cost = CostMeter()
    found = divide_choices(study, choices, share, budget=budget, cost=cost, progress=Silent())
    return found[ENDS], cost.forward_passes


@pytest.fixture(scope="module")
def in_blocks(deep, choices):
    return divided(deep, choices, 1.0)[0]


def test_a_path_of_which_too_little_is_proved_is_divided(deep, choices, in_blocks, digits):
    plain, chosen = choices[ENDS].chosen, in_blocks.chosen
    assert plain.name == "ordered"
    assert chosen.name == f"ordered {BLOCKS}"
    assert chosen.strategy == "ordered"
    assert chosen.bytes_written == plain.bytes_written
    assert chosen.path.stops
    assert chosen.complete
    assert in_blocks.candidates == in_blocks.feasible == (plain, chosen)
    chosen.path.chunks.check(deep.table, deep.states["C1"], deep.states["C2"], "divided")
    test = Samples(digits.test_x[:150], digits.test_y[:150])
    before, after = (
        certify(
            deep.network, deep.table, deep.states["C1"], one.path.chunks, test, cost=CostMeter(), stops=one.path.stops
        )
        for one in (plain, chosen)
    )
    assert after.torn.sum() > before.torn.sum()
    assert {*chosen.path.stops} < {stage.begin for stage in after.stages}


def test_blocks_are_whole_writes_of_one_layer(deep, in_blocks):
    path = in_blocks.chosen.path
    for writes in stages_of(deep.network, deep.table, deep.states["C1"], path.chunks, path.stops):
        assert len(set(writes.rows.tolist())) == len(writes.rows)


def test_what_is_proved_enough_is_left_alone(deep, choices):
    for share in (0.0, 0.3):
        choice, spent = divided(deep, choices, share)
        assert choice is choices[ENDS]
        assert spent <= MOST_FOR_WITNESSES * (share > 0)


def test_a_budget_that_does_not_allow_it_leaves_it_alone(deep, choices):
    assert divided(deep, choices, 1.0, budget=0) == (choices[ENDS], 0)
    choice, spent = divided(deep, choices, 1.0, budget=2 * MOST_FOR_WITNESSES)
    assert choice is choices[ENDS]
    assert 0 < spent <= MOST_FOR_WITNESSES


def test_witnesses_tell_the_share_as_counting_does(deep, choices):
    """Well above and well below what counting says of 64 samples, six witnesses say so too."""
    path = choices[ENDS].chosen.path
    counted = certify(
        deep.network, deep.table, deep.states["C1"], path.chunks, deep.samples.take(DIVIDED_ON), cost=CostMeter()
    )
    share = counted.torn.sum() / counted.ends.sum()
    assert 0.5 < share < 0.98
    low = divided(deep, choices, share - 0.15)
    assert low[0] is choices[ENDS]
    _, spent = divided(deep, choices, min(share + 0.15, 1.0))
    assert spent > MOST_FOR_WITNESSES  # it went on to count


def test_a_divided_path_that_breaks_the_guard_is_not_taken(deep, choices):
    worst = choices[ENDS].chosen.bound
    tight = replace(deep, max_drop=deep.dense.accuracy - worst - 1e-6)
    choice, _ = divided(tight, choices, 1.0)
    assert choice.chosen is choices[ENDS].chosen
    assert choice.feasible == choices[ENDS].feasible
    assert [one.name for one in choice.candidates] == ["ordered", f"ordered {BLOCKS}"]


@pytest.fixture(scope="module")
def bundle(digits, trained, tmp_path_factory):
    """A plan whose one transition is divided."""
    pi = loader.load("raspberry-pi-5")
    modes = {
        "C1": pi.modes["C1"],
        "C2": Mode(from_="C1", remove=(Change(layer=Selector(name="conv1"), count=DEEP),)),
    }
    profile = msgspec.structs.replace(pi, modes=modes, transitions=(ENDS,), guard=Guard(max_drop_points=10.0))
    path = tmp_path_factory.mktemp("divided") / "plan"
    make_plan(trained, "digits-cnn", digits, profile, path, options=replace(OPTIONS, proved=1.0, certified=40))
    return read(path)


def test_a_plan_says_where_its_blocks_are_and_proves_what_it_deploys(bundle):
    (move,) = bundle.manifest.transitions
    assert move.blocks
    assert {0, *move.blocks} <= {*move.certificate.stages}
    assert [check for check in verify(bundle, bundle.profile) if not check.ok] == []
    assert summary(bundle)["transitions"][0]["blocks"] == list(move.blocks)
    assert "it is ordered, divided into blocks so that more of its answers are proved right" in reason(move)


def test_a_device_finishes_a_block_before_it_begins_the_next(bundle):
    """In every state between increments of any size, and on the way back, at most one stage is under way."""
    (move,) = bundle.transitions
    start, end = (bundle.states[name] for name in move.ends)
    edges = [*move.entry.certificate.stages, len(move.chunks)]
    writes = [
        {(int(move.chunks.layer[at]), int(move.chunks.row[at])) for at in range(*pair)} for pair in pairwise(edges)
    ]
    for way, begin, final, blocks in (
        (move.chunks, start, end, writes), (move.chunks.reversed(), end, start, writes[::-1]),
    ):  # fmt: skip
        for budget in (1, 1500, 7000):
            for _, position, _ in increments(way, bundle.table, lambda size=budget: size):
                state = way.state_at(begin, position)
                done = [[_is(state, final, way, *row) for row in block] for block in blocks]
                shares = [np.mean(block) for block in done]
                assert shares == sorted(shares, reverse=True)
                assert sum(0 < share < 1 for share in shares) <= 1


def test_a_divided_path_is_walked_and_walked_back(bundle):
    device = msgspec.structs.replace(
        bundle.profile, writes=Writes(bytes_per_increment=2048, increments_per_second=1e5, stall_budget_ms=1e3)
    )
    with Net(bundle, device, "in-place") as net:
        for mode in ("C2", "C1"):
            assert net.switch(mode).wait(60).outcome is Outcome.COMMITTED


@pytest.mark.parametrize("blocks", [(0,), (3, 3), (5, 2), (10_000,), (1,)])
def test_blocks_that_cannot_be_are_refused(bundle, tmp_path, blocks):
    (move,) = bundle.manifest.transitions
    entry = msgspec.structs.replace(move, blocks=blocks)
    with pytest.raises(BundleError, match=r"C1 → C2: found (blocks at chunks|a block at chunk 1 )"):
        bundle_parts.read_path(entry, bundle.table, bundle.states, bundle.files[move.path], tmp_path)


def _is(state, final, chunks, layer, row):
    """Whether a row has its last version."""
    name = chunks.layers[layer]
    return state[name][row] == final[name][row]
