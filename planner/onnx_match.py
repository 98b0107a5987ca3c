"""Which of an ONNX file's weights are which layer's, by what each reads; and which units, where there are fewer.

Layers are found by their place: each convolution and matrix of the file is the layer of the same kind and shape that
reads the same ones. Names only settle what that leaves open.

A file may have fewer units in some layers than the dense network, as pruning tools write them. The planner needs to
know which of the dense units they are: those whose weights and biases are nearest, one for each, with the least sum of
squared distances over a layer (`scipy.optimize.linear_sum_assignment`). Pruning and fine-tuning move a row far less
than rows are apart; where the distance is half of the rows' own size or more, this is a guess, and refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx

from device_profiles.errors import GeoshiftError
from planner.network import Layer, Network
from planner.onnx_graph import INPUT, OnnxFile, WeightOperation

FAR: Final = 0.5
"""Squared distance of matched rows over their own squared size: 0 for copies, about 1 and more for rows with nothing
to do with each other."""
SHOWN: Final = 8
"""Names that an error lists."""


class OnnxWeightsError(GeoshiftError):
    """An ONNX file is not of this network, or does not say clearly enough how it is."""


@dataclass(frozen=True)
class _Call:
    """One use of a layer in the forward pass; `reads` as of an operation in the file."""

    layer: Layer
    reads: frozenset[int]

    def __str__(self) -> str:
        kind = "convolution" if self.layer.role == "convolution" else "linear layer"
        return f"{kind} {self.layer.name} of {self.layer.units} units with {self.layer.columns} weights"


def by_place(file: OnnxFile, network: Network, dense: Network | None) -> dict[str, Tensor]:
    """State dict of the traced network, layers from the operations in their places.

    Args:
        file: What was read.
        network: The network, traced; gives the tensors that no operation and no name of the file has.
        dense: The dense network, if the file may have fewer units than it.

    Raises:
        OnnxWeightsError: It is another network's file, or it cannot be told which of its weights are which.
    """
    state = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    weights = {key for layer in network.layers for key in (layer.weight, layer.bias)}
    for name, tensor in state.items():
        same = file.tensors.get(name)
        if name not in weights and same is not None and same.shape == tensor.shape:
            state[name] = torch.from_numpy(same.copy()).to(tensor.dtype)
    kept: dict[str, list[int]] = {}
    for call, operation in _matched(file, network, smaller=dense is not None):
        layer = call.layer
        columns = _columns(file, network, layer, operation, kept)
        rows = _rows(file, layer, operation, columns, kept, dense)
        kept.setdefault(layer.group, rows)
        weight = torch.zeros(layer.units, layer.columns)
        weight[torch.tensor(rows)[:, None], torch.tensor(columns)] = torch.from_numpy(operation.weight.copy()).flatten(
            1
        )
        state[layer.weight] = weight.reshape(state[layer.weight].shape)
        bias = torch.zeros(layer.units)
        if operation.bias is not None:
            bias[rows] = torch.from_numpy(operation.bias.copy())
        if layer.bias is not None:
            state[layer.bias] = bias
        elif bias.any():
            raise OnnxWeightsError(
                f"{file.path}: {operation}: found biases, expected none, as {layer.name} has none: give the "
                "network a bias there, or a file of the same network"
            )
    return state


def _matched(file: OnnxFile, network: Network, *, smaller: bool) -> Iterator[tuple[_Call, WeightOperation]]:
    """Each use of a layer with the file's operation in its place, in forward order."""
    calls = _calls(network)
    if len(calls) != len(file.operations):
        raise OnnxWeightsError(
            f"{file.path}: found {len(file.operations)} convolutions and matrices "
            f"({_listed(file.operations)}), expected {len(calls)} "
            f"({_listed([call.layer.name for call in calls])}): give a file of the same network"
        )
    places: dict[int, int] = {INPUT: INPUT}
    """Place of a call's operation in the file."""
    for number, call in enumerate(calls):
        reads = frozenset(places[one] for one in call.reads)
        free = [place for place in range(len(calls)) if place not in places.values()]
        there = [one for one in free if file.operations[one].reads == reads and _fits(call.layer, file.operations[one])]
        exact = [one for one in there if _is_exact(call.layer, file.operations[one])]
        fitting = exact or (there if smaller else [])
        if len(fitting) > 1:
            fitting = [one for one in fitting if file.operations[one].name == call.layer.weight] or fitting
        if not fitting:
            left = _listed([file.operations[one] for one in free])
            raise OnnxWeightsError(
                f"{file.path}: found no weights for {call} in its place, expected one of those left ({left}) to have "
                f"its shape{', or fewer units of it,' if smaller else ''} and to read the same layers: give a file of "
                "the same network"
            )
        if len(fitting) > 1:
            names = " and ".join(repr(file.operations[one].name) for one in fitting)
            raise OnnxWeightsError(
                f"{file.path}: found {names} in the place of {call}, alike in shape and in what they read; expected "
                f"names to tell them apart, one of them {call.layer.weight!r}: export with torch.onnx.export(..., "
                "dynamo=True), which keeps names, or give a safetensors file"
            )
        places[number] = fitting[0]
        yield call, file.operations[fitting[0]]


def _calls(network: Network) -> list[_Call]:
    """Uses of layers in forward order, and whose values each reads."""
    layers = {layer.name: layer for layer in network.layers}
    found: list[_Call] = []
    reads: dict[fx.Node, frozenset[int]] = {}
    for node in network.graph.graph.nodes:
        before = frozenset().union(*(reads[one] for one in node.all_input_nodes))
        if node.op == "placeholder":
            before = frozenset({INPUT})
        elif node.op == "call_module" and node.target in layers:
            found.append(_Call(layers[node.target], before))
            before = frozenset({len(found) - 1})
        reads[node] = before
    return found


def _fits(layer: Layer, operation: WeightOperation) -> bool:
    """Whether an operation may be a layer, perhaps with fewer units."""
    units, channels, *taps = operation.weight.shape
    within = units <= layer.units and channels <= layer.channels
    return operation.kind == layer.role and within and prod(taps) == layer.columns // layer.channels


def _is_exact(layer: Layer, operation: WeightOperation) -> bool:
    return operation.weight.shape[:2] == (layer.units, layer.channels)


def _columns(
    file: OnnxFile, network: Network, layer: Layer, operation: WeightOperation, kept: Mapping[str, list[int]]
) -> list[int]:
    """The layer's columns that an operation has, in the operation's order."""
    found = [*range(layer.columns)]
    if any(source.group in kept and len(kept[source.group]) < source.units for source in layer.sources):
        found = [
            column for source in layer.sources for unit in kept[source.group] for column in source.columns_of(unit)
        ]
    if len(found) != operation.weight[0].size:
        raise OnnxWeightsError(
            f"{file.path}: {operation}: found {operation.weight[0].size} weights a unit for {layer.name}, expected "
            f"{len(found)}, going by the units of the layers it reads ({', '.join(kept) or 'none'}): give a file of "
            "the same network"
        )
    return found


def _rows(
    file: OnnxFile,
    layer: Layer,
    operation: WeightOperation,
    columns: list[int],
    kept: Mapping[str, list[int]],
    dense: Network | None,
) -> list[int]:
    """The dense units that an operation's are, in the operation's order."""
    units = len(operation.weight)
    known = kept.get(layer.group)
    if known is not None and len(known) != units:
        raise OnnxWeightsError(
            f"{file.path}: {operation}: found {units} units for {layer.name}, expected {len(known)} as in "
            f"{layer.group}, whose units are tied to its own: give a file of the same network"
        )
    if known is not None or units == layer.units:
        return known or [*range(units)]
    if layer.why_fixed is not None:
        raise OnnxWeightsError(
            f"{file.path}: {operation}: found {units} units for {layer.name}, expected {layer.units}, as none can be "
            f"removed: {layer.why_fixed}"
        )
    assert dense is not None
    state = dense.module.state_dict()
    own = operation.weight.reshape(units, -1).astype(float)
    theirs = state[layer.weight].flatten(1)[:, columns].double().numpy()
    if layer.bias is not None and operation.bias is not None:
        own = np.concatenate([own, operation.bias[:, None]], 1)
        theirs = np.concatenate([theirs, state[layer.bias].double().numpy()[:, None]], 1)
    size = (own**2).sum()
    distances = (own**2).sum(1)[:, None] - 2 * own @ theirs.T + (theirs**2).sum(1)[None]
    _, rows = linear_sum_assignment(distances)
    apart = float(distances[np.arange(units), rows].sum() / size) if size else np.inf
    if apart >= FAR:
        raise OnnxWeightsError(
            f"{file.path}: {operation}: found {units} units, the nearest {units} of {layer.units} in {layer.name} "
            f"{apart:.2g} of their size away, expected less than {FAR}, to know which they are: give a network that "
            "was pruned from the dense one, or one of the same shapes whose removed units are zero"
        )
    return [int(row) for row in rows]


def _listed(many: Sequence[object]) -> str:
    """The first of many, in words."""
    more = f" and {len(many) - SHOWN} more" if len(many) > SHOWN else ""
    return (", ".join(map(str, many[:SHOWN])) or "none") + more
