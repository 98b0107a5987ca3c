"""The plan on disk: a directory that is read whole, checked whole, and written whole or not at all.

``docs/bundle.md`` is the specification. The reader trusts nothing: every file is listed, sized and hashed in the
manifest, read once into memory, and parsed from those same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET

from device_profiles import Profile, loader
from runtime.errors import BundleError, UnknownMode
from runtime.plan import bundle_files, bundle_parts, grid_parts
from runtime.plan import landscape as landscapes
from runtime.plan import manifest as schema
from runtime.plan.bundle_files import MANIFEST, SIGNATURE
from runtime.plan.bundle_parts import BASE, MODES
from runtime.plan.costs import check_stored
from runtime.plan.landscape import Landscape
from runtime.plan.manifest import FileEntry, Manifest, ModeEntry, TransitionEntry
from runtime.plan.samples import Samples, unpack
from runtime.plan.trust import Trust
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import Floats, RowTable, State

GRAPH: Final = "graph.onnx"
ROWS: Final = "paths/rows.safetensors"
CANARY: Final = "canary.npz"
EVALUATION: Final = "eval.npz"


@dataclass(frozen=True)
class Transition:
    """A directed move with its stored chunk list, and the picture of its candidates if there is one."""

    entry: TransitionEntry
    chunks: ChunkList
    landscape: Landscape | None = None

    @property
    def ends(self) -> tuple[str, str]:
        """Mode left and mode reached."""
        return self.entry.from_, self.entry.to


@dataclass(frozen=True)
class Head:
    """What a bundle says of itself, before anything else of it is read.

    Attributes:
        raw: The manifest as it was read.
        signature: The signature; None if there is none.
        manifest: The manifest.
        signed_by: As in ``Bundle``.
    """

    raw: bytes
    signature: bytes | None
    manifest: Manifest
    signed_by: str | None

    @property
    def id(self) -> str:
        """As in ``Bundle``."""
        return hashlib.sha256(self.raw).hexdigest()


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
        files: Every file as it was read, the manifest and the signature included.
        scales: Layer name to the scales of its weights, where they are codes times a scale.
        signed_by: Id of the pinned key that signed it; None if no key was pinned, whoever signed it.
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
    scales: Mapping[str, Floats]
    signed_by: str | None = None

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
    def id(self) -> str:
        """SHA-256 of the manifest as it was read, which has the digests of all other files; in hexadecimal."""
        return hashlib.sha256(self.files[MANIFEST]).hexdigest()

    @property
    def signed(self) -> bool:
        """Whether a signature is there; ``signed_by`` says whether it was checked."""
        return SIGNATURE in self.files

    @property
    def size_bytes(self) -> int:
        """Size on disk, manifest and signature included."""
        return sum(len(raw) for raw in self.files.values())

    def alternative(self, transition: Transition, strategy: str) -> tuple[RowTable, ChunkList]:
        """Chunk list of a strategy that was considered and not chosen, and a table that knows its rows.

        Raises:
            BundleError: The bundle does not hold it, or it does not fit the rest of the bundle.
        """
        name = transition.entry.alternatives.get(strategy)
        start, end = transition.ends
        if name is None:
            raise BundleError(f"{self.path}: {start} → {end} has no {strategy} path; plan again with --every-candidate")
        origin = f"{self.path}/{name}"
        arrays = bundle_parts.read_tensors(self.files[name], origin)
        stored = {key.removeprefix("rows/"): value for key, value in arrays.items() if key.startswith("rows/")}
        rows = bundle_parts.check_weights(stored, origin)
        bundle_parts.fit_pool(rows, self.table.layers, origin)
        table = self.table.extended(rows)
        lists = {key: value for key, value in arrays.items() if not key.startswith("rows/")}
        chunks = ChunkList.from_arrays(table.names, lists, origin)
        chunks.check(table, self.states[start], self.states[end], origin)
        return table, chunks


def read(path: str | os.PathLike[str], trust: Trust | None = None) -> Bundle:
    """Read and check a bundle.

    Args:
        path: Its directory.
        trust: Pinned keys and the committed release; without it, anybody's bundle of any release is read.

    Raises:
        Untrusted: It is not signed by a pinned key, or its release is lower than the committed one.
        BundleError: Anything about it is not as the specification says; the text names file, found and expected.
        ProfileError: The device profile in its manifest is not valid.
    """
    root = Path(path)
    head = glance(root, trust)
    try:
        files = {MANIFEST: head.raw, **bundle_files.read_listed(root, head.manifest.files)}
    except OSError as error:
        raise BundleError(f"{error.filename or root}: cannot be read: {error.strerror}") from error
    if head.signature is not None:
        files[SIGNATURE] = head.signature
    return dataclasses.replace(_assemble(root, head.manifest, files), signed_by=head.signed_by)


def glance(path: str | os.PathLike[str], trust: Trust | None = None) -> Head:
    """Read and check the head of a bundle; no other file is opened.

    Args:
        path: Its directory.
        trust: As for ``read``.

    Raises:
        Untrusted: As for ``read``.
        BundleError: Manifest or signature is not as the specification says.
    """
    root = Path(path)
    if not root.is_dir():
        raise BundleError(f"{root}: found no directory, expected a plan bundle; make one with `geoshift plan`")
    try:
        raw = bundle_files.read_regular(root, MANIFEST, schema.MAX_MANIFEST_BYTES)
        signature = bundle_files.read_signature(root)
    except OSError as error:
        raise BundleError(f"{error.filename or root}: cannot be read: {error.strerror}") from error
    return head_of(raw, signature, root, trust)


def head_of(raw: bytes, signature: bytes | None, root: Path, trust: Trust | None) -> Head:
    """Check the head of a bundle, wherever it came from.

    Args:
        raw: The manifest.
        signature: What was made from it.
        root: What to call the bundle in errors.
        trust: As for ``read``.

    Raises:
        Untrusted: As for ``read``.
        BundleError: The manifest is not as the specification says.
    """
    # Before anything in the manifest is parsed: a stranger's bytes get no further than this.
    signer = None if trust is None else trust.signer(raw, signature, str(root))
    manifest = schema.decode(raw, f"{root}/{MANIFEST}")
    if trust is not None:
        trust.check_release(manifest, f"{root}/{MANIFEST}")
    return Head(raw, signature, manifest, None if signer is None else signer.id)


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
    bundle_files.check_listed(root, entries)
    _assemble(root, schema.decode(raw_manifest, f"{root}/{MANIFEST}"), {MANIFEST: raw_manifest, **files})
    bundle_files.write_all(root, {**files, MANIFEST: raw_manifest}, replace=replace)
    return root


def _assemble(root: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Parse verified bytes and check that all parts fit each other."""
    named = {GRAPH, BASE, ROWS, MODES, CANARY, EVALUATION, *(mode.graph for mode in manifest.modes)}
    named |= {name for move in manifest.transitions for name in (move.path, *move.alternatives.values())}
    named |= {move.landscape for move in manifest.transitions if move.landscape is not None}
    if manifest.grid is not UNSET and manifest.grid.scales is not None:
        named.add(manifest.grid.scales)
    listed = set(files) - {MANIFEST, SIGNATURE}
    if named != listed:
        odd = min(named ^ listed)
        how = "used and not listed" if odd in named else "listed and not used"
        raise BundleError(f"{root}/{MANIFEST}: files: found {odd!r} {how}, expected both; copy the bundle again")
    parts = {name: bundle_parts.read_tensors(files[name], f"{root}/{name}") for name in (BASE, ROWS, MODES)}
    tensors = bundle_parts.check_weights(parts[BASE], f"{root}/{BASE}")
    profile = loader.from_builtins(manifest.profile, f"{root}/{MANIFEST}: profile")
    scales = grid_parts.read_scales(manifest, profile, tensors, files, root)
    layers = bundle_parts.fit_layers(manifest, tensors, root)
    pool = bundle_parts.check_weights(parts[ROWS], f"{root}/{ROWS}")
    bundle_parts.fit_pool(pool, layers, f"{root}/{ROWS}")
    table = RowTable(layers, tensors, pool)
    states = bundle_parts.fit_states(manifest, table, parts[MODES], root)
    shape, classes = manifest.model.input_shape, len(manifest.labels)
    canary = unpack(files[CANARY], f"{root}/{CANARY}", shape, classes)
    evaluation = unpack(files[EVALUATION], f"{root}/{EVALUATION}", shape, classes)
    transitions = tuple(
        Transition(
            entry,
            bundle_parts.read_path(entry, table, states, files[entry.path], root),
            None
            if entry.landscape is None
            else landscapes.decode(files[entry.landscape], entry, len(evaluation), f"{root}/{entry.landscape}"),
        )
        for entry in manifest.transitions
    )
    profile = loader.from_builtins(manifest.profile, f"{root}/{MANIFEST}: profile")
    for move in transitions:
        check_stored(move.entry, table, move.chunks, profile, f"{root}/{MANIFEST}")
    grid_parts.check_values(manifest, scales, tensors, table, states, [move.chunks for move in transitions], root)
    return Bundle(
        path=root,
        manifest=manifest,
        profile=profile,
        graph=files[GRAPH],
        compact={mode.name: files[mode.graph] for mode in manifest.modes},
        tensors=tensors,
        table=table,
        states=states,
        transitions=transitions,
        canary=canary,
        evaluation=evaluation,
        files=files,
        scales=scales,
    )
