"""Puts the rows of separately compiled paths into one table: versions are numbered anew, nothing else changes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
from safetensors.numpy import save as save_tensors

from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable
from runtime.walking.strategies import Compiled

K = TypeVar("K", bound=Hashable)


def adopt(table: RowTable, chosen: Mapping[K, Compiled]) -> tuple[RowTable, dict[K, ChunkList]]:
    """Join the rows of chosen paths to the plan's table.

    Args:
        table: Table that all of them were compiled from.
        chosen: The paths.

    Returns:
        The joint table, and the chunk lists of the paths on it.
    """
    joint = table
    moved: dict[K, ChunkList] = {}
    for key, path in chosen.items():
        moved[key] = _renumbered(path.chunks, table, joint)
        joint = joint.extended(path.rows)
    return joint, moved


def alternative_file(path: Compiled, compiled_from: RowTable, table: RowTable) -> bytes:
    """A path that was not chosen as a file of its own: its chunk list, and its rows, which go on from ``table``."""
    chunks = _renumbered(path.chunks, compiled_from, table)
    rows = {f"rows/{name}": np.ascontiguousarray(rows) for name, rows in path.rows.items()}
    return save_tensors({**chunks.arrays(), **rows})


def _renumbered(chunks: ChunkList, compiled_from: RowTable, goes_on_from: RowTable) -> ChunkList:
    """The list with versions beyond ``compiled_from`` shifted behind those of ``goes_on_from``."""
    first = np.array([compiled_from.versions(name) for name in chunks.layers])[chunks.layer]
    shift = np.array([goes_on_from.versions(name) for name in chunks.layers])[chunks.layer] - first
    old, new = (
        np.where(versions >= first, versions + shift, versions).astype(np.int32)
        for versions in (chunks.old, chunks.new)
    )
    return ChunkList(chunks.layers, chunks.layer, chunks.row, old, new)
