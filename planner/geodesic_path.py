"""Geodesic candidates for one transition: the paths that geometry finds between its two ends, as rows to write."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from planner.configuration import Configuration
from planner.cost import CostMeter
from planner.dual import Solver
from planner.endpoint import EndPoint
from planner.fisher import root_probabilities
from planner.insertion import Judge
from planner.metric import PullbackMetric
from planner.network import Network
from planner.path_search import Record, search_paths
from planner.row_pool import row_matrix
from planner.variation import DEFAULT, SEARCHES, Variation
from runtime.plan.samples import Samples
from runtime.walking.rows import MovedLayer
from runtime.walking.strategies import Point

PASSES = {"flow": 950, "relaxed-flow": 800, "relaxed-line": 800, "corrected": 1300}
"""Forward passes a probe that a search is expected to take at most, the flow that is relaxed not counted. On the digits
and LeNet-300-100 they took up to 877, 671, 599 and 1,069; a waypoint that is hard to correct takes more."""
TANGENTS = 10
DUAL = 40
"""Passes a probe of a tangent in the space of outputs, beside two for each output; with ten, 54 in all at most."""
JUDGED = 128
"""Samples that say where a path needs another waypoint. On the digits network they cost a fifteenth of the searches;
a dip of 2.5 points is four of them."""
JUDGED_PASSES = 80 * JUDGED
"""Forward passes that all searches of a transition spend on these at most: two relaxed paths of eight legs with their
middles, looked at twice, and the flow's of four."""


@dataclass(frozen=True)
class GeodesicPath:
    """A path that geometry found.

    Attributes:
        points: Waypoints between two end points, neither of them among them.
        record: How it was found.
    """

    points: Sequence[Point]
    record: Record


def passes_of(searches: Collection[str], variation: Variation, outputs: int) -> int:
    """Forward passes a probe that searches are expected to take at most.

    Args:
        searches: Which.
        variation: How.
        outputs: Outputs of the network.
    """
    dual = TANGENTS * (2 * outputs + DUAL) if variation.solver == "dual" else 0
    return sum(max(PASSES[name], dual if name == "flow" else 0) for name in searches)


def geodesic_paths(
    network: Network,
    layers: tuple[MovedLayer, ...],
    begin: EndPoint,
    end: EndPoint,
    probes: Tensor,
    cost: CostMeter,
    variation: Variation = DEFAULT,
    wanted: Collection[str] = SEARCHES,
    samples: Samples | None = None,
    tolerated: float = 0.0,
) -> dict[str, GeodesicPath]:
    """Paths between two end points. Only the layers that differ between the ends move.

    Args:
        network: The dense network.
        layers: The plan's moved layers.
        begin: Configuration to leave.
        end: Configuration to reach.
        probes: Inputs of the pullback metric, float32 [N, ...].
        cost: Counts what is spent.
        variation: How to search.
        wanted: Which searches to make.
        samples: Samples on which a dip of the accuracy between waypoints is looked for, the first `JUDGED` of them;
            None to go by the outputs on the probes alone.
        tolerated: Dip that is accepted, as a fraction.

    Returns:
        Name of the search to the path it found; nothing when the ends agree.
    """
    moving = [layer for layer in layers if _differ(layer, begin, end)]
    if not moving:
        return {}
    names = [name for layer in moving for name in (layer.weight, layer.bias) if name is not None]
    module = copy.deepcopy(network.module)
    module.load_state_dict(dict(begin.tensors))
    configuration = Configuration.of(module.state_dict(), names)
    fisher = variation.metric == "fisher"
    metric = PullbackMetric(module, configuration, probes, reading=root_probabilities if fisher else None, cost=cost)
    start, stop = configuration.flatten(begin.tensors), configuration.flatten(end.tensors)
    judge = None if samples is None else _judge(module, configuration, samples.take(JUDGED), tolerated, cost)
    return {
        found.name: GeodesicPath([_rows(configuration, moving, point) for point in found.points[1:-1]], found.record)
        for found in search_paths(
            metric,
            start,
            stop,
            beta=variation.beta,
            damping=variation.damping,
            solver=Solver(variation.solver),
            wanted=wanted,
            fisher=fisher,
            judge=judge,
        )
    }


def _judge(
    module: nn.Module, configuration: Configuration, samples: Samples, tolerated: float, cost: CostMeter
) -> Judge:
    answers = PullbackMetric(module, configuration, torch.from_numpy(samples.inputs), cost=cost)
    labels = torch.from_numpy(samples.labels)
    return Judge(lambda point: float((answers.outputs(point).argmax(1) == labels).double().mean()), tolerated)


def _differ(layer: MovedLayer, begin: EndPoint, end: EndPoint) -> bool:
    names = [name for name in (layer.weight, layer.bias) if name is not None]
    return any(not torch.equal(begin.tensors[name], end.tensors[name]) for name in names)


def _rows(configuration: Configuration, layers: Sequence[MovedLayer], point: Tensor) -> Point:
    tensors = {name: np.array(tensor.numpy(), np.float32) for name, tensor in configuration.unflatten(point).items()}
    return {layer.name: row_matrix(layer, tensors) for layer in layers}
