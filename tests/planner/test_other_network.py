from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from planner.configuration import Configuration, ShapeMismatch
from planner.cost import CostMeter
from planner.other_network import PULL_EVERY, ApproachError, Pull, approach, furthest
from tests import tolerances

SETTINGS = {"pulls": (1e-3, 1.0), "epochs": 15.0, "waypoints": 10, "batch_size": 32, "learning_rate": 3e-3}


class Two(NamedTuple):
    """A perceptron's two tasks on one head, digits and digits with shuffled pixels, and a network of each."""

    module: nn.Module
    space: Configuration
    ends: tuple[Tensor, Tensor]
    inputs: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    held_y: Tensor


@pytest.fixture(scope="module")
def two(digits):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).eval()
    space = Configuration.of(module.state_dict(), list(module.state_dict()))
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    images = torch.from_numpy(digits.train_x).flatten(1)
    test = torch.from_numpy(digits.test_x).flatten(1)
    labels = torch.from_numpy(digits.train_y)
    inputs, held = (images, images[:, shuffled]), (test, test[:, shuffled])
    start = space.flatten(module.state_dict())
    ends = tuple(trained(module, space, start, one, labels) for one in inputs)
    return Two(module, space, ends, inputs, held, torch.from_numpy(digits.test_y))


def trained(module: nn.Module, space: Configuration, start: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    weights = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=5e-3, weight_decay=1e-3)
    for step in range(300):
        batch = slice(step * 64 % 1280, step * 64 % 1280 + 64)
        loss = F.cross_entropy(functional_call(module, space.unflatten(weights), (images[batch],)), labels[batch])
        (weights.grad,) = torch.autograd.grad(loss, weights)
        optimiser.step()
    return weights.detach()


def both(two: Two, point: Tensor) -> tuple[float, float]:
    answers = [functional_call(two.module, two.space.unflatten(point), (one,)).argmax(1) for one in two.held]
    first, second = (float((one == two.held_y).double().mean()) for one in answers)
    return first, second


def test_pull_is_the_gradient_of_its_distance(two):
    space, (start, end) = two.space, (end.double() for end in two.ends)
    pull = Pull(space, end)
    rows = space.unflatten(end)

    def written_out(point: Tensor) -> Tensor:
        total = point.new_zeros(())
        for name, away in space.unflatten(point - end).items():
            if away.ndim == 1:
                total = total + away.square().sum()
                continue
            gram = rows[name].T @ rows[name]
            metric = 0.9 * gram / gram.diagonal().mean() + 0.1 * torch.eye(len(gram), dtype=torch.float64)
            total = total + (away @ metric * away).sum()
        return total / 2

    point = start.clone().requires_grad_()
    value = written_out(point)
    (gradient,) = torch.autograd.grad(value, point)
    assert pull.gradient(start).numpy() == pytest.approx(gradient.numpy(), abs=1e-12)
    assert pull.distance(start) ** 2 / 2 == pytest.approx(float(value.detach()), rel=tolerances.FLOAT64)
    assert pull.distance(end) == 0


def test_one_network_on_the_way_does_both(two):
    """The straight line's best is far below; neither the second task's inputs nor a label was used."""
    path = approach(two.module, two.space, *two.ends, two.inputs[0], **SETTINGS)
    line = [torch.lerp(*two.ends, place / 20) for place in range(21)]
    best = max(min(both(two, point)) for point in path.points)
    assert best > max(min(both(two, point)) for point in line) + 0.1
    assert torch.equal(path.points[0], two.ends[0])
    assert path.distances[-1] < 0.5 * path.distances[0]
    assert both(two, path.points[1])[0] > both(two, two.ends[0])[0] - 0.02  # a weak pull leaves the answers alone


def test_surrogates_count(two):
    """Inputs of the second task themselves, the ceiling of all surrogates, bring it back nearly whole."""

    def real(seen: Tensor, generator: torch.Generator) -> Tensor:
        return two.inputs[1][torch.randint(len(two.inputs[1]), (len(seen),), generator=generator)]

    settings = {**SETTINGS, "pulls": (1e-3, 0.03)}
    alone = approach(two.module, two.space, *two.ends, two.inputs[0], **settings)
    helped = approach(two.module, two.space, *two.ends, two.inputs[0], surrogate=real, **settings)
    assert min(both(two, helped.points[-1])) > min(both(two, alone.points[-1])) + 0.02
    assert min(both(two, helped.points[-1])) > min(both(two, end)[place] for place, end in enumerate(two.ends)) - 0.1


def test_same_bits_and_untouched_arguments(two):
    before = [*(end.clone() for end in two.ends), two.inputs[0].clone()]
    weights = {name: tensor.clone() for name, tensor in two.module.state_dict().items()}
    first, second = (
        approach(two.module, two.space, *two.ends, two.inputs[0], epochs=1, waypoints=3, batch_size=64, seed=4)
        for _ in range(2)
    )
    assert torch.equal(torch.stack(first.points), torch.stack(second.points))
    assert first.distances == second.distances
    for given, kept in zip([*two.ends, two.inputs[0]], before, strict=True):
        assert torch.equal(given, kept)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in two.module.state_dict().items())


@pytest.mark.parametrize("made", [False, True])
def test_cost_is_counted_whole(two, made):
    meter = CostMeter()
    found = approach(
        two.module, two.space, *two.ends, two.inputs[0][:640], epochs=2, waypoints=4, batch_size=64, cost=meter,
        surrogate=(lambda seen, _: seen) if made else None,
    )  # fmt: skip
    assert len(found.points) == len(found.pulls) == 5
    assert found.pulls[0] == 0
    assert found.pulls[-1] == pytest.approx(3.0)
    # (2 × 48 × 48 × 64 + 2 × 10 × 10 × 48) products of two weights, over 48 × 64 + 10 × 48 in a forward pass
    assert Pull(two.space, two.ends[1]).forward_passes == 86
    pulled = 86 * (20 // PULL_EVERY)
    per_sample = 3 + 4 if made else 3  # forward and backward; a surrogate also passes the second network
    assert meter.forward_passes == 640 + 20 * 64 * per_sample + pulled


def test_furthest():
    assert furthest([0.99, 0.97, 0.95, 0.9], 0.95) == 2
    assert furthest([0.99, 0.97, 0.90, 0.96], 0.95) == 1  # a path that recovers has been through the dip
    assert furthest([0.99, 0.97], 0.5) == 1
    assert furthest([0.9, 0.97], 0.95) == 0


def test_misuse_raises(two):
    arguments = (two.module, two.space, *two.ends, two.inputs[0])
    with pytest.raises(ApproachError, match="pulls are"):
        approach(*arguments, pulls=(0.0, 1.0))
    with pytest.raises(ApproachError, match="averaging is 1"):
        approach(*arguments, averaging=1.0)
    with pytest.raises(ApproachError, match="0 steps for 15 waypoints"):
        approach(*arguments, batch_size=4096)
    with pytest.raises(ShapeMismatch):
        approach(two.module, two.space, two.ends[0][1:], two.ends[1], two.inputs[0])
