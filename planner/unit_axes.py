"""Which axes of a graph's values count the units of which layer.

A mode's compact graph leaves removed units out. That is sound where every value that has one entry per unit passes only
through operations that treat these entries alone, until the layer that reads them sums them up. This module follows
the axes through a graph's operations and refuses any that it cannot vouch for. It knows ONNX operators by name only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from device_profiles.errors import GeoshiftError

if TYPE_CHECKING:
    from planner.network import Layer

Parts = tuple[tuple[str | None, int], ...]
"""What a concatenation put side by side: a group of layers, or None for entries that stay, and how many entries."""
Axes = Mapping[int, str | Parts]
"""Axis to the group whose units lie along it, or to the parts; axes that keep their size are left out. A group is
called after its first layer."""

_ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "CastLike", "Celu", "Clip", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Gelu",
    "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "Max", "Min", "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Shrink",
    "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh", "ThresholdedRelu", "Where",
})  # fmt: skip
_PER_CHANNEL = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool"})


class ExportError(GeoshiftError):
    """A network cannot be written as ONNX the way a device needs it; the message names the operation."""


@dataclass(frozen=True)
class Operation:
    """One node of a graph.

    Attributes:
        name: Name of the node, for messages.
        kind: ONNX operator.
        inputs: Names of the values it reads, "" where an optional one is left out.
        outputs: Names of the values it makes.
        attributes: Its attributes that were set.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """What is known of the values of the dense graph.

    Attributes:
        shapes: Shape of each value; None where a size is not fixed.
        constants: Small integer constants, such as the axes of a reduction.
    """

    shapes: Mapping[str, tuple[int | None, ...]]
    constants: Mapping[str, Sequence[int]]

    def rank(self, value: str) -> int:
        """Number of axes of a value.

        Raises:
            ExportError: ONNX cannot infer it.
        """
        if value not in self.shapes:
            raise ExportError(f"value {value!r} of the graph has no known shape; expected one that ONNX can infer")
        return len(self.shapes[value])


def follow(operations: Sequence[Operation], weights: Mapping[str, Axes], facts: Facts) -> dict[str, Axes]:
    """Follow unit axes from the weights through all operations.

    Args:
        operations: Nodes in an order in which they can run.
        weights: Tensor name to the axes of it that shrink.
        facts: Of the graph before it is made smaller.

    Returns:
        Every value that has such axes, the weights included.

    Raises:
        ExportError: An operation does not keep units apart, or cannot be followed.
    """
    axes: dict[str, Axes] = {name: found for name, found in weights.items() if found}
    for operation in operations:
        incoming = [axes.get(name, {}) for name in operation.inputs]
        if not any(incoming):
            continue
        outgoing = _rule(operation)(operation, incoming, facts)
        if outgoing:
            axes[operation.outputs[0]] = outgoing
    return axes


def left_units(kept: Mapping[str, Sequence[int]], layers: Mapping[str, Layer]) -> dict[str, int]:
    """Number of units that each group which shrinks keeps.

    Raises:
        ExportError: A layer is unknown, its units are none, out of range or named twice, or not those of its group.
    """
    for name, units in kept.items():
        if name not in layers:
            raise ExportError(f"kept units: found layer {name!r}, expected some of {', '.join(layers)}")
        within = len(units) and min(units) >= 0 and max(units) < layers[name].units
        if not within or len(set(map(int, units))) != len(units):
            raise ExportError(
                f"kept units of layer {name!r}: found {list(units)[:8]}…, expected at least one, none twice, "
                f"each of 0..{layers[name].units - 1}"
            )
    groups = {layers[name].group for name in kept}
    for name, layer in layers.items():
        if layer.group in groups and list(kept.get(name, ())) != list(kept.get(layer.group, ())):
            raise ExportError(
                f"kept units of layer {name!r}: found {list(kept.get(name, ()))[:8]}, expected those of "
                f"{layer.group!r}, to whose units its own are tied"
            )
    return {name: len(kept[name]) for name in groups if len(kept[name]) < layers[name].units}


def left_size(along: str | Parts, size: int, units: Mapping[str, tuple[int, int]]) -> int:
    """Size of an axis in the smaller graph.

    Args:
        along: What lies along it.
        size: Its size in the dense graph.
        units: Group to the number of its units, and of those that are left.
    """
    parts = ((along, size),) if isinstance(along, str) else along
    return sum(entries if name is None else entries // units[name][0] * units[name][1] for name, entries in parts)


def weight_axes(layer: Layer, sizes: Mapping[str, int]) -> Iterator[tuple[str, Axes]]:
    """Yield a layer's tensors with the axes of them that shrink."""
    rows: Axes = {0: layer.group} if layer.group in sizes else {}
    # Every position of a kernel is a column of its own, but they lie along other axes than the channels.
    taps = layer.columns // layer.channels
    parts: list[tuple[str | None, int]] = []
    at = 0
    for source in layer.sources:
        parts.append((None, source.first // taps - at))
        parts.append((source.group if source.group in sizes else None, source.columns // taps))
        at = (source.first + source.columns) // taps
    columns = _joined([*parts, (None, layer.channels - at)])
    yield layer.weight, {**rows, **({} if columns is None else {1: columns})}
    if layer.bias is not None:
        yield layer.bias, rows


def _joined(parts: Sequence[tuple[str | None, int]]) -> str | Parts | None:
    """Parts in the one form that they are compared in: no empty ones, a lone group by name, None if nothing shrinks."""
    merged: list[tuple[str | None, int]] = []
    for name, entries in parts:
        if name is None and merged and merged[-1][0] is None:
            merged[-1] = (None, merged[-1][1] + entries)
        elif entries:
            merged.append((name, entries))
    if all(name is None for name, _ in merged):
        return None
    return merged[0][0] if len(merged) == 1 else tuple(merged)


_Rule = Callable[[Operation, list[Axes], Facts], Axes]


def _rule(operation: Operation) -> _Rule:
    if operation.kind in _ELEMENTWISE:
        return _elementwise
    if operation.kind in _PER_CHANNEL:
        return _per_channel
    if operation.kind in _RULES:
        return _RULES[operation.kind]
    raise refusal(operation, "it is not known to keep units apart")


def refusal(operation: Operation, why: str) -> ExportError:
    """The error for an operation that a smaller graph cannot have."""
    advice = (
        "use torch.flatten(x, 1) or sizes taken from x.shape"
        if operation.kind in ("Reshape", "Flatten", "Expand")
        else "fold it into the layer before it, or leave that layer out of the mode"
    )
    return ExportError(f"operation {operation.name!r} ({operation.kind}) cannot be made smaller: {why}; {advice}")


def _convolution(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    if operation.attributes.get("group", 1) == 1:
        return _layer(operation, incoming, row_axis=0, column_axis=1)
    value, weight, *bias = incoming
    channels, rows = (facts.shapes[name][axis] for name, axis in zip(operation.inputs[:2], (1, 0), strict=True))
    # A depthwise convolution keeps units apart: each reads the one channel of its own number.
    if not operation.attributes["group"] == channels == rows:
        raise refusal(operation, "it is a grouped convolution")
    if set(value) - {1} or set(weight) - {0} or any(axes.get(0) != value.get(1) for axes in (weight, *bias)):
        raise refusal(operation, f"it reads units of {value.get(1)}, but its rows belong to {weight.get(0)}")
    return value


def _gemm(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    if operation.attributes.get("transA", 0):
        raise refusal(operation, "it reads its input transposed")
    rows_first = bool(operation.attributes.get("transB", 0))
    return _layer(operation, incoming, row_axis=0 if rows_first else 1, column_axis=1 if rows_first else 0)


def _layer(operation: Operation, incoming: list[Axes], row_axis: int, column_axis: int) -> Axes:
    """Sum over axis 1 of the input with a weight's columns; units come out along axis 1."""
    value, weight, *bias = incoming
    rows, columns = weight.get(row_axis), weight.get(column_axis)
    if set(value) - {1} or value.get(1) != columns:
        raise refusal(operation, f"it reads units of {value.get(1)}, but its columns belong to {columns}")
    if bias and bias[0].get(0) != rows:
        raise refusal(operation, f"its bias belongs to units of {bias[0].get(0)}, its rows to {rows}")
    return {} if rows is None else {1: rows}


def _matmul(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    last = facts.rank(operation.inputs[0]) - 1
    value, weight = incoming
    if facts.rank(operation.inputs[1]) != 2 or set(value) - {last} or value.get(last) != weight.get(0):
        raise refusal(operation, "the axis it sums over is not the one that counts units")
    return {last: weight[1]} if 1 in weight else {}


def _concat(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    """Operands side by side; where they lie along the axis that counts units, their parts do."""
    rank = facts.rank(operation.inputs[0])
    axis = operation.attributes["axis"] % rank
    if any(set(axes) - {axis} for axes in incoming):
        raise refusal(operation, "it joins along another axis than the one that counts units")
    parts: list[tuple[str | None, int]] = []
    for name, axes in zip(operation.inputs, incoming, strict=True):
        size, along = facts.shapes[name][axis], axes.get(axis)
        if size is None:
            raise refusal(operation, f"the size of {name!r} is not known")
        parts += along if isinstance(along, tuple) else [(along, size)]
    joined = _joined(parts)
    return {} if joined is None else {axis: joined}


def _transpose(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    rank = facts.rank(operation.inputs[0])
    order = list(operation.attributes.get("perm", range(rank - 1, -1, -1)))
    return {order.index(axis): layer for axis, layer in incoming[0].items()}


def _elementwise(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    """Operands are aligned at their last axis; where one counts units, the others count the same or have size 1."""
    present = [(name, axes) for name, axes in zip(operation.inputs, incoming, strict=True) if name]
    rank = max(facts.rank(name) for name, _ in present)
    merged = {axis + rank - facts.rank(name): layer for name, axes in present for axis, layer in axes.items()}
    for name, axes in present:
        shift = rank - facts.rank(name)
        for axis, layer in merged.items():
            alone = axis < shift or facts.shapes[name][axis - shift] == 1
            if not alone and axes.get(axis - shift) != layer:
                raise refusal(operation, f"it combines units of {layer} with {name!r}, which has a size of its own")
    return merged


def _per_channel(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    if set(incoming[0]) != {1} or len(operation.outputs) > 1:
        raise refusal(operation, "it works across the axis that counts units")
    return incoming[0]


def _over_axes(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    """Reductions and squeezes over axes that do not count units."""
    rank = facts.rank(operation.inputs[0])
    over = _fixed_axes(operation, facts, rank)
    if over is None or over & set(incoming[0]):
        raise refusal(operation, "it works across the axis that counts units")
    if operation.kind.startswith("Reduce") and operation.attributes.get("keepdims", 1):
        return incoming[0]
    return {axis - sum(gone < axis for gone in over): layer for axis, layer in incoming[0].items()}


def _unsqueeze(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    new = _fixed_axes(operation, facts, facts.rank(operation.outputs[0]))
    if new is None:
        raise refusal(operation, "its axes are not constant")
    kept = [axis for axis in range(facts.rank(operation.outputs[0])) if axis not in new]
    return {kept[axis]: layer for axis, layer in incoming[0].items()}


def _fixed_axes(operation: Operation, facts: Facts, rank: int) -> set[int] | None:
    if len(operation.inputs) < 2 or operation.inputs[1] not in facts.constants:
        return None
    return {axis % rank for axis in facts.constants[operation.inputs[1]]}


def _flatten(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    if operation.attributes.get("axis", 1) != 1 or set(incoming[0]) != {1}:
        raise refusal(operation, "entries of one unit do not stay side by side")
    along = incoming[0][1]
    if isinstance(along, str):
        return incoming[0]
    positions = [size for size in facts.shapes[operation.inputs[0]][2:] if size is not None]
    if len(positions) != facts.rank(operation.inputs[0]) - 2:
        raise refusal(operation, "the number of entries of a unit is not known")
    return {1: tuple((name, entries * prod(positions)) for name, entries in along)}


def _reshape(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    """Only the form that copies the first two sizes, which the exporter writes where a view keeps them."""
    sizes = facts.constants.get(operation.inputs[1], ())
    copied = list(sizes[:2]) == [0, 0] and not operation.attributes.get("allowzero", 0)
    if not copied or set(incoming[0]) != {1}:
        raise refusal(operation, f"its sizes {list(sizes)} are fixed")
    return incoming[0]


def _shape(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    rank = facts.rank(operation.inputs[0])
    read = range(rank)[operation.attributes.get("start", 0) : operation.attributes.get("end", rank)]
    if set(read) & set(incoming[0]):
        raise refusal(operation, "the number of units goes into a calculation")
    return {}


def _pad(operation: Operation, incoming: list[Axes], facts: Facts) -> Axes:
    rank, pads = facts.rank(operation.inputs[0]), facts.constants.get(operation.inputs[1], ())
    if len(pads) != 2 * rank or any(pads[axis] or pads[axis + rank] for axis in incoming[0]):
        raise refusal(operation, "it adds entries along the axis that counts units")
    return incoming[0]


_RULES: Mapping[str, _Rule] = {
    "Conv": _convolution,
    "Concat": _concat,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Pad": _pad,
    "Shape": _shape,
    "ReduceMean": _over_axes,
    "ReduceMax": _over_axes,
    "Squeeze": _over_axes,
    "Unsqueeze": _unsqueeze,
}
