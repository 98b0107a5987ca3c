"""A configuration of a network: the units it lacks, and the rows that make up for them.

A configuration is a pure function of the units it lacks. Layers whose units are tied lose them together: `removed`
names every member of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from device_profiles.errors import GeoshiftError
from planner.network import Layer, Network

Removed = Mapping[str, tuple[int, ...]]
"""Layer name to the units it lacks, the first removed first."""


class EndPointError(GeoshiftError):
    """A configuration cannot be built."""


@dataclass(frozen=True)
class Refit:
    """Rows of one layer for a given set of units before it.

    Attributes:
        rows: Weights then bias, float64 [units, columns (+ 1)].
        damping: Ridge that was chosen.
        error: Relative squared error of its pre-activations on the selection split.
    """

    rows: Tensor
    damping: float
    error: float


@dataclass(frozen=True)
class EndPoint:
    """A configuration.

    Attributes:
        mode: Power mode it realises.
        removed: Units that hold nothing; layers whose units are tied lack the same.
        tensors: All weights and buffers by state-dict key; rows of removed units are zero.
        refits: Layer name to its refit, for every layer that reads removed units.
        lacks: Units that were removed, where what was left of a layer then took other seats (`planner.seats`); None
            where nothing did, and the two are the same.
        sparse: Layers in which weights were chosen to be zero.
        source: SHA-256 of the file that the weights came from, where they are another network's.
    """

    mode: str
    removed: Removed
    tensors: Mapping[str, Tensor]
    refits: Mapping[str, Refit]
    lacks: Removed | None = None
    sparse: tuple[str, ...] = ()
    source: str | None = None

    @property
    def free(self) -> bool:
        """Whether its rows follow from the units it lacks; not so in a sparse mode, nor in another network."""
        return bool(self.sparse) or self.source is not None

    @property
    def lacking(self) -> Removed:
        """Units that were removed, the first removed first."""
        return self.removed if self.lacks is None else self.lacks

    def kept(self, layer: Layer) -> list[int]:
        """Units of a layer that are present."""
        return present_units(layer, self.removed)

    def kept_columns(self, layer: Layer) -> list[int]:
        """Weight columns of a layer that do not belong to units that are gone."""
        return present_columns(layer, self.removed)


def present_units(layer: Layer, removed: Removed) -> list[int]:
    """Units of a layer that are present."""
    gone = set(removed.get(layer.name, ()))
    return [unit for unit in range(layer.units) if unit not in gone]


def present_columns(layer: Layer, removed: Removed) -> list[int]:
    """Weight columns of a layer that belong to no unit that is gone."""
    gone = {
        column
        for group in {source.group for source in layer.sources}
        for column in layer.columns_of(group, removed.get(group, ()))
    }
    return [column for column in range(layer.columns) if column not in gone]


def by_group(network: Network, removed: Removed) -> dict[str, tuple[int, ...]]:
    """Removed units by the first layer of each group."""
    found: dict[str, tuple[int, ...]] = {}
    for name, units in removed.items():
        group = network.layer(name).group
        if set(found.setdefault(group, units)) != set(units):
            raise EndPointError(
                f"layer {name}: units {sorted(units)} are to be removed, but {sorted(found[group])} from {group}, "
                "whose units are tied to them; expected the same units, or only one of the two to be named"
            )
    return found


def by_member(network: Network, removed: Removed) -> dict[str, tuple[int, ...]]:
    """Removed units by layer, every member of a group named."""
    units = by_group(network, removed)
    return {layer.name: units[layer.group] for layer in network.layers if layer.group in units}


def plain(network: Network, removed: Removed) -> dict[str, Tensor]:
    """Weights with units zeroed and nothing made up for: the end point of naive pruning, a rival."""
    state = {name: tensor.detach().clone() for name, tensor in network.module.state_dict().items()}
    for layer in network.layers:
        units = by_member(network, removed).get(layer.name)
        state = without(state, layer, units) if units else state
    return state


def with_rows(state: Mapping[str, Tensor], layer: Layer, rows: Tensor) -> dict[str, Tensor]:
    """The state with other rows of a layer, weights then bias [units, columns (+ 1)]."""
    weight = state[layer.weight]
    changed = {layer.weight: rows[:, : layer.columns].to(weight.dtype).reshape(weight.shape)}
    if layer.bias is not None:
        changed[layer.bias] = rows[:, -1].to(weight.dtype)
    return {**state, **changed}


def with_units_of(
    state: Mapping[str, Tensor], other: Mapping[str, Tensor], layer: Layer, units: Sequence[int]
) -> dict[str, Tensor]:
    """The state with some rows of a layer as they stand in another."""
    changed: dict[str, Tensor] = {}
    for name in (layer.weight, layer.bias):
        if name is not None:
            changed[name] = state[name].index_copy(0, torch.tensor(units), other[name][list(units)])
    return {**state, **changed}


def without(state: Mapping[str, Tensor], layer: Layer, units: Sequence[int]) -> dict[str, Tensor]:
    """The state with some rows of a layer zero."""
    changed: dict[str, Tensor] = {}
    for name in (layer.weight, layer.bias):
        if name is not None:
            changed[name] = state[name].index_fill(0, torch.tensor(units), 0.0)
    return {**state, **changed}
