"""Collects the row versions that a plan needs; equal rows are stored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from runtime.walking.rows import BASE, POOL, ZERO, Floats, Ints, MovedLayer, RowTable, State


class RowPool:
    """Turns weights into row versions.

    Mutable on purpose: modes are added one after the other, and later ones reuse the rows of earlier ones.

    Args:
        layers: The moved layers in forward order.
        base: Dense tensors by name, float32.
    """

    def __init__(self, layers: tuple[MovedLayer, ...], base: Mapping[str, Floats]) -> None:
        self._layers = layers
        self._base = base
        self._rows: dict[str, list[Floats]] = {layer.name: [] for layer in layers}
        self._known: dict[str, dict[bytes, int]] = {layer.name: {} for layer in layers}

    def add(self, tensors: Mapping[str, Floats], removed: Mapping[str, Sequence[int]]) -> State:
        """Versions of a configuration; rows not seen before join the pool.

        Args:
            tensors: Weights by name, float32; all of the moved layers.
            removed: Layer name to the units it lacks; their rows are zero. A row may be zero without that, when its
                unit was dead from the start.
        """
        return {layer.name: self._versions(layer, tensors, removed.get(layer.name, ())) for layer in self._layers}

    def table(self) -> RowTable:
        """Table of all versions known so far."""
        pool = {name: np.stack(rows) for name, rows in self._rows.items() if rows}
        return RowTable(self._layers, self._base, pool)

    def _versions(self, layer: MovedLayer, tensors: Mapping[str, Floats], removed: Sequence[int]) -> Ints:
        rows, dense = row_matrix(layer, tensors), row_matrix(layer, self._base)
        versions = np.full(layer.units, BASE, np.int32)
        versions[list(removed)] = ZERO
        for unit in np.flatnonzero((rows != dense).any(axis=1) & (versions != ZERO)):
            key = rows[unit].tobytes()
            known = self._known[layer.name]
            if key not in known:
                known[key] = POOL + len(known)
                self._rows[layer.name].append(rows[unit].copy())
            versions[unit] = known[key]
        return versions


def row_matrix(layer: MovedLayer, tensors: Mapping[str, Floats]) -> Floats:
    """Rows of a layer, weights first and the bias last, shape [units, width]."""
    matrix = np.asarray(tensors[layer.weight], np.float32).reshape(layer.units, -1)
    if layer.bias is None:
        return matrix
    return np.concatenate([matrix, np.asarray(tensors[layer.bias], np.float32)[:, None]], axis=1)
