"""Rows on a grid: never worse than rounding to the nearest, one scale for all versions, and no state that leaves it."""

import functools
import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from planner.cost import CostMeter
from planner.deploy import row_table
from planner.endpoint_search import EndPointSearch
from planner.grid import GridError, put_on_grid
from planner.network import trace
from planner.quantise import Part, compensated, nearest, round_layer
from runtime.plan.grid import Grid
from runtime.walking import strategies

WIDTHS = [
    Grid("int", 8),
    *(
        Grid("int", bits, *rest)
        for bits in (2, 4)
        for rest in itertools.product(("row", "layer"), ("signed", "differential"))
    ),
    Grid("int", 8, "layer", scales="powers-of-two"),
    Grid("int", 2, scales="powers-of-two"),
]


def part(seed=0, units=5, columns=12, zeros=False):
    """Rows that read correlated inputs."""
    draw = torch.Generator().manual_seed(seed)
    read = torch.randn(60, columns, generator=draw, dtype=torch.float64)
    read = read @ torch.randn(columns, columns, generator=draw, dtype=torch.float64)
    wanted = torch.randn(units, columns, generator=draw, dtype=torch.float64)
    zero = torch.rand(units, columns, generator=draw) < 0.3 if zeros else torch.zeros(units, columns, dtype=torch.bool)
    metric = read.T @ read / 60 + 0.01 * torch.eye(columns, dtype=torch.float64)
    return Part(tuple(range(units)), wanted.masked_fill(zero, 0.0), metric, zero)


def error(parts, rounded, grid):
    """What all rows cost together."""
    scaled = [
        rows * rounded.scales.double()[list(one.units), None] if grid.coded else rows
        for one, rows in zip(parts, rounded.rows, strict=True)
    ]
    return sum(float(one.error(rows).sum()) for one, rows in zip(parts, scaled, strict=True))


@pytest.mark.parametrize("grid", [*WIDTHS, Grid("float16")], ids=str)
@pytest.mark.parametrize("zeros", [False, True])
def test_rounding_by_the_metric_costs_less_than_to_the_nearest(grid, zeros):
    parts = [part(0, zeros=zeros), part(1, zeros=zeros)]
    ours, rival = round_layer(parts, 5, grid), round_layer(parts, 5, grid, rounding=nearest)
    assert error(parts, ours, grid) < error(parts, rival, grid)
    for one, rows in zip(parts, ours.rows, strict=True):
        assert (rows[one.zero] == 0).all()
        if grid.coded:
            assert torch.equal(rows, rows.round())
            assert rows.abs().max() <= grid.largest_code


def test_a_row_has_one_scale_for_all_its_versions_and_a_layer_one_for_all_rows():
    parts = [part(0), part(1, units=3)]
    by_row = round_layer(parts, 5, Grid("int", 4))
    assert by_row.scales.shape == (5,)
    assert len({*by_row.scales.tolist()}) == 5
    by_layer = round_layer(parts, 5, Grid("int", 4, "layer"))
    assert len({*by_layer.scales.tolist()}) == 1


@given(st.integers(0, 10**6), st.sampled_from([2, 4, 8]), st.sampled_from(["row", "layer"]), st.floats(1e-6, 1e6))
@settings(max_examples=40, deadline=None)
def test_scales_that_must_be_powers_of_two_are_and_cost_no_more_than_the_least_that_reaches(seed, bits, shared, size):
    """Whatever the size of the weights; the rival takes the nearest codes at the least power that holds them all."""
    one = part(seed, units=2, columns=6)
    one = Part(one.units, one.wanted * size, one.metric, one.zero)
    grid = Grid("int", bits, shared, scales="powers-of-two")
    rounded = round_layer([one], 2, grid)
    exponents = rounded.scales.double().log2()
    assert torch.equal(exponents, exponents.round())
    assert shared == "row" or len({*exponents.tolist()}) == 1
    codes = rounded.rows[0]
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() <= grid.largest_code
    largest = one.wanted.abs().amax(1) if shared == "row" else one.wanted.abs().max().expand(2)
    reaching = torch.exp2((largest / grid.largest_code).log2().ceil())
    rival = float(one.error(nearest(one, reaching, grid)).sum())
    assert error([one], rounded, grid) <= rival * (1 + 1e-9)


def test_the_best_codes_of_a_small_row_are_nearly_found():
    """Against all 3^7 rows of codes: the whole of the error that is left is within a fifth of the least there is."""
    grid, found, least = Grid("int", 2), 0.0, 0.0
    for seed in range(20):
        one = part(seed, units=1, columns=7)
        rounded = round_layer([one], 1, grid)
        found += error([one], rounded, grid)
        codes = torch.tensor([*itertools.product((-1.0, 0.0, 1.0), repeat=7)], dtype=torch.float64)
        least += float(one.error(codes * float(rounded.scales[0])).min())
    assert least <= found <= 1.2 * least


def test_inputs_that_do_not_go_together_leave_nothing_to_make_up_for():
    one = part()
    apart = Part(one.units, one.wanted, torch.diag(one.metric.diagonal()), one.zero)
    scales = torch.full((5,), 0.3, dtype=torch.float64)
    assert torch.equal(compensated(apart, scales, Grid("int", 4)), nearest(apart, scales, Grid("int", 4)))


def test_a_dead_row_and_dead_inputs_are_no_trouble():
    one = part()
    metric = one.metric.clone()
    metric[3, :] = metric[:, 3] = 0.0
    metric[3, 3] = 0.01
    dead = Part(one.units, one.wanted * torch.tensor([[1.0], [0.0], [1.0], [1.0], [1.0]]), metric, one.zero)
    rounded = round_layer([dead], 5, Grid("int", 4))
    assert torch.isfinite(rounded.scales).all()
    assert (rounded.rows[0][1] == 0).all()


# A network small enough to be put on every grid, with modes that remove, restore and refit.

MODES = {
    "C1": {},
    "C2": {"0": (1, 4)},
    "C3": {"0": (1, 4), "3": (0, 2)},
    "C4": {"0": (1,), "3": (0, 2)},
}


def network():
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 8), nn.ReLU(), nn.Linear(8, 5, bias=False)
    ).eval()
    return trace(module, torch.randn(2, 1, 6, 6))


@functools.cache
def placed(grid, rounding=None):
    """All modes on a grid, and the row versions that a plan would have."""
    whole = network()
    fit = torch.randn(80, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    search = EndPointSearch(whole, fit, fit[:40], CostMeter())
    ends = {mode: search.build(mode, removed) for mode, removed in MODES.items()}
    found = put_on_grid(whole, ends, grid, fit, cost=CostMeter(), rounding=rounding)
    return (*row_table(found.network, found.ends, grid), found, ends)


WRITES = {"ordered": strategies.ordered, "zero-first": strategies.zero_first, "naive": strategies.naive}
GRIDS = [*WIDTHS, Grid("int", 4, bias="int32"), Grid("float16")]


@settings(max_examples=100)
@given(st.data())
def test_no_state_leaves_the_grid(data):
    """Whole or torn anywhere, on any way between any two modes: each weight is a code times its row's one scale."""
    grid = data.draw(st.sampled_from(GRIDS))
    table, states, found, _ = placed(grid)
    begin, end = data.draw(st.permutations([*states]).map(lambda order: order[:2]))
    chunks = WRITES[data.draw(st.sampled_from([*WRITES]))](table, states[begin], states[end]).chunks
    start = states[begin]
    if data.draw(st.booleans()):
        chunks, start = chunks.reversed(), states[end]
    written = [*zip(chunks.layer.tolist(), chunks.row.tolist(), strict=True)]
    assert len(set(written)) == len(written)  # each cell is written once
    position = data.draw(st.integers(0, len(chunks)))
    tensors = table.tensors(chunks.state_at(start, position))
    if position < len(chunks):
        width = table.layer(chunks.layers[chunks.layer[position]]).width
        table.write(tensors, *chunks.torn(table, position, data.draw(st.integers(0, width))))
    for layer in table.layers:
        weights = tensors[layer.weight].reshape(layer.units, -1)
        if not grid.coded:
            assert np.array_equal(weights, weights.astype(np.float16))
            continue
        for row, values in enumerate(weights):
            scale = found.scales[layer.name][row if grid.scale == "row" else 0]
            assert grid.scales == "any" or np.log2(scale) == np.rint(np.log2(scale))
            allowed = np.arange(-grid.largest_code, grid.largest_code + 1).astype(np.float32) * scale
            assert np.isin(values, allowed).all(), (layer.name, row)
            if grid.bias == "int32" and layer.bias is not None:
                code = np.rint(tensors[layer.bias][row] / np.float64(scale) * 256)
                assert np.float32(code) * (scale * np.float32(1 / 256)) == tensors[layer.bias][row]


@pytest.mark.parametrize("grid", [Grid("int", 2), Grid("int", 4), Grid("int", 4, "layer"), Grid("float16")], ids=str)
def test_every_mode_answers_more_like_its_float32_self_than_by_nearest_rounding(grid):
    _, _, ours, ends = placed(grid)
    _, _, rival, _ = placed(grid, nearest)
    inputs = torch.randn(400, 1, 6, 6, generator=torch.Generator().manual_seed(9))

    def answers(tensors):
        with torch.no_grad():
            return torch.func.functional_call(ours.network.module, dict(tensors), (inputs,))

    def away(found):
        return sum(
            float((answers(found.ends[mode].tensors) - answers(ends[mode].tensors)).square().mean()) for mode in ends
        )

    assert away(ours) < away(rival)


def test_rows_that_modes_share_stay_shared_and_what_is_gone_stays_gone():
    table, states, found, ends = placed(Grid("int", 4))
    kept = [unit for unit in range(6) if unit not in MODES["C2"]["0"]]
    assert (states["C2"]["0"][kept] == 0).all()  # the filters that are left are C1's, bit for bit
    assert np.array_equal(states["C2"]["3"], np.where(states["C3"]["3"] == 1, states["C2"]["3"], states["C3"]["3"]))
    for mode, end in found.ends.items():
        for name, tensor in ends[mode].tensors.items():
            assert (end.tensors[name][tensor == 0] == 0).all() or name.endswith("bias")
    assert table.layer("0").row_bytes == 5 + 4  # nine weights of four bits, and a bias


def test_bits_are_spent_where_they_help():
    errors = [sum(placed(Grid("int", bits))[2].errors["C1"].values()) for bits in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2]


def test_a_bias_in_integers_needs_a_scale():
    whole = network()
    search = EndPointSearch(whole, torch.randn(8, 1, 6, 6), torch.randn(8, 1, 6, 6), CostMeter())
    with pytest.raises(GridError, match="found int32 with float16, expected float32"):
        put_on_grid(
            whole, {"C1": search.build("C1", {})}, Grid("float16", bias="int32"), torch.randn(8, 1, 6, 6),
            cost=CostMeter(),
        )  # fmt: skip
