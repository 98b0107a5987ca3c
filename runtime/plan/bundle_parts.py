"""The parts of a bundle, each checked against the manifest and those before it.

Weights, then layers, then the rows that can replace theirs, then modes as choices of rows, then paths between modes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from runtime.errors import BundleError
from runtime.plan.bundle_files import MANIFEST
from runtime.plan.manifest import Manifest, ModeEntry, TransitionEntry
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import ZERO, Floats, MovedLayer, RowTable, Source, State, same_state

BASE: Final = "base.safetensors"
MODES: Final = "paths/modes.safetensors"


def read_tensors(raw: bytes, origin: str) -> dict[str, NDArray[np.generic]]:
    """Named arrays of a safetensors file.

    Raises:
        BundleError: It is none, or has types that no plan has.
    """
    try:
        return dict(load_tensors(raw))
    except KeyError as error:
        raise BundleError(f"{origin}: found tensors of type {error}, expected F32 or I32") from error
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{origin}: found no safetensors file ({error}); copy the bundle again") from error


def check_weights(tensors: Mapping[str, NDArray[np.generic]], origin: str) -> dict[str, Floats]:
    """The same tensors, known to be weights.

    Raises:
        BundleError: One is not float32, or not finite.
    """
    weights: dict[str, Floats] = {}
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise BundleError(f"{origin}: tensor {name}: found {tensor.dtype}, expected float32")
        values = tensor.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise BundleError(f"{origin}: tensor {name}: found a value that is not finite, expected finite weights")
        weights[name] = values
    return weights


def moved_layers(manifest: Manifest) -> tuple[MovedLayer, ...]:
    """The layers that move, as a manifest has them."""
    return tuple(
        MovedLayer(
            entry.name,
            entry.weight,
            entry.bias,
            entry.shape,
            entry.reads,
            entry.columns_per_unit,
            tuple(Source(source.layer, source.first, source.columns_per_unit) for source in entry.concatenated),
            manifest.stored,
        )
        for entry in manifest.layers
    )


def fit_layers(manifest: Manifest, tensors: Mapping[str, Floats], root: Path) -> tuple[MovedLayer, ...]:
    """The moved layers.

    Args:
        manifest: Says what they are.
        tensors: Dense weights.
        root: Directory of the bundle.

    Raises:
        BundleError: They do not fit the weights or each other.
    """
    layers = moved_layers(manifest)
    for layer in layers:
        wanted = {layer.weight: layer.shape} | ({layer.bias: (layer.units,)} if layer.bias is not None else {})
        for name, shape in wanted.items():
            found = tensors[name].shape if name in tensors else None
            if found != shape:
                raise BundleError(f"{root}/{BASE}: tensor {name}: found shape {found}, expected {shape}")
    for kind, names in (
        ("layers", [layer.name for layer in layers]),
        ("weights and biases of layers", [name for layer in layers for name in (layer.weight, layer.bias) if name]),
    ):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BundleError(f"{root}/{MANIFEST}: {kind}: found {twice[0]!r} twice, expected each once")
    for layer in layers:
        _check_columns(layer, {other.name: other for other in layers}, f"{root}/{MANIFEST}: layer {layer.name}")
    return layers


def _check_columns(layer: MovedLayer, layers: Mapping[str, MovedLayer], origin: str) -> None:
    """Every unit that a layer reads must own as many of its columns, and a whole part of its input axis."""
    if layer.reads is not None and layer.concatenated:
        raise BundleError(f"{origin}: found both reads and concatenated, expected reads to be null then")
    channel, free = prod(layer.shape[2:]), 0
    for source in layer.sources:
        read = layers.get(source.layer)
        if read is None:
            continue
        columns = read.units * source.columns_per_unit
        whole = source.columns_per_unit % channel == 0 and source.first % channel == 0
        fits = columns == layer.columns if layer.reads else free <= source.first <= layer.columns - columns
        if not fits or not whole:
            raise BundleError(
                f"{origin}: found {source.columns_per_unit} columns for each of the {read.units} units of "
                f"{read.name}, expected shares of shape {list(layer.shape)} that make up its {layer.columns} columns"
                + (f", from column {free} on" if layer.concatenated else "")
            )
        free = source.first + columns


def fit_pool(rows: Mapping[str, Floats], layers: tuple[MovedLayer, ...], origin: str) -> None:
    """Check that stored rows are as wide as their layers.

    Raises:
        BundleError: They are not, or are of no moved layer.
    """
    widths = {layer.name: layer.width for layer in layers}
    for name, values in rows.items():
        if name not in widths or values.ndim != 2 or values.shape[1] != widths[name]:
            raise BundleError(
                f"{origin}: rows of {name!r}: found shape {list(values.shape)}, "
                f"expected [rows, {widths.get(name, 'no such layer')}]"
            )


def fit_states(
    manifest: Manifest, table: RowTable, arrays: Mapping[str, NDArray[np.generic]], root: Path
) -> dict[str, State]:
    """States of all modes.

    Args:
        manifest: Names them, the dense one first.
        table: Rows that there are.
        arrays: Versions, ``mode/layer`` to int32 [units].
        root: Directory of the bundle.

    Raises:
        BundleError: They do not fit the rows or what the manifest says of each mode.
    """
    states: dict[str, State] = {}
    names = [mode.name for mode in manifest.modes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BundleError(f"{root}/{MANIFEST}: modes: found {twice[0]!r} twice, expected each once")
    for mode in manifest.modes:
        prefix = f"{mode.name}/"
        state = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        origin = f"{root}/{MODES}: mode {mode.name}"
        table.check_state(state, origin)  # type: ignore[arg-type]  # it checks the dtype
        states[mode.name] = {name: versions.astype(np.int32) for name, versions in state.items()}
        _check_kept(mode, states[mode.name], table, origin)
    if unknown := sorted(key for key in arrays if key.partition("/")[0] not in states):
        raise BundleError(
            f"{root}/{MODES}: found array {unknown[0]!r}, expected those of modes {', '.join(states)} only"
        )
    if not same_state(states[names[0]], table.dense()):
        raise BundleError(
            f"{root}/{MODES}: mode {names[0]}: found rows that are not the dense network's, "
            "expected the first mode to be the dense network"
        )
    return states


def _check_kept(mode: ModeEntry, state: State, table: RowTable, origin: str) -> None:
    """The units that a mode says it keeps must be those whose rows are not removed."""
    for layer in table.layers:
        kept = np.flatnonzero(state[layer.name] != ZERO)
        said = mode.kept.get(layer.name, tuple(range(layer.units)))
        if not said:
            raise BundleError(f"{origin}: layer {layer.name}: found no unit kept, expected at least one")
        if list(said) != kept.tolist():
            raise BundleError(
                f"{origin}: layer {layer.name}: found rows of {len(kept)} units, expected those of the {len(said)} "
                f"that {MANIFEST} says are kept, in ascending order"
            )
    if unknown := set(mode.kept) - {layer.name for layer in table.layers}:
        raise BundleError(
            f"{origin}: found {min(unknown)!r} among the layers that lost units, expected some of {list(table.names)}"
        )


def read_path(
    entry: TransitionEntry, table: RowTable, states: Mapping[str, State], raw: bytes, root: Path
) -> ChunkList:
    """Chunk list of a transition.

    Raises:
        BundleError: It does not lead from one of its modes to the other as the manifest says.
    """
    origin = f"{root}/{entry.path}"
    for mode in (entry.from_, entry.to):
        if mode not in states:
            raise BundleError(
                f"{root}/{MANIFEST}: transition {entry.from_} → {entry.to}: found no mode {mode!r}, "
                f"expected one of {', '.join(states)}"
            )
    chunks = ChunkList.from_arrays(table.names, read_tensors(raw, origin), origin)
    chunks.check(table, states[entry.from_], states[entry.to], origin)
    if (len(chunks), chunks.total_bytes(table)) != (entry.chunks, entry.bytes_written):
        raise BundleError(
            f"{origin}: found {len(chunks)} chunks of {chunks.total_bytes(table)} bytes, "
            f"expected {entry.chunks} of {entry.bytes_written}"
        )
    at = [waypoint.position for waypoint in entry.waypoints]
    if at != sorted(at) or max(at, default=0) > len(chunks):
        raise BundleError(
            f"{root}/{MANIFEST}: transition {entry.from_} → {entry.to}: found waypoints at chunks {at}, "
            f"expected them in walking order, none beyond {len(chunks)}"
        )
    _check_blocks(entry, len(chunks), f"{root}/{MANIFEST}: transition {entry.from_} → {entry.to}")
    return chunks


def _check_blocks(entry: TransitionEntry, chunks: int, origin: str) -> None:
    """Check that blocks lie within the path, and that what is proved of it speaks of them."""
    blocks = entry.blocks
    if list(blocks) != sorted({*blocks}) or not all(0 < block < chunks for block in blocks):
        raise BundleError(
            f"{origin}: found blocks at chunks {list(blocks)}, expected them ascending, all between 0 and {chunks}"
        )
    stages = () if entry.certificate is None else entry.certificate.stages
    if stages and not {*blocks} <= {*stages}:
        raise BundleError(
            f"{origin}: found a block at chunk {min({*blocks} - {*stages})} and certificate stages at {list(stages)}, "
            "expected a stage for each block; plan again"
        )
