"""Sparse ends: as sparse as asked for, within the budget, on the support that is meant, written by whole rows."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from planner import models, sparse
from planner.cost import CostMeter
from planner.distill import Course
from planner.network import trace
from planner.row_pool import RowPool
from planner.sparse import Search, SparsityError, random_support, refit_support, salient_support, sparsify, zero_share
from runtime.walking.rows import MovedLayer
from runtime.walking.strategies import ordered

SEARCH = Search(hard=False, every=5, refreshes=4, course=Course(learning_rate=3e-3, batch_size=64, mixed=0.5))


@pytest.fixture(scope="module")
def network(trained, digits):
    return trace(trained, torch.from_numpy(digits.train_x[:1]))


@pytest.fixture(scope="module")
def inputs(digits):
    return torch.from_numpy(digits.train_x[:800])


def weights(network):
    return [layer.weight for layer in network.layers]


def off(network, end, inputs):
    with torch.no_grad():
        outputs = torch.func.functional_call(network.module, dict(end.tensors), (inputs,))
        return float((outputs - network.module(inputs)).square().sum(1).mean().sqrt())


def test_an_end_is_sparse_within_its_budget_and_near_the_dense_network(network, inputs):
    cost = CostMeter()
    before = {key: one.clone() for key, one in network.module.state_dict().items()}
    end = sparsify(network, inputs, 0.7, 6, search=SEARCH, cost=cost)
    total = sum(before[key].numel() for key in weights(network))
    assert 0.7 <= end.share <= 0.7 + 2 / total
    assert end.share == zero_share(network, end.tensors)
    # Everything is counted, and what is left over is less than a step and the rounding of the probes.
    assert 5.5 <= cost.epoch_equivalents(len(inputs)) <= 6
    plain = {key: before[key] * mask for key, mask in salient_support(network, inputs, 0.7).items()}
    assert off(network, end, inputs) < 0.7 * off(network, sparse.SparseEnd({**before, **plain}, 0.7, 0), inputs)
    assert all(torch.equal(network.module.state_dict()[key], before[key]) for key in before)


@pytest.mark.parametrize("search", [SEARCH, replace(SEARCH, hard=True), replace(SEARCH, score="magnitude", hard=True)])
def test_the_support_shrinks_and_then_settles(network, inputs, search):
    zeros, supports = [], []

    def watch(step, present):
        zeros.append(zero_share(network, present))
        supports.append(torch.cat([(present[key] != 0).flatten() for key in weights(network)]))

    end = sparsify(network, inputs, 0.8, 4, search=search, watch=watch)
    assert len(zeros) == end.steps + 1
    settled = int(search.settle * end.steps)
    assert zeros[0] < 0.05
    assert zeros[-1] == pytest.approx(0.8, abs=1e-4)
    assert all(later >= earlier - 1e-4 for earlier, later in pairwise(zeros))
    assert all(torch.equal(one, supports[-1]) for one in supports[settled:])
    back = any(bool((later & ~earlier).any()) for earlier, later in pairwise(supports))
    assert back is not search.hard


def test_the_same_seed_gives_the_same_bits(network, inputs):
    one, same, other = (sparsify(network, inputs, 0.7, 1.5, search=SEARCH, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one.tensors[key], same.tensors[key]) for key in one.tensors)
    assert any(not torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors)


def test_a_given_support_stays(network, inputs):
    masks = random_support(network, 0.6, seed=3)
    end = sparsify(network, inputs, 0.6, 1, search=SEARCH, masks=masks)
    for key in weights(network):
        assert torch.equal(end.tensors[key] != 0, masks[key].bool()), key


def test_saliency_is_about_the_function(network, inputs):
    """Weights that the metric calls cheap cost less to lose than as many small ones."""
    dense = dict(network.module.state_dict())
    scores = {key: dense[key].abs() for key in weights(network)}
    by_size = sparse._largest(scores, int(0.5 * sum(one.numel() for one in scores.values())))
    by_metric = salient_support(network, inputs, 0.5)
    lost = [
        off(
            network,
            sparse.SparseEnd({**dense, **{key: dense[key] * one for key, one in masks.items()}}, 0.5, 0),
            inputs,
        )
        for masks in (by_metric, by_size)
    ]
    assert lost[0] < 0.8 * lost[1]


def test_the_closed_form_is_least_squares_on_the_support(network, inputs):
    masks = salient_support(network, inputs, 0.7)
    dense, cost = network.module.state_dict(), CostMeter()
    end = refit_support(network, masks, inputs, cost=cost)
    assert cost.forward_passes == (1 + 2 * (len(network.layers) - 1)) * len(inputs)
    for key, mask in masks.items():
        assert (end.tensors[key][mask == 0] == 0).all()
    plain = sparse.SparseEnd({**dense, **{key: dense[key] * mask for key, mask in masks.items()}}, 0.7, 0)
    assert off(network, end, inputs) < 0.5 * off(network, plain, inputs)
    first = network.layers[0]
    read = torch.nn.functional.unfold(inputs, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    read = torch.cat([read, read.new_ones(len(read), 1)], 1)
    rows, wanted = (
        torch.cat([state[first.weight].flatten(1), state[first.bias][:, None]], 1).double()
        for state in (end.tensors, dense)
    )
    wrong = read @ (rows - wanted).T
    present = torch.cat([masks[first.weight].flatten(1), torch.ones(first.units, 1)], 1).bool()
    for row in range(first.units):
        slope = read[:, present[row]].T @ wrong[:, row] / len(read)
        # The ridge, a thousandth of the mean squared input, is all that holds the slope off zero.
        assert slope.abs().max() <= 2e-3 * (rows - wanted)[row].abs().max() * read.square().mean(), row


def test_random_supports_are_of_the_size_asked_for(network):
    one, other = random_support(network, 0.9, seed=0), random_support(network, 0.9, seed=1)
    total = sum(mask.numel() for mask in one.values())
    assert sum(int(mask.sum()) for mask in one.values()) == int(0.1 * total + 1e-9)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_sparse_end_is_written_once_output_layer_first(network, inputs):
    end = refit_support(network, salient_support(network, inputs, 0.7), inputs[:200])
    layers = tuple(
        MovedLayer(
            one.name, one.weight, one.bias, tuple(end.tensors[one.weight].shape), one.reads, one.columns_per_unit
        )
        for one in network.layers
    )
    dense = {key: one.numpy() for key, one in network.module.state_dict().items()}
    pool = RowPool(layers, dense)
    states = [pool.add(tensors, {}) for tensors in (dense, {key: one.numpy() for key, one in end.tensors.items()})]
    chunks = ordered(pool.table(), *states).chunks
    assert chunks.layer.tolist() == sorted(chunks.layer.tolist(), reverse=True)
    moving = sum(int((states[0][one.name] != states[1][one.name]).sum()) for one in layers)
    assert len(chunks) == moving > 100  # all but the rows of units that were dead from the start


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, -0.1])
def test_a_share_must_be_one(network, inputs, share):
    with pytest.raises(SparsityError, match="share"):
        sparsify(network, inputs, share, 1)


def test_a_budget_that_is_too_small_is_refused(network, inputs):
    with pytest.raises(SparsityError, match="does not cover"):
        sparsify(network, inputs, 0.5, 0.34, search=SEARCH)


@pytest.mark.parametrize(("total", "share", "kept"), [(266200, 0.9, 26620), (266200, 0.7, 79860), (7, 0.5, 3)])
def test_rounding_costs_no_weight(total, share, kept):
    assert sparse._kept(total, share) == kept


def test_only_the_layers_named_are_made_sparse_towards_the_teacher_given(network, inputs):
    before = network.module.state_dict()
    other = trace(models.build("digits-cnn", seed=3), inputs[:1])
    end = sparsify(network, inputs, 0.5, 4, search=SEARCH, layers=("fc1", "fc2"), teacher=other)
    changed = {key for key, one in end.tensors.items() if not torch.equal(one, before[key])}
    assert changed == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    zeros, total = (
        sum(count(end.tensors[key]) for key in ("fc1.weight", "fc2.weight"))
        for count in (lambda one: int((one == 0).sum()), torch.numel)
    )
    assert end.share == zeros / total
    assert 0.5 <= end.share < 0.5 + 2 / total
    apart = [off(one, end, inputs) for one in (other, network)]
    assert apart[0] < apart[1]
