from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from planner.configuration import Configuration, ShapeMismatch
from planner.cost import CostError, CostMeter
from planner.metric import MetricError, PullbackMetric
from tests import tolerances
from tests.oracles import (
    Toy,
    attentive_toy,
    convolutional_toy,
    curved_toy,
    dense_jacobian,
    dense_metric,
    linear_toy,
    random_vector,
)

TOYS = [
    curved_toy(3), convolutional_toy(), convolutional_toy(names=("0.weight", "6.bias")), linear_toy(), attentive_toy()
]  # fmt: skip
SEEDS = st.integers(0, 2**31)


def metric_of(toy: Toy, batch_size: int = 256) -> PullbackMetric:
    return PullbackMetric(toy.module, toy.configuration, toy.inputs, batch_size=batch_size)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert float((found.double() - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_equals_the_dense_metric(toy, batch_size):
    metric = metric_of(toy, batch_size)
    rows, dense = dense_jacobian(toy.function, toy.point), dense_metric(toy.function, toy.point)
    size = toy.configuration.size
    u, v = random_vector(size, 1), random_vector(size, 2)
    covector = random_vector(rows.shape[0] * rows.shape[1], 3).view(rows.shape[:2])
    local = metric.at(toy.point)
    assert_close(local.outputs, toy.function(toy.point), tolerances.FLOAT64)
    assert_close(local.push(v), rows @ v, tolerances.FLOAT64)
    assert_close(local.pull(covector), torch.einsum("Nmi,Nm->i", rows, covector), tolerances.FLOAT64)
    assert_close(metric.outputs(toy.point), toy.function(toy.point), tolerances.FLOAT64)
    assert_close(metric.push(toy.point, v), rows @ v, tolerances.FLOAT64)
    assert_close(metric.apply(toy.point, v), dense @ v, tolerances.FLOAT64)
    assert_close(metric.inner(toy.point, u, v), u @ dense @ v, tolerances.FLOAT64)
    assert_close(metric.length(toy.point, v), (v @ dense @ v).sqrt(), tolerances.FLOAT64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("toy", TOYS)
def test_equals_the_dense_metric_on_a_gpu(toy):
    inputs, point = toy.inputs.cuda(), toy.point.cuda()
    tangent = random_vector(toy.configuration.size, 1)
    found = PullbackMetric(toy.module, toy.configuration, inputs).apply(point, tangent.cuda())
    assert found.is_cuda
    assert_close(found.cpu(), dense_metric(toy.function, toy.point) @ tangent, tolerances.FLOAT64)


@given(SEEDS, st.sampled_from(range(len(TOYS))))
@settings(max_examples=25, deadline=None)
def test_symmetric_positive_and_bilinear(seed, which):
    toy = TOYS[which]
    size = toy.configuration.size
    point, u, v, w = (random_vector(size, seed + place) for place in range(4))
    local = metric_of(toy).at(point)
    scale = float(local.length(u) * local.length(v))
    assert abs(float(local.inner(u, v) - local.inner(v, u))) <= tolerances.FLOAT64 * scale
    assert abs(float(local.inner(u, v) - u @ local.apply(v))) <= tolerances.FLOAT64 * max(1.0, scale)
    assert float(u @ local.apply(u)) >= -tolerances.FLOAT64 * float(local.inner(u, u))
    assert float(local.inner(u, v)) <= scale * (1 + tolerances.FLOAT64)
    assert_close(local.apply(2 * u - 3 * w), 2 * local.apply(u) - 3 * local.apply(w), 10 * tolerances.FLOAT64)


@pytest.mark.parametrize("toy", TOYS)
def test_length_is_the_change_of_the_outputs(toy):
    tangent = random_vector(toy.configuration.size, 4)
    metric = metric_of(toy)
    step = 1e-5
    moved = metric.outputs(toy.point + step * tangent) - metric.outputs(toy.point)
    change = float(moved.square().sum(1).mean().sqrt()) / step
    assert change == pytest.approx(float(metric.length(toy.point, tangent)), rel=tolerances.FINITE_STEP)


def test_constant_for_a_network_linear_in_its_weights():
    toy = linear_toy()
    metric, tangent = metric_of(toy), random_vector(8, 5)
    assert torch.equal(metric.apply(random_vector(8, 6), tangent), metric.apply(random_vector(8, 7), tangent))


def test_single_precision():
    toy = convolutional_toy()
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs.float())  # a float64 network is brought along
    tangent = random_vector(toy.configuration.size, 8)
    found = metric.apply(toy.point.float(), tangent.float())
    assert found.dtype == torch.float32
    assert_close(found, dense_metric(toy.function, toy.point) @ tangent, tolerances.FLOAT32)


def test_changes_nothing_and_depends_on_nothing_that_changes():
    toy = convolutional_toy()
    toy.module.train()  # evaluation mode is the metric's own business
    before = {name: tensor.clone() for name, tensor in toy.module.state_dict().items()}
    point, tangent = toy.point.clone(), random_vector(toy.configuration.size, 9)
    metric = metric_of(toy)
    local = metric.at(point)
    first = local.apply(tangent)
    assert toy.module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in toy.module.state_dict().items())
    assert torch.equal(point, toy.point)
    assert torch.equal(tangent, random_vector(toy.configuration.size, 9))

    nn.init.zeros_(toy.module[0].weight)
    point.zero_()
    assert torch.equal(local.apply(tangent), first)
    assert torch.equal(metric.apply(toy.point, tangent), first)


def test_activations_written_in_place():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    plain = nn.Sequential(module[0], nn.ReLU(), module[2])
    configuration = Configuration.of(module.state_dict(), ("0.weight", "2.bias"))
    inputs = random_vector(15, 10).view(5, 3)
    point, tangent = configuration.flatten(module.state_dict()), random_vector(14, 11)
    found = PullbackMetric(module, configuration, inputs).apply(point, tangent)
    assert torch.equal(found, PullbackMetric(plain, configuration, inputs).apply(point, tangent))


def test_outputs_of_any_shape_are_rows():
    module = nn.Sequential(nn.Conv2d(1, 2, 2)).double()  # [N, 2, 2, 2]
    configuration = Configuration.of(module.state_dict(), ("0.weight",))
    inputs = random_vector(27, 12).view(3, 1, 3, 3)
    point = configuration.flatten(module.state_dict())
    assert PullbackMetric(module, configuration, inputs).push(point, point).shape == (3, 8)


def test_cost_of_an_application():
    toy, cost = curved_toy(probes=6), CostMeter()
    tangent = random_vector(toy.configuration.size, 13)
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs, cost=cost)
    local = metric.at(toy.point)
    assert cost.forward_passes == 6
    local.apply(tangent)
    assert cost.forward_passes == 6 * (1 + 2 + 2 + 2)  # the point: forward, backward once; then JVP, backward
    local.apply(tangent)
    assert cost.forward_passes == 6 * (1 + 2 + 2 * 4)  # the point is not evaluated again
    assert cost.epoch_equivalents(6) == pytest.approx(11 / 3)


def test_cost_in_epochs():
    cost = CostMeter()
    cost.forward(300)
    cost.forward_backward(100)
    cost.jvp(100)
    cost.vjp(100)
    cost.backward(50)
    assert cost.forward_passes == 300 + 300 + 200 + 300 + 100
    assert cost.epoch_equivalents(100) == 4.0
    with pytest.raises(CostError, match="training_set_size is 0"):
        cost.epoch_equivalents(0)


def test_threads_share_a_meter():
    cost = CostMeter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(cost.forward, [1] * 2000))
    assert cost.forward_passes == 2000


def test_refuses_what_does_not_fit():
    toy = curved_toy()
    with pytest.raises(MetricError, match="at least one floating-point input"):
        PullbackMetric(toy.module, toy.configuration, toy.inputs[:0])
    with pytest.raises(MetricError, match="batch_size is 0"):
        metric_of(toy, batch_size=0)
    with pytest.raises(ShapeMismatch, match=r"'0.weight': found \[3, 2\], expected \[2, 2\]"):
        PullbackMetric(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), toy.configuration, toy.inputs)
    metric = metric_of(toy)
    with pytest.raises(ShapeMismatch, match=r"shape \[5\]"):
        metric.at(toy.point[:5])
    with pytest.raises(ShapeMismatch, match=r"float32 on cpu: expected torch.float64 on cpu"):
        metric.at(toy.point.float())
    with pytest.raises(ShapeMismatch, match=r"tangent has shape \[5\]"):
        metric.apply(toy.point, toy.point[:5])
    scalar = nn.Sequential(nn.Flatten(0), nn.Linear(12, 1)).double()
    with pytest.raises(MetricError, match=r"network returned \[1\] for 6 inputs"):
        PullbackMetric(scalar, Configuration.of(scalar.state_dict(), ("1.bias",)), toy.inputs).at(toy.point[:1])
