"""End points as a device will hold them: row versions, graphs without weights, a session to ask."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.numpy import save as save_tensors
from torch import Tensor

from planner.endpoint import EndPoint
from planner.export import export_compact, export_live
from planner.network import Network
from planner.progress import Progress
from planner.row_pool import RowPool
from runtime.plan.grid import FLOAT32, Grid
from runtime.walking.rows import Floats, MovedLayer, RowTable, Source, State
from runtime.walking.session import Session


@dataclass(frozen=True)
class Deployment:
    """All configurations of a network in the runtime's terms.

    Attributes:
        table: Row versions of the moved layers.
        states: Mode name to its state.
        dense: Dense tensors by name.
        base: The same as a safetensors file.
        live: The live graph.
        compact: Mode name to its smaller graph.
        constants: Tensors that never move.
        session: The live graph, ready to run.
    """

    table: RowTable
    states: Mapping[str, State]
    dense: Mapping[str, Floats]
    base: bytes
    live: bytes
    compact: Mapping[str, bytes]
    constants: Mapping[str, Floats]
    session: Session


def kept_units(network: Network, end: EndPoint) -> dict[str, tuple[int, ...]]:
    """Units that are present, for every layer that lost any."""
    return {layer.name: tuple(end.kept(layer)) for layer in network.layers if end.removed.get(layer.name)}


def row_table(
    network: Network, ends: Mapping[str, EndPoint], grid: Grid = FLOAT32
) -> tuple[RowTable, dict[str, State]]:
    """Row versions that the configurations need, and each configuration's state.

    Args:
        network: The dense network.
        ends: Mode name to configuration.
        grid: How the device stores a row; as float32 by default.
    """
    pool = RowPool(_moved_layers(network, ends, grid), _arrays(network.module.state_dict()))
    states = {name: pool.add(_arrays(end.tensors), end.removed) for name, end in ends.items()}
    return pool.table(), states


def deploy(
    network: Network,
    ends: Mapping[str, EndPoint],
    table: RowTable,
    states: Mapping[str, State],
    sample: Tensor,
    progress: Progress,
) -> Deployment:
    """Export the live graph, with the moved tensors as inputs, and a smaller graph for each mode.

    Args:
        network: The dense network.
        ends: Mode name to configuration.
        table: Row versions, from ``row_table``.
        states: Mode name to state, from ``row_table``.
        sample: Inputs to trace with, float32 [any, ...].
        progress: Shows where the work is.
    """
    progress.stage("ONNX graphs", 1 + len(ends))
    progress.step("live")
    dense = _arrays(network.module.state_dict())
    moved = [name for layer in table.layers for name in (layer.weight, layer.bias) if name is not None]
    base = save_tensors({name: np.ascontiguousarray(dense[name]) for name in sorted(dense)})
    live = export_live(network.module, sample, moved, _places(base))
    compact: dict[str, bytes] = {}
    for name, end in ends.items():
        progress.step(name)
        compact[name] = export_compact(live, kept_units(network, end), network.layers)
    constants = {name: tensor for name, tensor in dense.items() if name not in moved}
    session = Session(live, constants, threads=os.cpu_count() or 1)
    return Deployment(table, dict(states), dense, base, live, compact, constants, session)


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Floats]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _moved_layers(network: Network, ends: Mapping[str, EndPoint], grid: Grid) -> tuple[MovedLayer, ...]:
    """Layers that lose units or make up for it in some mode, and those that are sparse or another network's."""
    touched = {name for end in ends.values() for name in (*end.removed, *end.refits, *end.sparse)}
    dense = network.module.state_dict()
    for end in ends.values():
        if end.source is not None:
            touched |= {
                layer.name
                for layer in network.layers
                for key in (layer.weight, layer.bias)
                if key is not None and not torch.equal(end.tensors[key], dense[key])
            }
    shapes = {name: tuple(tensor.shape) for name, tensor in network.module.state_dict().items()}
    return tuple(
        MovedLayer(
            layer.name,
            layer.weight,
            layer.bias,
            shapes[layer.weight],
            layer.reads,
            layer.columns_per_unit,
            tuple(Source(one.group, one.first, one.columns_per_unit) for one in layer.sources if layer.reads is None),
            grid,
        )
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
