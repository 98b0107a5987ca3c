"""Training towards a teacher: what is matched, what stays zero, and which states on the way are matched too."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call

from planner.cost import CostMeter
from planner.distill import Course, DistillationError, Lessons, Masks, distill, divergence, teach
from planner.network import trace

COURSE = Course(learning_rate=1e-2, batch_size=32, temperature=2.0)
NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return trace(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 12))


@pytest.fixture(scope="module")
def lessons(network):
    inputs = torch.randn(256, 12, generator=torch.Generator().manual_seed(1))
    return teach(network, inputs)


def perturbed(network, size=0.2):
    generator = torch.Generator().manual_seed(2)
    return {
        key: one + size * torch.randn(one.shape, generator=generator)
        for key, one in network.module.state_dict().items()
    }


def off(network, state, lessons):
    with torch.no_grad():
        outputs = functional_call(network.module, dict(state), (lessons.inputs,))
    return float(divergence(outputs, lessons.outputs, 2.0))


class Given:
    def __init__(self, masks):
        self._masks = masks

    def masks(self, step, latent):
        return self._masks.get(step)


def test_the_teacher_is_asked_once_and_counted(network, lessons):
    cost = CostMeter()
    assert torch.equal(teach(network, lessons.inputs, cost).outputs, lessons.outputs)
    assert cost.forward_passes == 256
    with pytest.raises(DistillationError, match="no inputs"):
        teach(network, lessons.inputs[:0])


def test_training_comes_nearer_and_counts_its_steps(network, lessons):
    start, cost = perturbed(network), CostMeter()
    before = {key: one.clone() for key, one in start.items()}
    found = distill(network, start, NAMES, lessons, COURSE, 60, cost=cost)
    assert off(network, found, lessons) < 0.1 * off(network, start, lessons)
    assert cost.forward_passes == 3 * 60 * 32
    assert all(torch.equal(start[key], before[key]) for key in start)


def test_same_seed_same_bits(network, lessons):
    start = perturbed(network)
    one, same, other = (
        distill(network, start, NAMES, lessons, replace(COURSE, mixed=0.5), 10, seed=seed) for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[key], same[key]) for key in NAMES)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_only_the_named_tensors_move(network, lessons):
    start = perturbed(network)
    found = distill(network, start, ["2.weight"], lessons, COURSE, 5)
    assert set(found) == {"2.weight"}
    assert not torch.equal(found["2.weight"], start["2.weight"])


@pytest.mark.parametrize("hard", [False, True])
def test_absent_weights_are_zero_and_come_back_only_from_a_soft_mask(network, lessons, hard):
    start = perturbed(network)
    half = (torch.arange(16 * 12).view(16, 12) % 2).float()
    everything = torch.ones(16, 12)
    seen = {}
    support = Given({0: Masks({"0.weight": half}, hard), 10: Masks({"0.weight": everything}, hard=False)})

    def watch(step, weights):
        seen[step] = weights["0.weight"].detach().clone()

    distill(network, start, NAMES, lessons, COURSE, 12, support=support, watch=watch)
    assert set(seen) == set(range(13))
    assert all((seen[step][half == 0] == 0).all() and (seen[step][half == 1] != 0).all() for step in range(10))
    back = seen[10][half == 0]
    assert (back == 0).all() if hard else (back - start["0.weight"][half == 0]).abs().max() > 1e-3


def test_mixed_states_are_matched_where_only_the_end_was(network, lessons):
    """Between a perturbed start and its trained end, part way of a one-pass write."""
    start = perturbed(network, 0.5)
    ends = [
        distill(network, start, NAMES, lessons, replace(COURSE, mixed=mixed, lines=0.0), 300) for mixed in (0.0, 0.9)
    ]
    worst = []
    for end in ends:
        halves = {**start, **{key: end[key] for key in ("2.weight", "2.bias")}}  # the output layer is written, no more
        worst.append(off(network, halves, lessons))
    assert worst[1] < 0.8 * worst[0]


@pytest.mark.parametrize(
    ("change", "steps", "text"),
    [
        ({"batch_size": 0}, 1, "batch_size is 0"),
        ({"batch_size": 257}, 1, "batch_size is 257"),
        ({}, 0, "steps is 0"),
        ({"learning_rate": float("inf")}, 1, "expected positive"),
        ({"temperature": 0.0}, 1, "expected positive"),
    ],
)
def test_what_does_not_fit_is_refused(network, lessons, change, steps, text):
    with pytest.raises(DistillationError, match=text):
        distill(network, network.module.state_dict(), NAMES, lessons, replace(COURSE, **change), steps)


def test_outputs_must_be_of_the_inputs(network, lessons):
    with pytest.raises(DistillationError, match="255 outputs for 256 inputs"):
        distill(network, network.module.state_dict(), NAMES, Lessons(lessons.inputs, lessons.outputs[1:]), COURSE, 1)


def test_a_loss_that_is_not_finite_says_so(network, lessons):
    broken = Lessons(lessons.inputs, lessons.outputs * torch.nan)
    with pytest.raises(DistillationError, match="lower the learning rate"):
        distill(network, network.module.state_dict(), NAMES, broken, COURSE, 1)
