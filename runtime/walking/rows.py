"""Weights as versions of rows.

A row is what one output unit owns in one layer: its weights, flattened, and its bias. Every weight a device can ever
hold is one of a few stored versions of a row, so a configuration is an array of small integers per layer. Two
configurations are equal bit for bit when these integers are, and a walk back writes exactly what was there before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError
from runtime.plan.grid import FLOAT32, Grid

BASE = 0
"""Version of a row as it stands in the dense network."""
ZERO = 1
"""Version of a row whose unit is removed: all weights and the bias are zero."""
POOL = 2
"""First version stored in the layer's pool; version v is pool row v - POOL."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
State = Mapping[str, Ints]
"""Layer name to the version of each of its rows, shape [units]."""


@dataclass(frozen=True)
class Source:
    """Columns of a layer that belong to another layer's units.

    Attributes:
        layer: The other layer.
        first: First column.
        columns_per_unit: Columns, side by side, that belong to one unit.
    """

    layer: str
    first: int
    columns_per_unit: int


@dataclass(frozen=True)
class MovedLayer:
    """A layer whose rows are written on some path.

    Attributes:
        name: Module path of the layer.
        weight: Name of the weight tensor, shape ``shape``.
        bias: Name of the bias tensor, shape [units], or None.
        shape: Shape of the weight tensor; the first axis counts units.
        reads: Layer whose units this one reads, or None for the network's input or several layers.
        columns_per_unit: Columns, side by side, that belong to one unit of ``reads``.
        concatenated: Where the layer reads several others' units side by side: whose.
        grid: How the device stores its rows; the arrays here are float32 in any case.
    """

    name: str
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    reads: str | None
    columns_per_unit: int
    concatenated: tuple[Source, ...] = ()
    grid: Grid = FLOAT32

    @property
    def sources(self) -> tuple[Source, ...]:
        """Whose units the columns belong to."""
        return self.concatenated if self.reads is None else (Source(self.reads, 0, self.columns_per_unit),)

    @property
    def units(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Weights in one row, the bias not counted."""
        return prod(self.shape[1:])

    @property
    def width(self) -> int:
        """Numbers in one row, the bias counted."""
        return self.columns + (self.bias is not None)

    @property
    def row_bytes(self) -> int:
        """Bytes that the device writes when one row is written."""
        return self.grid.row_bytes(self.columns, self.bias is not None)

    @property
    def array_bytes(self) -> int:
        """Bytes that one row takes in the arrays that this process computes with, float32 whatever the device has."""
        return 4 * self.width


class RowTable:
    """Every stored version of every row.

    Args:
        layers: The moved layers in forward order.
        base: Dense tensors by name, float32; only those of the moved layers are read.
        pool: Layer name to stored rows, float32 [pool rows, width]; a layer without any may be left out.
    """

    def __init__(self, layers: tuple[MovedLayer, ...], base: Mapping[str, Floats], pool: Mapping[str, Floats]) -> None:
        self.layers = layers
        self._by_name = {layer.name: layer for layer in layers}
        self._base = {name: base[name] for layer in layers for name in (layer.weight, layer.bias) if name is not None}
        self.pool = {layer.name: pool.get(layer.name, np.empty((0, layer.width), np.float32)) for layer in layers}

    def layer(self, name: str) -> MovedLayer:
        """Look a moved layer up by name."""
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, in forward order."""
        return tuple(layer.name for layer in self.layers)

    def versions(self, name: str) -> int:
        """Number of versions that rows of layer ``name`` can have."""
        return POOL + len(self.pool[name])

    def dense(self) -> State:
        """State of the dense network."""
        return {layer.name: np.zeros(layer.units, np.int32) for layer in self.layers}

    def extended(self, rows: Mapping[str, Floats]) -> RowTable:
        """Table whose pools go on with ``rows``; versions of this table keep their meaning."""
        pool = {name: np.concatenate([own, rows[name]]) if name in rows else own for name, own in self.pool.items()}
        return RowTable(self.layers, self._base, pool)

    def rows(self, name: str, rows: Ints, versions: Ints) -> Floats:
        """Gather rows of one layer.

        Args:
            name: Layer name.
            rows: Row indices, shape [R].
            versions: Version of each, shape [R].

        Returns:
            Fresh array [R, width], weights first and the bias last.
        """
        layer = self._by_name[name]
        values = np.zeros((len(rows), layer.width), np.float32)
        dense = versions == BASE
        values[dense, : layer.columns] = self._base[layer.weight].reshape(layer.units, -1)[rows[dense]]
        if layer.bias is not None:
            values[dense, -1] = self._base[layer.bias][rows[dense]]
        pooled = versions >= POOL
        values[pooled] = self.pool[name][versions[pooled] - POOL]
        return values

    def tensors(self, state: State) -> dict[str, Floats]:
        """Weights of a configuration, every one a fresh C-contiguous array owned by the caller."""
        tensors: dict[str, Floats] = {}
        for layer in self.layers:
            values = self.rows(layer.name, np.arange(layer.units, dtype=np.int32), state[layer.name])
            tensors[layer.weight] = np.ascontiguousarray(values[:, : layer.columns]).reshape(layer.shape)
            if layer.bias is not None:
                tensors[layer.bias] = np.ascontiguousarray(values[:, -1])
        return tensors

    def write(self, tensors: Mapping[str, Floats], name: str, rows: Ints, values: Floats) -> None:
        """Copy row values into a configuration's tensors, in place.

        Args:
            tensors: What ``tensors`` returned; written to.
            name: Layer name.
            rows: Row indices, shape [R].
            values: Row values, shape [R, width].
        """
        layer = self._by_name[name]
        tensors[layer.weight].reshape(layer.units, -1)[rows] = values[:, : layer.columns]
        if layer.bias is not None:
            tensors[layer.bias][rows] = values[:, -1]

    def check_state(self, state: State, origin: str) -> None:
        """Check that a state names every layer, row and version as this table has them.

        Raises:
            BundleError: It does not.
        """
        if set(state) != set(self._by_name):
            raise BundleError(f"{origin}: found layers {sorted(state)}, expected {sorted(self._by_name)}")
        for layer in self.layers:
            versions = state[layer.name]
            if versions.dtype != np.int32 or versions.shape != (layer.units,):
                raise BundleError(
                    f"{origin}: layer {layer.name}: found versions {versions.dtype}{list(versions.shape)}, "
                    f"expected int32[{layer.units}]"
                )
            if versions.min() < 0 or versions.max() >= self.versions(layer.name):
                raise BundleError(
                    f"{origin}: layer {layer.name}: found version {versions.min()}..{versions.max()}, "
                    f"expected 0..{self.versions(layer.name) - 1}"
                )


def same_state(one: State, other: State) -> bool:
    """Whether two states are equal, and with them the weights bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
