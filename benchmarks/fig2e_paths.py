"""Candidate paths of `fig2e`: ends on the sparse hyperplane, and ways there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from planner.configuration import Configuration
from planner.correction import corrected_path, led_coordinates
from planner.cost import CostMeter
from planner.datasets import Dataset, split
from planner.endpoint import EndPoint
from planner.endpoint_search import EndPointSearch
from planner.metric import PullbackMetric
from planner.modes import ModeTarget
from planner.network import Network
from planner.path_search import DAMPING_SHARE, follow, natural_epsilon, straight
from planner.relaxation import relax, respace
from planner.row_pool import row_matrix
from runtime.plan.evaluation import spread_positions
from runtime.plan.samples import Samples
from runtime.walking import strategies
from runtime.walking.rows import RowTable, State
from runtime.walking.strategies import Compiled


@dataclass(frozen=True)
class Setting:
    """What is planned, walked and measured.

    Attributes:
        model: Network.
        data: Data set.
        layer: Layer that loses units.
        remove: How many.
        selection: Training images put aside to choose on; the paths are walked on the first `walked` of them.
        walked: As said.
        tested: Test images, at most.
        fit: Training images that rows are fitted on.
        probes: Probes of the flow and of the relaxation.
        held: Probes of the drift correction.
        iterations: Largest Krylov space of its steps, and most steps of a relaxation.
        positions: States of a walk, equally far apart in bytes.
        tears: Torn states in each direction.
        guard: Accepted drop in points, for the product's rule.
        plan: Candidates, as support and way.
        grid: Points a side of the picture's slice; 0 for none.
    """

    model: str
    data: str
    layer: str
    remove: int
    selection: int
    walked: int
    tested: int
    fit: int
    probes: int
    held: int
    iterations: int
    positions: int
    tears: int
    guard: float
    plan: tuple[tuple[str, str], ...]
    grid: int = 0


@dataclass(frozen=True)
class Space:
    """Where the geometric ways are found."""

    setting: Setting
    network: Network
    configuration: Configuration
    images: Tensor
    cost: CostMeter

    def metric(self, probes: int) -> PullbackMetric:
        """Pullback metric of the first probes."""
        return PullbackMetric(
            self.network.module, self.configuration, self.images[:probes], batch_size=probes, cost=self.cost
        )

    def ends(self, end: EndPoint) -> tuple[Tensor, Tensor]:
        """The dense network and an end, as points."""
        return self.configuration.flatten(self.network.module.state_dict()), self.configuration.flatten(end.tensors)


def parts(setting: Setting, dataset: Dataset, seed: int) -> tuple[Samples, Samples, Samples]:
    """Images to fit on, to choose on and to measure on, each in random order."""
    generator = np.random.default_rng(seed)
    fit, selection = (generator.permutation(part) for part in split(dataset, seed, setting.selection))
    test = generator.permutation(len(dataset.test_y))[: setting.tested]
    fit, selection = fit[: 2 * max(setting.fit, setting.held)], selection[: setting.walked]
    return (
        Samples(dataset.train_x[fit], dataset.train_y[fit]),
        Samples(dataset.train_x[selection], dataset.train_y[selection]),
        Samples(dataset.test_x[test], dataset.test_y[test]),
    )


def end_points(
    setting: Setting, network: Network, fit: Samples, selection: Samples, seed: int, cost: CostMeter
) -> dict[str, EndPoint]:
    """Ends on the hyperplane: four choices of units, refitted; and the same with all free weights corrected."""
    images, chosen_on = torch.from_numpy(fit.inputs), torch.from_numpy(selection.inputs[: setting.fit // 2])
    first = EndPointSearch(network, images[: setting.fit], chosen_on, cost)
    other = EndPointSearch(network, images[-setting.fit :], chosen_on, cost)
    targets = {
        "dense": ModeTarget("dense", None, {}),
        "greedy": ModeTarget("greedy", "dense", {setting.layer: setting.remove}),
    }
    ends = first.find(targets, lambda _: None)
    ends["other probes"] = other.find(targets, lambda _: None)["greedy"]
    weights = network.module.state_dict()[network.layer(setting.layer).weight]
    smallest = weights.flatten(1).norm(dim=1).argsort(stable=True)[: setting.remove].tolist()
    random = np.random.default_rng(seed).permutation(len(weights))[: setting.remove].tolist()
    ends["norm"] = first.build("norm", {setting.layer: tuple(smallest)})
    ends["random"] = first.build("random", {setting.layer: tuple(random)})
    names = [name for layer in network.layers if layer.name in {*ends["greedy"].removed, *ends["greedy"].refits}
             for name in (layer.weight, layer.bias) if name is not None]  # fmt: skip
    configuration = Configuration.of(network.module.state_dict(), names)
    for name in {support.removesuffix(" held") for support, _ in setting.plan if support.endswith(" held")}:
        probes = images[-setting.held :] if name == "other probes" else images[: setting.held]
        metric = PullbackMetric(network.module, configuration, probes, batch_size=setting.held, cost=cost)
        start, stop = configuration.flatten(ends["dense"].tensors), configuration.flatten(ends[name].tensors)
        damping = DAMPING_SHARE * natural_epsilon(metric, start, stop)
        path = corrected_path(
            metric, start, stop, legs=1, damping=damping, free_end=True, max_iterations=setting.iterations
        )
        tensors = {
            **ends[name].tensors,
            **{key: value.clone() for key, value in configuration.unflatten(path.points[-1]).items()},
        }
        ends[f"{name} held"] = replace(ends[name], mode=f"{name} held", tensors=tensors)
    return ends


def compile_way(
    way: str, table: RowTable, start: State, stop: State, space: Space, end: EndPoint
) -> tuple[Compiled, list[Tensor]]:
    """A way as a chunk list, and as points for the picture."""
    kind, _, parameter = way.partition(" ")
    first, last = space.ends(end)
    one_pass = {"ordered": strategies.ordered, "zero-first": strategies.zero_first, "naive": strategies.naive}
    if kind in one_pass:
        compiled = one_pass[kind](table, start, stop)
        names = [space.configuration.flatten(tensors) for tensors in walked_points(compiled, table, start)]
        return compiled, names
    if kind in ("ramp", "linear"):
        steps = int(parameter)
        made = strategies.ramp if kind == "ramp" else strategies.linear
        return made(table, start, stop, steps), list(straight(first, last, steps))
    points = geometric(way, space, first, last)
    rows = []
    for point in points[1:-1]:
        tensors = {name: np.array(value.numpy()) for name, value in space.configuration.unflatten(point).items()}
        rows.append({layer.name: row_matrix(layer, tensors) for layer in table.layers})
    return strategies.waypoints(table, start, stop, rows), list(points)


def geometric(way: str, space: Space, first: Tensor, last: Tensor) -> Sequence[Tensor]:
    """Waypoints of a flow, a relaxed or a corrected path, four legs each."""
    setting, (kind, _, parameter) = space.setting, way.partition(" ")
    if kind == "corrected":
        metric = space.metric(setting.held)
        damping = DAMPING_SHARE * natural_epsilon(metric, first, last)
        return corrected_path(
            metric, first, last, legs=4, damping=damping, led=led_coordinates(first, last), max_steps=1,
            max_iterations=setting.iterations,
        ).points  # fmt: skip
    metric = space.metric(setting.probes)
    epsilon = natural_epsilon(metric, first, last)
    if kind == "flow":
        return respace(metric, follow(metric, first, last, beta=float(parameter)).points, epsilon=epsilon, legs=4)
    begun: Sequence[Tensor] = straight(first, last, 4)
    if parameter == "flow":
        begun = respace(metric, follow(metric, first, last).points, epsilon=epsilon, legs=4)
    return relax(metric, begun, epsilon=epsilon, iterations=setting.iterations).points


def walked_points(path: Compiled, table: RowTable, start: State) -> list[Mapping[str, Tensor]]:
    """Weights at a few states of a walk."""
    known = path.table(table)
    states = [path.chunks.state_at(start, position) for position in spread_positions(path.chunks, known, 9)]
    return [{name: torch.from_numpy(array) for name, array in known.tensors(state).items()} for state in states]
