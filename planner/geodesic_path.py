"""Geodesic candidates for one transition: the paper's flow between its two ends, and the same path relaxed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from planner.configuration import Configuration
from planner.cost import CostMeter
from planner.endpoint import EndPoint
from planner.geodesic import flow
from planner.metric import PullbackMetric
from planner.network import Network
from planner.relaxation import relax, respace
from planner.row_pool import row_matrix
from planner.tangent import PAPER_RADIUS
from runtime.rows import MovedLayer
from runtime.strategies import Point

LEGS = 4
"""Legs that are written. Each writes every moving row once more, and a path must earn its bytes."""
STEP = 0.3
"""Share of the remaining distance that a step of the flow covers; on a straight way it arrives in nine."""
ITERATIONS = 20
"""Largest Krylov space of a tangent, and most steps of the relaxation: a limit on cost, not on error. Tangents take 14
to 140 iterations to converge, so many of these do not; relaxed paths still improved between 50 and 150 steps."""


def geodesic_points(
    network: Network,
    layers: tuple[MovedLayer, ...],
    begin: EndPoint,
    end: EndPoint,
    probes: Tensor,
    cost: CostMeter,
) -> dict[str, Sequence[Point]]:
    """Waypoints between two end points, neither of them among them.

    Only the layers that differ between the ends move.

    Args:
        network: The dense network.
        layers: The plan's moved layers.
        begin: Configuration to leave.
        end: Configuration to reach.
        probes: Inputs of the pullback metric, float32 [N, ...].
        cost: Counts what is spent.

    Returns:
        ``paper``: the flow of eq. 5; ``relaxed``: the same path with its energy lowered. Nothing when the ends agree.
    """
    moving = [layer for layer in layers if _differ(layer, begin, end)]
    if not moving:
        return {}
    names = [name for layer in moving for name in (layer.weight, layer.bias) if name is not None]
    module = copy.deepcopy(network.module)
    module.load_state_dict(dict(begin.tensors))
    configuration = Configuration.of(module.state_dict(), names)
    metric = PullbackMetric(module, configuration, probes, cost=cost)
    start, stop = configuration.flatten(begin.tensors), configuration.flatten(end.tensors)
    way = (stop - start) / torch.linalg.vector_norm(stop - start)
    # Where eq. 5's two terms weigh the same on the straight line: β Δ = Δ² ⟨v, v⟩_g for a unit v.
    local = metric.at(start)
    beta = PAPER_RADIUS * float(local.inner(way, way))
    # An end that the outputs do not tell from the start at all leaves no scale; any positive one is the straight line.
    found = flow(metric, start, stop, beta=beta or 1.0, step=STEP, max_steps=10, max_iterations=ITERATIONS)
    # ε so that the whole straight line is as long in weights as in outputs: neither term can be ignored.
    change = metric.outputs(stop) - local.outputs
    epsilon = max(float(change.square().sum(1).mean()) / float((stop - start).square().sum()), 1e-9)
    paper = respace(metric, found.points, epsilon=epsilon, legs=LEGS)
    relaxed = relax(metric, paper, epsilon=epsilon, iterations=ITERATIONS)
    return {
        name: [_rows(configuration, moving, point) for point in points[1:-1]]
        for name, points in (("paper", paper), ("relaxed", relaxed.points))
    }


def _differ(layer: MovedLayer, begin: EndPoint, end: EndPoint) -> bool:
    names = [name for name in (layer.weight, layer.bias) if name is not None]
    return any(not torch.equal(begin.tensors[name], end.tensors[name]) for name in names)


def _rows(configuration: Configuration, layers: Sequence[MovedLayer], point: Tensor) -> Point:
    tensors = {name: np.array(tensor.numpy(), np.float32) for name, tensor in configuration.unflatten(point).items()}
    return {layer.name: row_matrix(layer, tensors) for layer in layers}
