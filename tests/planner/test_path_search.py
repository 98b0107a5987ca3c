from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from planner.configuration import Configuration
from planner.cost import CostMeter
from planner.datasets import load
from planner.geodesic import FlowStatus, functional_length
from planner.insertion import Judge, at_bends, at_dips
from planner.metric import PullbackMetric
from planner.path_search import LEGS, natural_epsilon, search_paths, straight
from planner.relaxation import RelaxationStatus, relax
from tests import tolerances
from tests.oracles import convolutional_toy, linear_toy, random_vector


def test_every_kind_of_path_with_its_record():
    toy, cost = convolutional_toy(), CostMeter()
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs, cost=cost)
    stop = toy.point + 0.1 * random_vector(toy.configuration.size, 1)
    stop[:9] = 0.0
    found = {path.name: path for path in search_paths(metric, toy.point, stop, iterations=5)}
    assert list(found) == ["flow", "relaxed-flow", "relaxed-line", "corrected"]
    for path in found.values():
        assert torch.equal(path.points[0], toy.point)
        assert torch.equal(path.points[-1], stop)
        assert len(path.points) == 5 + path.record.inserted
        outputs = [toy.function(point) for point in path.points]
        assert path.record.length == pytest.approx(functional_length(outputs), rel=tolerances.FLOAT64)
        assert path.record.forward_passes > 0
        assert path.record.advice
    assert found["flow"].record.status in FlowStatus.__members__
    for name in ("relaxed-flow", "relaxed-line"):
        record = found[name].record
        assert record.status in RelaxationStatus.__members__
        assert record.energy_after <= record.energy_before
        assert record.between_after <= record.between_before
    assert found["flow"].record.energy_before is None
    # The flow is found once and its cost is part of what is relaxed from it.
    assert found["relaxed-flow"].record.forward_passes > found["flow"].record.forward_passes
    spent = sum(path.record.forward_passes for name, path in found.items() if name != "flow")
    assert spent <= cost.forward_passes


def test_nothing_to_search_for():
    toy = linear_toy()
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs)
    assert search_paths(metric, toy.point, toy.point.clone()) == []
    # No weight is zero at either end: nothing is prescribed, so nothing is corrected.
    names = [path.name for path in search_paths(metric, toy.point, 2 * toy.point)]
    assert names == ["flow", "relaxed-flow", "relaxed-line"]


def test_natural_epsilon_weighs_both_terms_alike():
    toy = linear_toy()
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs)
    stop = random_vector(8, 2)
    epsilon = natural_epsilon(metric, toy.point, stop)
    change = functional_length([toy.function(toy.point), toy.function(stop)])
    assert epsilon * float((stop - toy.point).square().sum()) == pytest.approx(change**2)


def test_waypoints_are_inserted_where_the_network_leaves_the_chord():
    toy = convolutional_toy()
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs)
    points = straight(toy.point, 3 * random_vector(toy.configuration.size, 3), 2)
    assert len(at_bends(metric, points, most=2 * LEGS, share=1e9)) == 3
    finer = at_bends(metric, points, share=0.0, most=5)
    assert len(finer) == 6
    assert all(any(torch.equal(point, one) for one in finer) for point in points)

    def off(one: torch.Tensor, other: torch.Tensor) -> float:
        middle = toy.function(torch.lerp(one, other, 0.5))
        bend = functional_length([middle, (toy.function(one) + toy.function(other)) / 2])
        return bend / functional_length([toy.function(one), toy.function(other)])

    share = max(off(points[0], points[1]), off(points[1], points[2])) * 0.9
    [inserted] = [point for point in at_bends(metric, points, share=share, most=3) if not any(
        torch.equal(point, one) for one in points)]  # fmt: skip
    worst = 0 if off(points[0], points[1]) > off(points[1], points[2]) else 1
    assert torch.equal(inserted, torch.lerp(points[worst], points[worst + 1], 0.5))


def test_a_linear_network_needs_no_insertions():
    toy = linear_toy()
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs)
    assert len(at_bends(metric, straight(toy.point, random_vector(8, 4), 3), most=2 * LEGS)) == 4


class Pair:
    """Two perceptrons trained on the digits from different seeds, and what lies between them.

    Attributes:
        metric: Pullback metric on 64 training images.
        start: Weights of the one.
        stop: Weights of the other.
        accuracy: Share of 400 other images that are answered right.
    """

    def __init__(self, seeds: tuple[int, int]) -> None:
        digits = load("digits")
        images, labels = torch.from_numpy(digits.train_x).flatten(1), torch.from_numpy(digits.train_y)
        modules = [self._trained(seed, images[:800], labels[:800]) for seed in seeds]
        configuration = Configuration.of(modules[0].state_dict(), list(modules[0].state_dict()))
        self.start, self.stop = (configuration.flatten(module.state_dict()) for module in modules)
        self.metric = PullbackMetric(modules[0], configuration, images[:64])
        held = PullbackMetric(modules[0], configuration, images[800:1200])
        self.accuracy = lambda point: float((held.outputs(point).argmax(1) == labels[800:1200]).double().mean())

    @staticmethod
    def _trained(seed: int, images: Tensor, labels: Tensor) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = nn.Sequential(
                nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10)
            )  # fmt: skip
        optimiser = torch.optim.Adam(module.parameters(), 1e-2)
        for _ in range(80):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(images), labels).backward()
            optimiser.step()
        return module

    def dip(self, points: Sequence[Tensor]) -> float:
        """Deepest fall at the middle of a leg below the lower of its ends."""
        seen = [self.accuracy(point) for point in points]
        middles = [self.accuracy(torch.lerp(one, other, 0.5)) for one, other in pairwise(points)]
        return max(min(ends) - middle for ends, middle in zip(pairwise(seen), middles, strict=True))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair((2, 3))


def test_a_waypoint_where_the_accuracy_dips_lets_relaxation_lower_the_dip(pair: Pair):
    line = straight(pair.start, pair.stop, 1)
    barrier = pair.dip(line)
    assert barrier > 0.3
    judge = Judge(pair.accuracy, 0.025)
    finer = at_dips(line, judge, most=2 * LEGS)
    assert len(finer) >= 3
    assert all(torch.equal(one, other) for one, other in zip(line, (finer[0], finer[-1]), strict=True))
    epsilon = natural_epsilon(pair.metric, pair.start, pair.stop)
    relaxed = relax(pair.metric, finer, epsilon=epsilon, iterations=20).points
    again = at_dips(relaxed, judge, most=2 * LEGS)
    if len(again) > len(relaxed):
        relaxed = relax(pair.metric, again, epsilon=epsilon, iterations=20).points
    assert pair.dip(relaxed) < barrier / 5
    worst = min(map(pair.accuracy, straight(pair.start, pair.stop, 8)))
    assert min(map(pair.accuracy, relaxed)) > worst + 0.3


def test_dips_are_inserted_deepest_first_and_no_more_than_allowed(pair: Pair):
    line = straight(pair.start, pair.stop, 2)
    assert at_dips(line, Judge(pair.accuracy, 1.0), most=2 * LEGS) == line
    all_of_them = at_dips(line, Judge(lambda point: -float((point - pair.start).square().sum()), -1e9), most=5)
    assert len(all_of_them) == 6
    hole = torch.lerp(pair.start, pair.stop, 0.75)
    finer = at_dips(line, Judge(lambda point: 0.0 if torch.allclose(point, hole) else 1.0, 0.5), most=2 * LEGS)
    assert len(finer) == 4
    assert torch.equal(finer[2], torch.lerp(line[1], line[2], 0.5))


def test_a_judge_adds_waypoints_to_found_paths_and_only_where_it_sees_a_dip(pair: Pair):
    def found(judge: Judge | None):
        return {path.name: path for path in search_paths(pair.metric, pair.start, pair.stop, judge=judge)}

    plain, content, strict = found(None), found(Judge(pair.accuracy, 1.0)), found(Judge(pair.accuracy, 0.005))
    again = found(Judge(pair.accuracy, 0.005))
    for name, path in plain.items():
        assert len(content[name].points) == len(path.points)
        assert all(map(torch.equal, content[name].points, path.points)), name
        assert all(map(torch.equal, again[name].points, strict[name].points)), name
        assert len(strict[name].points) >= len(path.points)
        assert strict[name].record.inserted == len(strict[name].points) - 5
    for name in ("flow", "relaxed-line"):
        assert pair.dip(plain[name].points) > 0.005
        assert strict[name].record.inserted > plain[name].record.inserted
        assert pair.dip(strict[name].points) < min(0.005, pair.dip(plain[name].points))
