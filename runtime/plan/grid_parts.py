"""What a bundle says of the device's grid, and whether every value that a device could be left with lies on it.

A state of a path has each row in a version that a mode or the path gives it, or torn between two such versions. With
one scale for all versions of a row, checking the versions checks every state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import UNSET

from device_profiles import Profile
from runtime.errors import BundleError
from runtime.plan.bundle_files import MANIFEST
from runtime.plan.bundle_parts import BASE, check_weights, read_tensors
from runtime.plan.grid import LARGEST_SCALE, SMALLEST_SCALE, Grid, misfit
from runtime.plan.manifest import GridEntry, GridLayerEntry, Manifest
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import Floats, Ints, RowTable, State

SCALES: Final = "paths/scales.safetensors"
"""Where the planner puts them."""


def read_scales(
    manifest: Manifest, profile: Profile, tensors: Mapping[str, Floats], files: Mapping[str, bytes], root: Path
) -> dict[str, Floats]:
    """Scales of all layers on the grid; none where weights are not codes.

    Args:
        manifest: Says what the grid is.
        profile: Says what the device wants.
        tensors: Dense weights.
        files: Every file of the bundle.
        root: Directory of the bundle.

    Raises:
        BundleError: Manifest, profile, weights and scales do not fit each other.
    """
    wanted, origin = Grid.of(profile.weights), f"{root}/{MANIFEST}"
    if manifest.grid is UNSET:
        if not wanted.holds_all:
            raise BundleError(f"{origin}: grid: found none, expected {wanted} as its profile says; plan again")
        return {}
    entry = manifest.grid
    # A format without codes has no bits, scales or signs to agree on.
    if entry.format != wanted.format or (wanted.coded and entry.grid != wanted):
        raise BundleError(f"{origin}: grid: found {entry.grid}, expected {wanted} as its profile says; plan again")
    _check_layers(entry, manifest, tensors, origin)
    if not entry.grid.coded:
        if entry.scales is not None or entry.bits is not None:
            raise BundleError(f"{origin}: grid: found bits or scales, expected null for {entry.format}")
        return {}
    if entry.scales is None or entry.bits is None:
        raise BundleError(f"{origin}: grid: found null for bits or scales, expected both for {entry.format}")
    name = f"{root}/{entry.scales}"
    scales = check_weights(read_tensors(files[entry.scales], name), name)
    if set(scales) != {layer.name for layer in entry.layers}:
        odd = min(set(scales) ^ {layer.name for layer in entry.layers})
        raise BundleError(f"{name}: found layers that differ in {odd!r}, expected those under grid in {MANIFEST}")
    for layer in entry.layers:
        count = entry.grid.scales_of(len(tensors[layer.weight]))
        if scales[layer.name].shape != (count,):
            raise BundleError(
                f"{name}: layer {layer.name}: found shape {list(scales[layer.name].shape)}, expected [{count}], "
                f"one a {entry.scale}"
            )
        for row, scale in enumerate(scales[layer.name]):
            if not entry.grid.has(float(scale)):
                power = ", a power of two" if entry.scale_values == "powers-of-two" else ""
                raise BundleError(
                    f"{name}: layer {layer.name}, row {row}: found scale {scale:.9g}, expected {SMALLEST_SCALE:.3g} "
                    f"to {LARGEST_SCALE:.3g}{power}"
                )
    return scales


def _check_layers(entry: GridEntry, manifest: Manifest, tensors: Mapping[str, Floats], origin: str) -> None:
    """Layers on the grid must exist once, and all moved ones must be among them, with the same tensors."""
    names = [layer.name for layer in entry.layers]
    keys = [key for layer in entry.layers for key in (layer.weight, layer.bias) if key is not None]
    for kind, found in (("layers", names), ("tensors", keys)):
        if twice := sorted({one for one in found if found.count(one) > 1}):
            raise BundleError(f"{origin}: grid: {kind}: found {twice[0]!r} twice, expected each once")
    for layer in entry.layers:
        weight = tensors.get(layer.weight)
        if weight is None or weight.ndim < 2:
            what = "no such tensor" if weight is None else f"shape {list(weight.shape)}"
            raise BundleError(
                f"{origin}: grid: layer {layer.name}: weight {layer.weight!r}: found {what}, expected rows"
            )
        bias = None if layer.bias is None else tensors.get(layer.bias)
        if layer.bias is not None and (bias is None or bias.shape != weight.shape[:1]):
            what = "no such tensor" if bias is None else f"shape {list(bias.shape)}"
            raise BundleError(
                f"{origin}: grid: layer {layer.name}: bias {layer.bias!r}: found {what}, expected [{len(weight)}]"
            )
    known = {layer.name: layer for layer in entry.layers}
    for moved in manifest.layers:
        same = known.get(moved.name)
        if same is None or (same.weight, same.bias) != (moved.weight, moved.bias):
            raise BundleError(
                f"{origin}: grid: layer {moved.name}: found {'none' if same is None else 'other tensors'}, expected it "
                "as under layers: whatever moves lies on the grid"
            )


def check_values(
    manifest: Manifest,
    scales: Mapping[str, Floats],
    tensors: Mapping[str, Floats],
    table: RowTable,
    states: Mapping[str, State],
    paths: Sequence[ChunkList],
    root: Path,
) -> int:
    """Check every version of every row that a mode or a path has, and the weights that never move.

    Args:
        manifest: Says what the grid is.
        scales: From ``read_scales``.
        tensors: Dense weights.
        table: Row versions.
        states: Of all modes.
        paths: Of all transitions.
        root: Directory of the bundle.

    Returns:
        How many rows were looked at; 0 for a plan whose weights are float32.

    Raises:
        BundleError: A value is not on the grid, or a path is stored that would leave it; the text names the place.
    """
    if manifest.grid is UNSET:
        return 0
    grid, looked = manifest.grid.grid, 0
    for move in manifest.transitions:
        if move.alternatives:
            raise BundleError(
                f"{root}/{MANIFEST}: transition {move.from_} → {move.to}: found alternatives "
                f"{', '.join(move.alternatives)}, expected none: rows between two ends are not on the grid"
            )
    for layer in manifest.grid.layers:
        own = _row_scales(layer, grid, scales, len(tensors[layer.weight]))
        if layer.name in table.names:
            rows, versions = used(layer.name, table, states, paths)
            values, origin = table.rows(layer.name, rows, versions), f"{root}"
        else:
            weight = tensors[layer.weight]
            rows, versions = np.arange(len(weight), dtype=np.int32), np.zeros(len(weight), np.int32)
            values, origin = weight.reshape(len(weight), -1), f"{root}/{BASE}"
            if layer.bias is not None:
                values = np.concatenate([values, tensors[layer.bias][:, None]], axis=1)
        columns = tensors[layer.weight][0].size
        found = misfit(grid, values, columns, None if own is None else own[rows])
        if found is not None:
            at, column, expected = found
            raise BundleError(
                f"{origin}: layer {layer.name}, row {rows[at]}, version {versions[at]}: found "
                f"{values[at, column]:.9g} at {column}, expected {expected}; plan again"
            )
        looked += len(rows)
    return looked


def used(name: str, table: RowTable, states: Mapping[str, State], paths: Iterable[ChunkList]) -> tuple[Ints, Ints]:
    """Rows of a layer with every version that a mode or a path gives them: row [any], version [any]."""
    units = np.arange(table.layer(name).units, dtype=np.int64)
    pairs = [np.stack([units, np.zeros_like(units)])]
    pairs += [np.stack([units, state[name].astype(np.int64)]) for state in states.values()]
    for chunks in paths:
        own = chunks.layer == chunks.layers.index(name)
        pairs += [np.stack([chunks.row[own], version[own]]).astype(np.int64) for version in (chunks.old, chunks.new)]
    found = np.unique(np.concatenate(pairs, axis=1), axis=1).astype(np.int32)
    return found[0], found[1]


def _row_scales(layer: GridLayerEntry, grid: Grid, scales: Mapping[str, Floats], rows: int) -> Floats | None:
    """The scale of each row, [rows]."""
    return np.broadcast_to(scales[layer.name], (rows,)) if grid.coded else None
