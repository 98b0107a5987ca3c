"""Weights of a mode's smaller network, cut from those of its state."""

from __future__ import annotations

import numpy as np

from runtime.plan.bundle import Bundle
from runtime.walking.rows import Floats


def pack(bundle: Bundle, mode: str) -> dict[str, Floats]:
    """Weights of the compact graph: rows of present units, columns of the units that are present before them.

    Equal in function to the masked dense network: a removed unit feeds columns that are zero, so leaving both out
    changes nothing but the order of the sums.

    Args:
        bundle: A checked bundle.
        mode: Name of a mode.

    Returns:
        Tensor name to C-contiguous array, all weights of the network.
    """
    kept = bundle.mode(mode).kept
    weights = dict(bundle.tensors)
    masked = bundle.table.tensors(bundle.states[mode])
    for layer in bundle.table.layers:
        rows = kept.get(layer.name, range(layer.units))
        matrix = masked[layer.weight].reshape(layer.units, -1)[list(rows)]
        shape = [len(rows), *layer.shape[1:]]
        columns = np.ones(layer.columns, np.bool_)
        for source in layer.sources:
            if source.layer in kept:
                units = np.zeros(bundle.table.layer(source.layer).units, np.bool_)
                units[list(kept[source.layer])] = True
                owned = np.repeat(units, source.columns_per_unit)
                columns[source.first : source.first + len(owned)] = owned
        if not columns.all():
            matrix = matrix[:, columns]
            # The input axis shrinks by the share of columns that is left: exact, as units own whole channels.
            shape[1] = shape[1] * int(columns.sum()) // layer.columns
        weights[layer.weight] = np.ascontiguousarray(matrix).reshape(shape)
        if layer.bias is not None:
            weights[layer.bias] = np.ascontiguousarray(masked[layer.bias][list(rows)])
    return weights
