"""Which units of a layer the units that are left sit in.

Filters that are trained after others were removed compute something else than before. Written over themselves, they
would be read, for a while, by rows that expect the old ones, or the other way round. So they take the seats of units
that the layer can do without: these are given up first, which costs next to nothing, then the new filters are written
where nothing reads them, then the readers turn from the old seats to the new, row by row, both sides being good. A
network computes the same whatever the order of its hidden units, so that a configuration may be seated anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from planner.endpoint import EndPoint
from planner.network import Layer, Network


def reseat(network: Network, end: EndPoint, layer: Layer, seats: Sequence[int]) -> EndPoint:
    """The same network with the present units of a layer in other places.

    Args:
        network: The dense network.
        end: The configuration.
        layer: A layer that loses units, alone in its group.
        seats: As many units as are present, in ascending order; none of them present.

    Returns:
        The configuration, equal in function. What it `lacks` stays what was removed; what is `removed` are the units
        that hold nothing.
    """
    kept = end.kept(layer)
    assert len(kept) == len(seats), "as many seats as units"
    assert not {*kept} & {*seats}, "seats that are free"
    tensors = dict(end.tensors)
    for name in (layer.weight, layer.bias):
        if name is not None:
            moved = torch.zeros_like(tensors[name])
            moved[list(seats)] = tensors[name][kept]
            tensors[name] = moved
    refits = dict(end.refits)
    for reader in map(network.layer, layer.readers):
        old, new = reader.columns_of(layer.group, kept), reader.columns_of(layer.group, seats)
        weight = tensors[reader.weight]
        tensors[reader.weight] = _columns_moved(weight.flatten(1), old, new).reshape(weight.shape)
        if reader.name in refits:
            rows = refits[reader.name].rows
            refits[reader.name] = replace(refits[reader.name], rows=_columns_moved(rows, old, new))
    free = [unit for unit in end.removed[layer.name] if unit not in set(seats)]
    removed = {**end.removed, layer.name: (*free, *kept)}
    return replace(end, tensors=tensors, removed=removed, refits=refits, lacks=end.lacking)


def best_seats(end: EndPoint, layer: Layer) -> tuple[int, ...] | None:
    """The units that the layer could best do without, as many as are present; None if fewer are gone than present."""
    gone, present = end.removed.get(layer.name, ()), len(end.kept(layer))
    return tuple(sorted(gone[:present])) if len(gone) >= present else None


def taken_seats(network: Network, begin: EndPoint, end: EndPoint) -> Mapping[str, tuple[int, ...]]:
    """Layer to the units that both configurations hold, but not the same; only layers whose own columns agree.

    On the way between the two, such a unit would be read as one by rows that expect the other.
    """
    found = {}
    for layer in network.layers:
        if layer.name in {*begin.refits, *end.refits}:
            continue
        both = sorted({*begin.kept(layer)} & {*end.kept(layer)})
        clash = [unit for unit in both if _differs(begin, end, layer, unit)]
        if clash:
            found[layer.name] = tuple(clash)
    return found


def _differs(begin: EndPoint, end: EndPoint, layer: Layer, unit: int) -> bool:
    names = [name for name in (layer.weight, layer.bias) if name is not None]
    return any(not torch.equal(begin.tensors[name][unit], end.tensors[name][unit]) for name in names)


def _columns_moved(matrix: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    moved = matrix.clone()
    moved[:, list(old)] = 0.0
    moved[:, list(new)] = matrix[:, list(old)]
    return moved
