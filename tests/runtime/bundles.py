"""A small complete bundle on disk, made without torch: modes C1 → C2 → C3 → C1 of the synthetic network."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from device_profiles import Profile, loader
from runtime.plan import bundle as bundles
from runtime.plan.bundle import BASE, CANARY, EVALUATION, GRAPH, MODES, ROWS
from runtime.plan.costs import predict
from runtime.plan.landscape import Landscape, LandscapePath, LandscapePoint, encode
from runtime.plan.manifest import (
    CandidateEntry,
    LayerEntry,
    Manifest,
    ModeEntry,
    ModelEntry,
    PlanningEntry,
    TransitionEntry,
    WaypointEntry,
)
from runtime.plan.samples import Samples, pack
from runtime.walking import strategies
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import POOL, ZERO, RowTable, State
from runtime.walking.session import Session
from tests.runtime.synthetic import MOVED_LAYERS, SyntheticModel, build, convolutional_nodes, synthetic_model

TOUR = ("C1", "C2", "C3", "C1")
SMALL_INCREMENT = 400
"""Two or three rows of the synthetic network's second layer."""


CANDIDATES = tuple(
    CandidateEntry(
        name=name, strategy=name, feasible=chosen, chosen=chosen, bytes_written=100, functional_length=1.0,
        worst_accuracy=0.9, worst_accuracy_bound=0.8, worst_divergence=0.5,
    )
    for name, chosen in (("ordered", True), ("naive", False))
)  # fmt: skip


def profile(**changes: object) -> Profile:
    """A device that walks the synthetic network in many increments and never waits long."""
    data = loader.as_builtins(loader.load("generic-x86"))
    data["writes"] |= {"bytes_per_increment": SMALL_INCREMENT, "increments_per_second": 1e5}
    data["modes"] = {
        "C1": {"description": "dense"},
        "C2": {"from": "C1", "remove": [{"layer": {"name": "conv1"}, "count": 1}]},
        "C3": {"from": "C2", "remove": [{"layer": {"name": "conv2"}, "count": 1}]},
    }
    data["origins"] = {}  # those of the built-in one's numbers, which are others here
    data["transitions"] = [list(pair) for pair in pairwise(TOUR)]
    for key, value in changes.items():
        section, _, field = key.partition("__")
        if field:
            data[section][field] = value
        else:
            data[section] = value
    return loader.from_builtins(data, "test profile")


def table_and_states(seed: int = 0) -> tuple[RowTable, dict[str, State]]:
    """Rows of the three modes: conv1 loses unit 1 in C2, conv2 loses unit 2 in C3, and their readers are rewritten."""
    base = synthetic_model(seed).base
    rng = np.random.default_rng(7 + seed)
    dense = RowTable(MOVED_LAYERS, base, {})
    pool = {}
    for layer, column in ((MOVED_LAYERS[1], 1), (MOVED_LAYERS[2], 2)):
        rows = dense.rows(layer.name, np.arange(layer.units, dtype=np.int32), np.zeros(layer.units, np.int32))
        rows = rows + 0.02 * rng.standard_normal(rows.shape).astype(np.float32)
        width = layer.columns_per_unit
        rows[:, column * width : (column + 1) * width] = 0
        pool[layer.name] = rows
    table = RowTable(MOVED_LAYERS, base, pool)
    states = {name: {key: versions.copy() for key, versions in table.dense().items()} for name in ("C1", "C2", "C3")}
    for name in ("C2", "C3"):
        states[name]["conv1"][1] = ZERO
        states[name]["conv2"][:] = POOL + np.arange(6)
    states["C3"]["conv2"][2] = ZERO
    states["C3"]["fc1"][:] = POOL + np.arange(5)
    return table, states


def kept(state: State) -> dict[str, tuple[int, ...]]:
    """Units present, for layers that lost any."""
    present = {name: np.flatnonzero(versions != ZERO) for name, versions in state.items()}
    return {name: tuple(units.tolist()) for name, units in present.items() if len(units) < len(state[name])}


def compact_graph(state: State) -> bytes:
    """The synthetic network with smaller convolutions, all weights external."""
    units = {name: int((versions != ZERO).sum()) for name, versions in state.items()}
    first, second = units["conv1"], units["conv2"]
    shapes = {
        "conv1.weight": (first, 1, 3, 3), "conv1.bias": (first,),
        "conv2.weight": (second, first, 3, 3), "conv2.bias": (second,),
        "fc1.weight": (5, 4 * second), "fc1.bias": (5,), "fc2.weight": (3, 5), "fc2.bias": (3,),
    }  # fmt: skip
    empty = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    return build(convolutional_nodes(), ["batch", 1, 4, 4], ["batch", 3], {}, empty)


def drawn(model: SyntheticModel, table: RowTable, start: State, path: ChunkList, samples: Samples) -> Landscape:
    """The path over a loss that is made up; what it answers is measured."""
    session, few = Session(model.model, model.constants), samples.take(50)
    points = []
    for position in (0, len(path) // 2, len(path)):
        weights = session.bind(table.tensors(path.state_at(start, position)))
        right = int((np.argmax(session.run(few.inputs, weights), axis=1) == few.labels).sum())
        points.append(LandscapePoint(position=position, x=float(position), y=0.5, away=0.25, loss=0.1, correct=right))
    return Landscape(
        samples=50, spanned_by="naive", x=(-1.0, 4.0, 9.0), y=(0.0, 1.0), loss=((0.1, 0.2, 0.3), (0.2, 0.3, 0.4)),
        correct=((50, 40, 30), (40, 30, 20)), paths=(LandscapePath(name="ordered", points=tuple(points)),),
    )  # fmt: skip


def content(device: Profile | None = None, seed: int = 0) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and files of the bundle; evidence is measured, not made up."""
    device = device or profile()
    model = synthetic_model(seed)
    table, states = table_and_states(seed)
    session = Session(model.model, model.constants)
    inputs = np.random.default_rng(3).standard_normal((400, 1, 4, 4)).astype(np.float32)

    def answers(state: State) -> np.ndarray:
        return np.argmax(session.run(inputs, session.bind(table.tensors(state))), axis=1)

    by_mode = {name: answers(state) for name, state in states.items()}
    labels = by_mode["C1"].astype(np.int64)
    samples = Samples(inputs, labels)
    agreed = np.flatnonzero(np.all([found == labels for found in by_mode.values()], axis=0))[:16]
    names = tuple(layer.name for layer in MOVED_LAYERS)
    files = {
        GRAPH: model.model,
        BASE: save(model.base),
        ROWS: save(dict(table.pool)),
        MODES: save({f"{mode}/{name}": versions for mode, state in states.items() for name, versions in state.items()}),
        CANARY: pack(Samples(inputs[agreed], labels[agreed])),
        EVALUATION: pack(samples),
    }
    modes, transitions = [], []
    for name, state in states.items():
        files[f"graphs/{name}.onnx"] = compact_graph(state)
        right = by_mode[name] == labels
        modes.append(
            ModeEntry(
                name=name, description=name, graph=f"graphs/{name}.onnx", kept=kept(state),
                accuracy=float(right.mean()), correct=int(right.sum()), macs=100, weight_bytes=1000,
                divergence=0.0, damping=0.0,
            )
        )  # fmt: skip
    for begin, end in pairwise(TOUR):
        path = strategies.ordered(table, states[begin], states[end]).chunks
        file = f"paths/{begin}-{end}.safetensors"
        files[file] = save(path.arrays())
        waypoints = []
        for position in (0, len(path) // 2, len(path)):
            right = answers(path.state_at(states[begin], position)) == labels
            waypoints.append(
                WaypointEntry(
                    position=position, accuracy=float(right.mean()), correct=int(right.sum()),
                    functional_length=0.0, bytes=int(path.chunk_bytes(table)[:position].sum()),
                )
            )  # fmt: skip
        candidates, landscape = (), None
        if not transitions:
            candidates, landscape = CANDIDATES, f"landscapes/{begin}-{end}.json"
            files[landscape] = encode(drawn(model, table, states[begin], path, samples))
        transitions.append(
            TransitionEntry(
                from_=begin, to=end, strategy="ordered", path=file, alternatives={}, chunks=len(path),
                bytes_written=path.total_bytes(table), functional_length=0.0,
                min_accuracy=min(point.accuracy for point in waypoints), worst_drop_points=0.0, torn_states=0,
                waypoints=tuple(waypoints), candidates=candidates, landscape=landscape,
                cost=predict(table, path, device), cost_back=predict(table, path.reversed(), device),
            )
        )  # fmt: skip
    manifest = Manifest(
        release=1,
        model=ModelEntry(
            id="synthetic", definition="tests", input_shape=(1, 4, 4), outputs=3,
            dense_bytes=sum(tensor.nbytes for tensor in model.base.values()), dense_macs=100,
        ),
        profile=loader.as_builtins(device),
        preprocessing={},
        labels=("a", "b", "c"),
        layers=tuple(
            LayerEntry(
                name=layer.name, weight=layer.weight, bias=layer.bias, shape=layer.shape, reads=layer.reads,
                columns_per_unit=layer.columns_per_unit,
            )
            for layer in MOVED_LAYERS
        ),
        modes=tuple(modes),
        transitions=tuple(transitions),
        planning=PlanningEntry(
            seed=0, seconds=0.0, epoch_equivalents=0.0, fit_samples=1, selection_samples=1, test_samples=400,
            eval_samples=400, dataset="random", versions={},
        ),
        files={},
    )  # fmt: skip
    assert names == tuple(layer.name for layer in table.layers)
    return manifest, files


def write_bundle(path: Path, device: Profile | None = None, seed: int = 0) -> Path:
    """Write the bundle to ``path``; seeds give networks of other weights."""
    manifest, files = content(device, seed)
    return bundles.write(path, manifest, files, replace=False)
