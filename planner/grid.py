"""Puts all configurations of a network on the grid of values that a device can hold.

Layer by layer in forward order, each row is rounded for what the layer will really read, what comes before it being on
the grid already, towards what the float32 configuration computes there: errors of earlier layers are made up for, not
handed on. Rows that several modes share stay shared, and are rounded for what the layer reads in all of them. One scale
serves all versions of a row, so that it can flip, or stop half-way, without another row changing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from device_profiles.errors import GeoshiftError
from planner.compensation import refit_columns
from planner.cost import CostMeter
from planner.endpoint import EndPoint, with_rows
from planner.endpoint_search import POSITIONS
from planner.gram import Statistics, collect, row_matrix
from planner.network import Layer, Network, trace
from planner.quantise import Part, Rounding, round_layer
from runtime.plan.grid import LARGEST_BIAS_CODE, Floats, Grid, bias_units, values
from runtime.plan.manifest import GridEntry, GridLayerEntry

DAMPING = 1e-2
"""Ridge towards the float32 rows, in mean squared inputs of a weight column, as GPTQ adds it to G."""


class GridError(GeoshiftError):
    """A network cannot be put on a grid."""


@dataclass(frozen=True)
class OnGrid:
    """A network and its configurations with every weight on the grid.

    Attributes:
        network: The dense network.
        ends: Mode name to configuration.
        grid: The grid.
        scales: Layer name to float32 scales, [units] or [1]; empty where weights are not codes.
        errors: Mode name to layer name to the relative squared error of its pre-activations against the float32
            configuration's, on the inputs that rows were rounded for.
    """

    network: Network
    ends: dict[str, EndPoint]
    grid: Grid
    scales: dict[str, Floats]
    errors: dict[str, dict[str, float]]

    def entry(self, scales_file: str, unquantised_accuracy: float) -> GridEntry:
        """What the manifest says of it."""
        assert self.grid.format != "float32"
        return GridEntry(
            format=self.grid.format,
            bits=self.grid.bits if self.grid.coded else None,
            scale=self.grid.scale,
            sign=self.grid.sign,
            bias=self.grid.bias,
            scales=scales_file if self.grid.coded else None,
            scale_values=self.grid.scales,
            layers=tuple(
                GridLayerEntry(name=layer.name, weight=layer.weight, bias=layer.bias) for layer in self.network.layers
            ),
            unquantised_accuracy=unquantised_accuracy,
        )


def put_on_grid(
    network: Network,
    ends: Mapping[str, EndPoint],
    grid: Grid,
    fit: Tensor,
    *,
    cost: CostMeter,
    step: Callable[[str], None] = lambda layer: None,
    rounding: Rounding | None = None,
    sample: Tensor | None = None,
) -> OnGrid:
    """Round every weight of every configuration.

    Args:
        network: The float32 network.
        ends: Its configurations, the dense one first.
        grid: The grid; not float32.
        fit: Inputs that rows are rounded for, float32 [N, ...].
        cost: Counts what is spent.
        step: Called with the name of each layer before it is rounded.
        rounding: How; by the metric if None.
        sample: Inputs to trace with; two of ``fit`` by default.

    Raises:
        GridError: The grid is none that weights can be put on.
    """
    if grid.bias == "int32" and not grid.coded:
        raise GridError(
            f"weights.bias: found int32 with {grid.format}, expected float32: there is no scale to count in"
        )
    done = {mode: dict(end.tensors) for mode, end in ends.items()}
    scales: dict[str, Floats] = {}
    errors: dict[str, dict[str, float]] = {mode: {} for mode in ends}
    for layer in network.layers:
        step(layer.name)
        stats = _statistics(network, layer, ends, done, fit, cost)
        versions = _versions(layer, ends)
        shared = {modes: _mean([stats[mode] for mode in modes]) for modes in {one.modes for one in versions}}
        parts = [_part(shared[one.modes], one) for one in versions]
        rounded = round_layer([part for part, _ in parts], layer.units, grid, rounding=rounding)
        own_scales = rounded.scales.numpy()
        if grid.coded:
            scales[layer.name] = own_scales[: grid.scales_of(layer.units)].copy()
        new = {mode: torch.zeros_like(row_matrix(layer, ends[mode].tensors)).float() for mode in ends}
        for version, (_, bias), rows in zip(versions, parts, rounded.rows, strict=True):
            held = _held(rows, own_scales[list(version.units)], grid)
            if layer.bias is not None:
                found = version.rows[:, -1] if rounding is not None else bias(torch.from_numpy(held).double())
                held = np.concatenate([held, _held_bias(found, own_scales[list(version.units)], grid)[:, None]], axis=1)
            for mode in version.modes:
                new[mode][list(version.units)] = torch.from_numpy(held)
        for mode, end in ends.items():
            done[mode] = with_rows(done[mode], layer, new[mode])
            errors[mode][layer.name] = stats[mode].only(end.kept(layer)).error(new[mode][end.kept(layer)])
    module = copy.deepcopy(network.module)
    module.load_state_dict(done[next(iter(ends))])
    moved = {mode: replace(end, tensors=done[mode]) for mode, end in ends.items()}
    return OnGrid(trace(module, fit[:2] if sample is None else sample), moved, grid, scales, errors)


@dataclass(frozen=True)
class _Version:
    """Rows of a layer that the same modes share.

    Attributes:
        modes: Which.
        units: Which rows.
        rows: As they are in float32, weights then bias, float64 [R, columns (+ 1)].
    """

    modes: tuple[str, ...]
    units: tuple[int, ...]
    rows: Tensor


def _versions(layer: Layer, ends: Mapping[str, EndPoint]) -> list[_Version]:
    """All rows of a layer that some mode has, those of removed units left out."""
    matrices = {mode: row_matrix(layer, end.tensors) for mode, end in ends.items()}
    holders: dict[tuple[int, bytes], list[str]] = {}
    for mode, end in ends.items():
        for unit in end.kept(layer):
            holders.setdefault((unit, matrices[mode][unit].numpy().tobytes()), []).append(mode)
    units: dict[tuple[str, ...], list[int]] = {}
    for (unit, _), modes in holders.items():
        units.setdefault(tuple(modes), []).append(unit)
    return [_Version(modes, tuple(own), matrices[modes[0]][own]) for modes, own in units.items()]


def _statistics(
    network: Network,
    layer: Layer,
    ends: Mapping[str, EndPoint],
    done: Mapping[str, Mapping[str, Tensor]],
    fit: Tensor,
    cost: CostMeter,
) -> dict[str, Statistics]:
    """Moments of what a layer reads in each mode with the layers before it on the grid; equal modes are asked once."""
    before = network.layers[: network.layers.index(layer)]
    names = [name for one in (*before, layer) for name in (one.weight, one.bias) if name is not None]
    found: dict[str, Statistics] = {}
    for mode, end in ends.items():
        for other in found:
            if all(
                torch.equal(done[mode][name], done[other][name])
                and torch.equal(end.tensors[name], ends[other].tensors[name])
                for name in names
            ):
                found[mode] = found[other]
                break
        else:
            found[mode] = collect(
                network, layer, fit, current=done[mode], dense=end.tensors, positions=POSITIONS, cost=cost
            )
    return found


def _mean(stats: list[Statistics]) -> Statistics:
    """Moments over several modes, each counting as much."""
    if len(stats) == 1:
        return stats[0]
    return replace(
        stats[0],
        gram=torch.stack([one.gram for one in stats]).mean(0),
        cross=torch.stack([one.cross for one in stats]).mean(0),
        power=torch.stack([one.power for one in stats]).mean(0),
        patches=sum(one.patches for one in stats),
    )


def _part(stats: Statistics, version: _Version) -> tuple[Part, Callable[[Tensor], Tensor]]:
    """What rows should be and what a deviation costs, and the best bias for given weights."""
    columns = stats.columns
    own = stats.only(version.units)
    zero = version.rows[:, :columns] == 0
    present = (~zero).any(0).nonzero().flatten()
    wanted = refit_columns(own, present, damping=DAMPING, original=version.rows)
    # The ridge of `planner.sweep.System`, on all columns: those that nothing reads cost little, and never nothing.
    ridge = DAMPING * (float(stats.gram.diagonal()[:columns].mean()) or 1.0)
    metric = stats.gram[:columns, :columns] + ridge * torch.eye(columns, dtype=torch.float64)
    if not stats.bias:
        return Part(version.units, wanted, metric, zero), lambda rows: rows.new_zeros(len(rows))
    mean, weights, bias = (
        stats.gram[:columns, columns] / stats.gram[columns, columns],
        wanted[:, :columns],
        wanted[:, -1],
    )
    metric = metric - torch.outer(mean, stats.gram[columns, :columns])

    def best(rows: Tensor) -> Tensor:
        return bias - (rows - weights) @ mean

    return Part(version.units, weights, metric, zero), best


def _held(rows: Tensor, scales: Floats, grid: Grid) -> Floats:
    """Weights as a device holds them, float32 [R, columns]."""
    if grid.coded:
        return values(rows.numpy(), scales)
    return rows.float().numpy() + np.float32(0)


def _held_bias(bias: Tensor, scales: Floats, grid: Grid) -> Floats:
    """Biases as a device holds them, float32 [R]."""
    if grid.bias == "float32":
        return bias.float().numpy() + np.float32(0)
    units = bias_units(scales)
    codes = np.clip(np.rint(bias.numpy() / units), -LARGEST_BIAS_CODE, LARGEST_BIAS_CODE)
    return values(codes[:, None], units)[:, 0]
