"""The plan on disk: a directory that is read whole, checked whole, and written whole or not at all.

``docs/bundle.md`` is the specification. The reader trusts nothing: every file is listed, sized and hashed in the
manifest, read once into memory, and parsed from those same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from device_profiles import Profile, loader
from runtime import bundle_files
from runtime import manifest as schema
from runtime.bundle_files import MANIFEST
from runtime.chunks import ChunkList
from runtime.errors import BundleError, UnknownMode
from runtime.manifest import FileEntry, Manifest, ModeEntry, TransitionEntry
from runtime.rows import Floats, MovedLayer, RowTable, State
from runtime.samples import Samples, unpack

GRAPH: Final = "graph.onnx"
BASE: Final = "base.safetensors"
ROWS: Final = "paths/rows.safetensors"
MODES: Final = "paths/modes.safetensors"
CANARY: Final = "canary.npz"
EVALUATION: Final = "eval.npz"


@dataclass(frozen=True)
class Transition:
    """A directed move with its stored chunk list."""

    entry: TransitionEntry
    chunks: ChunkList

    @property
    def ends(self) -> tuple[str, str]:
        """Mode left and mode reached."""
        return self.entry.from_, self.entry.to


@dataclass(frozen=True)
class Bundle:
    """A checked plan in memory.

    Attributes:
        path: Where it was read from.
        manifest: Everything that is not a tensor or a graph.
        profile: Device profile it was planned for.
        graph: The live network, ONNX, without weights.
        compact: Mode name to its smaller network, ONNX, without weights.
        tensors: Dense weights by name.
        table: Row versions of the moved layers.
        states: Mode name to its state.
        transitions: Forward walks.
        canary: Few samples that decide whether a mode was reached.
        evaluation: Held-out samples that the evidence on ``eval.npz`` can be repeated with.
    """

    path: Path
    manifest: Manifest
    profile: Profile
    graph: bytes
    compact: Mapping[str, bytes]
    tensors: Mapping[str, Floats]
    table: RowTable
    states: Mapping[str, State]
    transitions: tuple[Transition, ...]
    canary: Samples
    evaluation: Samples
    files: Mapping[str, bytes]

    def mode(self, name: str) -> ModeEntry:
        """Look a mode up.

        Raises:
            UnknownMode: The plan has no such mode.
        """
        for mode in self.manifest.modes:
            if mode.name == name:
                return mode
        raise UnknownMode(f"mode: found {name!r}, expected one of {', '.join(self.states)}")

    @property
    def constants(self) -> dict[str, Floats]:
        """Dense tensors that no path writes."""
        moved = {name for layer in self.table.layers for name in (layer.weight, layer.bias)}
        return {name: tensor for name, tensor in self.tensors.items() if name not in moved}

    @property
    def size_bytes(self) -> int:
        """Size on disk, the manifest included."""
        return sum(len(raw) for raw in self.files.values())

    def alternative(self, transition: Transition, strategy: str) -> tuple[RowTable, ChunkList]:
        """Chunk list of a strategy that was considered and not chosen, and a table that knows its rows.

        Raises:
            BundleError: The bundle does not hold it, or it does not fit the rest of the bundle.
        """
        name = transition.entry.alternatives.get(strategy)
        start, end = transition.ends
        if name is None:
            raise BundleError(f"{self.path}: {start} → {end} has no {strategy} path; plan again with --alternatives")
        arrays = _tensors(self.files[name], f"{self.path}/{name}")
        rows = {key.removeprefix("rows/"): value for key, value in arrays.items() if key.startswith("rows/")}
        _check_pool(rows, self.table.layers, f"{self.path}/{name}")
        table = self.table.extended(rows)
        lists = {key: value for key, value in arrays.items() if not key.startswith("rows/")}
        chunks = ChunkList.from_arrays(_names(self.table), lists, f"{self.path}/{name}")
        chunks.check(table, self.states[start], self.states[end], f"{self.path}/{name}")
        return table, chunks


def read(path: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle.

    Raises:
        BundleError: Anything about it is not as the specification says; the text names file, found and expected.
    """
    root = Path(path)
    if not root.is_dir():
        raise BundleError(f"{root}: found no directory, expected a plan bundle; make one with `geoshift plan`")
    raw_manifest = bundle_files.read_regular(root, MANIFEST, schema.MAX_MANIFEST_BYTES)
    manifest = schema.decode(raw_manifest, f"{root}/{MANIFEST}")
    files = bundle_files.read_listed(root, manifest)
    return _assemble(root, manifest, {MANIFEST: raw_manifest, **files})


def write(path: str | os.PathLike[str], manifest: Manifest, files: Mapping[str, bytes], *, replace: bool) -> Path:
    """Write a bundle whole or not at all.

    Args:
        path: Directory to create.
        manifest: Its ``files`` are filled in here.
        files: Relative path to content, all files but the manifest.
        replace: Whether a bundle that stands there may be replaced.

    Returns:
        The directory.

    Raises:
        BundleError: Something else stands there, or the content does not pass the reader's own checks.
    """
    root = Path(path)
    bundle_files.check_target(root, replace=replace)
    entries = {name: FileEntry(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw)) for name, raw in files.items()}
    complete = msgspec.structs.replace(manifest, files=dict(sorted(entries.items())))
    raw_manifest = schema.encode(complete)
    _assemble(root, schema.decode(raw_manifest, f"{root}/{MANIFEST}"), {MANIFEST: raw_manifest, **files})
    bundle_files.write_all(root, {**files, MANIFEST: raw_manifest})
    return root


def _assemble(root: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Parse verified bytes and check that all parts fit each other."""
    named = {GRAPH, BASE, ROWS, MODES, CANARY, EVALUATION, *(mode.graph for mode in manifest.modes)}
    named |= {name for move in manifest.transitions for name in (move.path, *move.alternatives.values())}
    if named != set(files) - {MANIFEST}:
        odd = sorted(named ^ (set(files) - {MANIFEST}))
        raise BundleError(f"{root}: file {odd[0]!r} is {'not listed' if odd[0] in named else 'listed, but not used'}")
    tensors = _weights(files[BASE], f"{root}/{BASE}")
    layers = _layers(manifest, tensors, root)
    pool = _weights(files[ROWS], f"{root}/{ROWS}")
    _check_pool(pool, layers, f"{root}/{ROWS}")
    table = RowTable(layers, tensors, pool)
    states = _states(root, manifest, table, _tensors(files[MODES], f"{root}/{MODES}"))
    transitions = tuple(_transition(root, entry, table, states, files[entry.path]) for entry in manifest.transitions)
    shape = manifest.model.input_shape
    return Bundle(
        path=root,
        manifest=manifest,
        profile=loader.from_builtins(manifest.profile, f"{root}/{MANIFEST}: profile"),
        graph=files[GRAPH],
        compact={mode.name: files[mode.graph] for mode in manifest.modes},
        tensors=tensors,
        table=table,
        states=states,
        transitions=transitions,
        canary=unpack(files[CANARY], f"{root}/{CANARY}", shape, len(manifest.labels)),
        evaluation=unpack(files[EVALUATION], f"{root}/{EVALUATION}", shape, len(manifest.labels)),
        files=files,
    )


def _names(table: RowTable) -> tuple[str, ...]:
    return tuple(layer.name for layer in table.layers)


def _tensors(raw: bytes, origin: str) -> dict[str, NDArray[np.generic]]:
    try:
        return dict(load_tensors(raw))
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{origin}: {error}") from error


def _weights(raw: bytes, origin: str) -> dict[str, Floats]:
    """Tensors that must be float32 and finite."""
    weights: dict[str, Floats] = {}
    for name, tensor in _tensors(raw, origin).items():
        if tensor.dtype != np.float32:
            raise BundleError(f"{origin}: tensor {name}: found {tensor.dtype}, expected float32")
        values = tensor.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise BundleError(f"{origin}: tensor {name}: found a value that is not finite, expected finite weights")
        weights[name] = values
    return weights


def _layers(manifest: Manifest, tensors: Mapping[str, Floats], root: Path) -> tuple[MovedLayer, ...]:
    layers = tuple(
        MovedLayer(entry.name, entry.weight, entry.bias, entry.shape, entry.reads, entry.columns_per_unit)
        for entry in manifest.layers
    )
    for layer in layers:
        wanted = {layer.weight: layer.shape} | ({layer.bias: (layer.units,)} if layer.bias is not None else {})
        for name, shape in wanted.items():
            found = tensors[name].shape if name in tensors else None
            if found != shape:
                raise BundleError(f"{root}/{BASE}: tensor {name}: found shape {found}, expected {shape}")
    if len({layer.name for layer in layers}) != len(layers):
        raise BundleError(f"{root}/{MANIFEST}: layers: found a name twice, expected each once")
    return layers


def _check_pool(pool: Mapping[str, NDArray[np.generic]], layers: tuple[MovedLayer, ...], origin: str) -> None:
    widths = {layer.name: layer.width for layer in layers}
    for name, rows in pool.items():
        if name not in widths or rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != widths[name]:
            raise BundleError(
                f"{origin}: rows of {name}: found {rows.dtype}{list(rows.shape)}, "
                f"expected float32[rows, {widths.get(name, 'no such layer')}]"
            )
        if not np.isfinite(rows).all():
            raise BundleError(f"{origin}: rows of {name}: found a value that is not finite, expected finite weights")


def _states(
    root: Path, manifest: Manifest, table: RowTable, arrays: Mapping[str, NDArray[np.generic]]
) -> dict[str, State]:
    states: dict[str, State] = {}
    for mode in manifest.modes:
        prefix = f"{mode.name}/"
        state = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        origin = f"{root}/{MODES}: mode {mode.name}"
        table.check_state(state, origin)  # type: ignore[arg-type]  # it checks the dtype
        states[mode.name] = {name: versions.astype(np.int32) for name, versions in state.items()}
        _check_kept(mode, states[mode.name], table, origin)
    if len(states) != len(manifest.modes) or sum(len(state) for state in states.values()) != len(arrays):
        raise BundleError(
            f"{root}/{MODES}: found arrays of {len(arrays)} layers, expected each mode once, nothing else"
        )
    return states


def _check_kept(mode: ModeEntry, state: State, table: RowTable, origin: str) -> None:
    """The units that a mode says it keeps must be those whose rows are not removed."""
    for layer in table.layers:
        kept = np.flatnonzero(state[layer.name] != 1)
        said = mode.kept.get(layer.name, tuple(range(layer.units)))
        if list(said) != kept.tolist():
            raise BundleError(f"{origin}: layer {layer.name}: kept units differ from those whose rows are present")
    if unknown := set(mode.kept) - {layer.name for layer in table.layers}:
        raise BundleError(f"{origin}: found unknown layer {min(unknown)!r} among those that lost units")


def _transition(
    root: Path, entry: TransitionEntry, table: RowTable, states: Mapping[str, State], raw: bytes
) -> Transition:
    origin = f"{root}/{entry.path}"
    for mode in (entry.from_, entry.to):
        if mode not in states:
            raise BundleError(f"{root}/{MANIFEST}: transition {entry.from_} → {entry.to}: found no mode {mode!r}")
    chunks = ChunkList.from_arrays(_names(table), _tensors(raw, origin), origin)
    chunks.check(table, states[entry.from_], states[entry.to], origin)
    if (len(chunks), chunks.total_bytes(table)) != (entry.chunks, entry.bytes_written):
        raise BundleError(
            f"{origin}: found {len(chunks)} chunks of {chunks.total_bytes(table)} bytes, "
            f"expected {entry.chunks} of {entry.bytes_written}"
        )
    if any(not 0 <= waypoint.position <= len(chunks) for waypoint in entry.waypoints):
        raise BundleError(f"{root}/{MANIFEST}: transition {entry.from_} → {entry.to}: a waypoint lies beyond its end")
    return Transition(entry, chunks)
