from __future__ import annotations

import pytest
import torch

from planner.cost import CostMeter
from planner.geodesic import FlowStatus, functional_length
from planner.metric import PullbackMetric
from planner.path_search import natural_epsilon, search_paths, straight, with_insertions
from planner.relaxation import RelaxationStatus
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
    assert len(with_insertions(metric, points, share=1e9)) == 3
    finer = with_insertions(metric, points, share=0.0, most=5)
    assert len(finer) == 6
    assert all(any(torch.equal(point, one) for one in finer) for point in points)

    def off(one: torch.Tensor, other: torch.Tensor) -> float:
        middle = toy.function(torch.lerp(one, other, 0.5))
        bend = functional_length([middle, (toy.function(one) + toy.function(other)) / 2])
        return bend / functional_length([toy.function(one), toy.function(other)])

    share = max(off(points[0], points[1]), off(points[1], points[2])) * 0.9
    [inserted] = [point for point in with_insertions(metric, points, share=share, most=3) if not any(
        torch.equal(point, one) for one in points)]  # fmt: skip
    worst = 0 if off(points[0], points[1]) > off(points[1], points[2]) else 1
    assert torch.equal(inserted, torch.lerp(points[worst], points[worst + 1], 0.5))


def test_a_linear_network_needs_no_insertions():
    toy = linear_toy()
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs)
    assert len(with_insertions(metric, straight(toy.point, random_vector(8, 4), 3))) == 4
