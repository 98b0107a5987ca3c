"""Makes a plan: from a trained network and a device profile to a bundle."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save as save_tensors
from torch import nn

from device_profiles import Profile, loader
from planner import candidates as paths
from planner.adopt import adopt, alternative_file
from planner.candidates import Candidate
from planner.cost import CostMeter
from planner.datasets import Dataset, split
from planner.endpoint import EndPoint, EndPointSearch
from planner.evidence import HeldOut, describe_mode, describe_transition, pick_canary
from planner.export import export_compact, export_live
from planner.geodesic_path import geodesic_points
from planner.modes import resolve
from planner.network import Network, trace
from planner.progress import Progress, Silent
from planner.row_pool import RowPool
from runtime import bundle as bundles
from runtime import bundle_files
from runtime.bundle import BASE, CANARY, EVALUATION, GRAPH, MODES, ROWS
from runtime.evaluation import Evaluator
from runtime.fit import check_rows
from runtime.manifest import LayerEntry, Manifest, ModelEntry, PlanningEntry
from runtime.rows import Floats, MovedLayer, RowTable
from runtime.samples import Samples, pack
from runtime.session import Session


@dataclass(frozen=True)
class Options:
    """What a plan may spend.

    Attributes:
        seed: Seed of the split, the probes and the torn states.
        selection: Training samples put aside to choose on.
        fit: Training samples that rows are fitted on, at most. On VGG-11's widest reader 1,000 images already gave
            the refit its accuracy; smaller images have fewer positions, hence twice that.
        walked: Of these, how many every candidate path is walked on.
        probes: Samples of the pullback metric.
        stored: Test samples kept in the bundle.
        waypoints: Measured states of each transition, at most.
        torn: Torn states measured for each transition, both directions together.
        alternatives: Whether geodesic paths that were not chosen are kept in the bundle, to be simulated.
    """

    seed: int = 0
    selection: int = 1000
    fit: int = 2000
    walked: int = 2000
    probes: int = 64
    stored: int = 1000
    waypoints: int = 11
    torn: int = 20
    alternatives: bool = True


@dataclass(frozen=True)
class _Split:
    """The data by what it may be used for."""

    fit: Samples
    selection: Samples
    test: Samples
    training_size: int


def make_plan(
    module: nn.Module,
    definition: str,
    dataset: Dataset,
    profile: Profile,
    out: str | os.PathLike[str],
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    replace: bool = False,
) -> Manifest:
    """Plan all modes and transitions of a profile for a network and write the bundle.

    Args:
        module: Trained network.
        definition: What it is called, for the manifest.
        dataset: Its data; planning uses the training part, the evidence the test part.
        profile: Device and power modes.
        out: Directory of the bundle.
        options: What may be spent.
        progress: Shows where the work is.
        replace: Whether a bundle that stands at ``out`` may be replaced.

    Returns:
        The manifest that was written.

    Raises:
        GeoshiftError: The network, its data, or the profile do not allow a plan, or no path is safe. Nothing is
            written then.
    """
    options = options or Options()
    progress = progress or Silent()
    begun = time.monotonic()
    bundle_files.check_target(Path(out), replace=replace)
    cost = CostMeter()
    data = _divide(dataset, options)
    sample = torch.from_numpy(data.fit.inputs[:2])
    network = trace(module, sample)
    targets = resolve(profile, network)

    progress.stage("End points", len(targets))
    search = EndPointSearch(network, _tensor(data.fit), _tensor(data.selection.take(options.fit // 2)), cost)
    ends = search.find(targets, progress.step)
    layers = _moved_layers(network, ends)
    dense = {name: tensor.numpy() for name, tensor in network.module.state_dict().items()}
    pool = RowPool(layers, dense)
    states = {name: pool.add(_arrays(end.tensors)) for name, end in ends.items()}
    table = pool.table()
    check_rows(table, profile, f"plan for {profile.name}")

    progress.stage("ONNX graphs", 1 + len(ends))
    progress.step("live")
    moved = [name for layer in layers for name in (layer.weight, layer.bias) if name is not None]
    base = save_tensors({name: np.ascontiguousarray(dense[name]) for name in sorted(dense)})
    live = export_live(network.module, sample, moved, _places(base))
    graphs: dict[str, bytes] = {}
    for name, end in ends.items():
        progress.step(name)
        kept = {layer.name: end.kept(layer) for layer in network.layers if end.removed.get(layer.name)}
        graphs[name] = export_compact(live, kept, network.layers)
    session = Session(live, {name: dense[name] for name in dense if name not in moved}, threads=_threads())

    chooser = Evaluator(session, data.selection.take(options.walked), cost.forward)
    dense_choice = chooser.at(table, table.dense())
    max_drop = profile.guard.max_drop_points / 100
    considered: dict[tuple[str, str], tuple[Candidate, list[Candidate]]] = {}
    probes = _tensor(data.fit.take(options.probes))
    progress.stage("Geodesics", len(profile.transitions))
    geodesics = {}
    for begin, stop in profile.transitions:
        progress.step(f"{begin} → {stop}")
        geodesics[begin, stop] = geodesic_points(network, layers, ends[begin], ends[stop], probes, cost)
    for begin, stop in profile.transitions:
        compiled = paths.compile_all(table, states[begin], states[stop], geodesics[begin, stop])
        progress.stage(f"Paths {begin} → {stop}", len(compiled))
        found = paths.measure(chooser, dense_choice, table, states[begin], compiled, options.seed, progress.step)
        chosen = paths.choose(found, dense_choice, max_drop, f"{begin} → {stop}")
        considered[begin, stop] = chosen, found

    canary = pick_canary(chooser.samples, [chooser.at(table, state) for state in states.values()])
    held = _held_out(session, table, data.test, min(options.stored, len(data.test)))
    progress.stage("Evidence on held-out data", len(ends) + len(considered))
    table, renumbered = adopt(table, {ends_: chosen for ends_, (chosen, _) in considered.items()})
    files: dict[str, bytes] = {GRAPH: live, BASE: base}
    modes = []
    for number, (name, end) in enumerate(ends.items()):
        progress.step(name)
        file = f"graphs/{number}-{name}.onnx"
        files[file] = graphs[name]
        modes.append(describe_mode(network, end, states[name], table, held, file, profile.modes[name].description))
    transitions = []
    for number, ((begin, stop), (_, found)) in enumerate(considered.items()):
        progress.step(f"{begin} → {stop}")
        chosen = renumbered[begin, stop]
        found = [chosen if one.name == chosen.name else one for one in found]
        stem = f"paths/{number}-{begin}-{stop}"
        files[f"{stem}.safetensors"] = save_tensors(chosen.chunks.arrays())
        others: dict[str, str] = {}
        best = _best_geodesic(found)
        if options.alternatives and best is not None and chosen.strategy != "geodesic":
            others["geodesic"] = f"{stem}-geodesic.safetensors"
            files[others["geodesic"]] = alternative_file(best, pool.table(), table)
        transitions.append(
            describe_transition(
                (begin, stop), states[begin], chosen, found, dense_choice, held,
                max_drop=max_drop, waypoints=options.waypoints, torn=options.torn, seed=options.seed,
                files=(f"{stem}.safetensors", others),
            )
        )  # fmt: skip
    files[ROWS] = save_tensors({name: rows for name, rows in table.pool.items() if len(rows)})
    files[MODES] = save_tensors(
        {f"{name}/{layer}": versions for name, state in states.items() for layer, versions in state.items()}
    )
    files[CANARY] = pack(canary)
    files[EVALUATION] = pack(data.test.take(held.stored))
    manifest = Manifest(
        release=1,
        model=ModelEntry(
            id=type(module).__name__,
            definition=definition,
            input_shape=network.input_shape,
            outputs=held.dense.outputs.shape[1],
            dense_bytes=sum(4 * tensor.size for tensor in dense.values()),
            dense_macs=sum(layer.macs for layer in network.layers),
        ),
        profile=loader.as_builtins(profile),
        preprocessing=dict(dataset.preprocessing),
        labels=dataset.labels,
        layers=tuple(
            LayerEntry(
                name=layer.name,
                weight=layer.weight,
                bias=layer.bias,
                shape=layer.shape,
                reads=layer.reads,
                columns_per_unit=layer.columns_per_unit,
            )
            for layer in layers
        ),
        modes=tuple(modes),
        transitions=tuple(transitions),
        planning=PlanningEntry(
            seed=options.seed,
            seconds=time.monotonic() - begun,
            epoch_equivalents=cost.epoch_equivalents(data.training_size),
            fit_samples=len(data.fit),
            selection_samples=len(data.selection),
            test_samples=len(data.test),
            eval_samples=held.stored,
            dataset=dataset.name,
            versions={name: version(name) for name in ("geoshift", "torch", "onnxruntime", "numpy")},
        ),
        files={},
    )
    bundles.write(out, manifest, files, replace=replace)
    return manifest


def _divide(dataset: Dataset, options: Options) -> _Split:
    """Fit, selection and test samples; nothing of the test part is seen before the evidence."""
    fit, selection = split(dataset, options.seed, options.selection)
    # The split keeps the order of the data; a random part of it is a fair part.
    fit = np.random.default_rng(options.seed).permutation(fit)[: options.fit]
    return _Split(
        fit=Samples(dataset.train_x[fit], dataset.train_y[fit]),
        selection=Samples(dataset.train_x[selection], dataset.train_y[selection]),
        test=Samples(dataset.test_x, dataset.test_y),
        training_size=len(dataset.train_y),
    )


def _tensor(samples: Samples) -> torch.Tensor:
    return torch.from_numpy(samples.inputs)


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, Floats]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _threads() -> int:
    return max(1, os.cpu_count() or 1)


def _moved_layers(network: Network, ends: Mapping[str, EndPoint]) -> tuple[MovedLayer, ...]:
    """Layers that lose units or make up for it in some mode."""
    touched = {name for end in ends.values() for name in (*end.removed, *end.refits)}
    shapes = {name: tuple(tensor.shape) for name, tensor in network.module.state_dict().items()}
    return tuple(
        MovedLayer(layer.name, layer.weight, layer.bias, shapes[layer.weight], layer.reads, layer.columns_per_unit)
        for layer in network.layers
        if layer.name in touched
    )


def _places(base: bytes) -> dict[str, tuple[int, int]]:
    """Offset and length of each tensor in a safetensors file."""
    (size,) = struct.unpack("<Q", base[:8])
    header = json.loads(base[8 : 8 + size])
    return {
        name: (8 + size + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _held_out(session: Session, table: RowTable, test: Samples, stored: int) -> HeldOut:
    evaluator = Evaluator(session, test)
    return HeldOut(evaluator, evaluator.at(table, table.dense()), stored, batch=min(512, len(test)))


def _best_geodesic(candidates: list[Candidate]) -> Candidate | None:
    """The geodesic whose worst state was best, or None when there is none."""
    geodesics = [one for one in candidates if one.strategy == "geodesic"]
    return max(geodesics, key=lambda one: (one.worst, -one.bytes_written), default=None)
