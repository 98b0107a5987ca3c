"""Small random row tables, states and writes for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from runtime.walking.rows import POOL, MovedLayer, RowTable, State

LAYERS = (
    MovedLayer("a", "a.weight", "a.bias", (5, 2, 3, 3), None, 1),
    MovedLayer("b", "b.weight", None, (4, 5), "a", 1),
    MovedLayer("c", "c.weight", "c.bias", (3, 8), "b", 2),
)
POOL_ROWS = 6


def table(seed: int = 0) -> RowTable:
    """Random rows for three layers, one of them without a bias."""
    rng = np.random.default_rng(seed)
    base = {layer.weight: rng.standard_normal(layer.shape, np.float32) for layer in LAYERS}
    base |= {layer.bias: rng.standard_normal(layer.units, np.float32) for layer in LAYERS if layer.bias}
    pool = {layer.name: rng.standard_normal((POOL_ROWS, layer.width), np.float32) for layer in LAYERS}
    return RowTable(LAYERS, base, pool)


def states() -> st.SearchStrategy[State]:
    """Any state of that table."""
    return st.fixed_dictionaries(
        {
            layer.name: st.lists(st.integers(0, POOL + POOL_ROWS - 1), min_size=layer.units, max_size=layer.units).map(
                lambda versions: np.array(versions, np.int32)
            )
            for layer in LAYERS
        }
    )


def writes() -> st.SearchStrategy[list[tuple[str, int, int]]]:
    """Any list of (layer, row, version) writes, repeated rows included."""
    one = st.sampled_from(LAYERS).flatmap(
        lambda layer: st.tuples(
            st.just(layer.name), st.integers(0, layer.units - 1), st.integers(0, POOL + POOL_ROWS - 1)
        )
    )
    return st.lists(one, max_size=40)
