"""A network's weights from an ONNX file that some exporter wrote, and the proof that they are the file's.

Layers are found by their place: each convolution and matrix of the file is the layer of the same kind and shape that
reads the same ones. Names only settle what that leaves open. Most exporters fold batch norms; weights then go into the
network as `planner.network.trace` has it, folded likewise. At the end both are asked the same samples, by PyTorch and
by ONNX Runtime: a file whose activations, preprocessing or layout are others is refused, whatever its shapes.

A file may have fewer units in some layers than the dense network, as pruning tools write them. The planner needs to
know which of the dense units they are: those whose weights and biases are nearest, one for each, with the least sum of
squared distances over a layer (`scipy.optimize.linear_sum_assignment`). Pruning and fine-tuning move a row far less
than rows are apart; where the distance is half of the rows' own size or more, this is a guess, and refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn

from device_profiles.errors import GeoshiftError
from planner.endpoint import by_member, present_columns
from planner.network import Layer, Network, trace
from planner.onnx_graph import INPUT, OnnxFile, OnnxFileError, WeightOperation, read_onnx
from runtime.session import Session

SUFFIX: Final = ".onnx"
HEADER_BYTES: Final = 16 << 20
"""What a file may hold beside the network's tensors: the graph, names, small constants."""
TOLERANCE: Final = 1e-3
"""Of the largest output. Two float32 kernels differ by 1e-6 or so of it, folding a batch norm by 1e-5."""
SAMPLES: Final = 4
"""Inputs that are compared: each output is one sum over all weights before it, so one sample would nearly do."""
FAR: Final = 0.5
"""Squared distance of matched rows over their own squared size. Filters of the digits network, half of them removed and
the rest fine-tuned for 20 epochs: 0.02; of a network trained anew: 1.3."""


class OnnxWeightsError(GeoshiftError):
    """An ONNX file is not of this network, or does not say clearly enough how it is."""


@dataclass(frozen=True)
class Loaded:
    """Weights of a file.

    Attributes:
        module: The network with them: as its author wrote it where the file has all of its tensors by name, else with
            its batch norms folded.
        sha256: Digest of the file and its external data, in hexadecimal.
    """

    module: nn.Module
    sha256: str


@dataclass(frozen=True)
class _Call:
    """One use of a layer in the forward pass; `reads` as of an operation in the file."""

    layer: Layer
    reads: frozenset[int]

    def __str__(self) -> str:
        kind = "convolution" if self.layer.role == "convolution" else "linear layer"
        return f"{kind} {self.layer.name} of {self.layer.units} units with {self.layer.columns} weights"


def is_onnx(path: Path) -> bool:
    """Whether a file of weights is an ONNX model, by its name."""
    return path.suffix.lower() == SUFFIX


def load(path: Path, module: nn.Module, sample: Tensor, dense: Network | None = None) -> Loaded:
    """Read a network's weights from an ONNX file.

    Args:
        path: The file; external data lies beside it.
        module: The network as its author wrote it; not changed. Buffers that the file does not name stay as they are.
        sample: Inputs to trace and compare with, [any, ...].
        dense: The dense network, traced, if the file may have fewer units than it.

    Raises:
        OnnxFileError: The file cannot be read.
        OnnxWeightsError: It is of another network, or it cannot be told which of its weights are which.
    """
    own = copy.deepcopy(module).eval()
    limit = sum(one.numel() * one.element_size() for one in own.state_dict().values()) + HEADER_BYTES
    file = read_onnx(path, limit)
    if file.norms and _fill_by_name(file, own):
        filled = own
    elif file.norms:
        raise OnnxWeightsError(
            f"{path}: found the batch norm {file.norms[0]!r} and not all tensors of {type(own).__name__} by name; "
            "expected both or neither: export the network in eval mode, which folds batch norms, or keep the names"
        )
    else:
        network = trace(own, sample)
        filled = copy.deepcopy(network.module)
        filled.load_state_dict(_by_place(file, network, dense))
    _check_function(file, filled, sample)
    return Loaded(filled, file.sha256)


def without_dead(
    network: Network, tensors: Mapping[str, Tensor], sample: Tensor
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Take units whose weights and biases are all zero for removed, as a mask leaves them.

    What reads them is set to zero as well, if that changes no answer; it does where something between makes more of a
    zero, such as a sigmoid.

    Args:
        network: The dense network.
        tensors: Another network's, by state-dict key.
        sample: Inputs to compare answers to, [any, ...].

    Returns:
        The tensors, and the units that are gone, by layer, all members of a group named.
    """
    gone: dict[str, tuple[int, ...]] = {}
    for layer in network.layers:
        if layer.why_fixed is None and layer.group == layer.name:
            dead = torch.stack([_dead(member, tensors) for member in network.members(layer.name)]).all(0)
            if dead.any() and not dead.all():
                gone[layer.name] = tuple(dead.nonzero().flatten().tolist())
    before = _answers(network, tensors, sample)
    for name in [*gone]:
        if not torch.equal(_answers(network, _unread(network, tensors, {name: gone[name]}), sample), before):
            del gone[name]
    return _unread(network, tensors, gone), by_member(network, gone)


def _dead(layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Which units hold nothing, bool [units]."""
    dead = (tensors[layer.weight].flatten(1) == 0).all(1)
    return dead if layer.bias is None else dead & (tensors[layer.bias] == 0)


def _unread(
    network: Network, tensors: Mapping[str, Tensor], gone: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The tensors with columns of removed units zero."""
    found = dict(tensors)
    for layer in network.layers:
        left = present_columns(layer, gone)
        if len(left) < layer.columns:
            kept = torch.zeros(layer.columns, dtype=torch.bool)
            kept[left] = True
            weight = tensors[layer.weight]
            found[layer.weight] = torch.where(kept, weight.flatten(1), torch.zeros(())).reshape(weight.shape)
    return found


def _answers(network: Network, tensors: Mapping[str, Tensor], sample: Tensor) -> Tensor:
    with torch.no_grad():
        answers: Tensor = torch.func.functional_call(network.module, dict(tensors), (sample[:SAMPLES],))
    return answers


def _fill_by_name(file: OnnxFile, own: nn.Module) -> bool:
    """Fill a network whose floating-point tensors the file has, all of them, by name and shape."""
    state = own.state_dict()
    wanted = {name: one for name, one in state.items() if one.is_floating_point()}
    found = {name: file.tensors.get(name) for name in wanted}
    fitting = {name: torch.from_numpy(one.copy()) for name, one in found.items()
               if one is not None and one.shape == wanted[name].shape}  # fmt: skip
    if len(fitting) < len(wanted):
        return False
    own.load_state_dict({**state, **fitting})
    return True


def _by_place(file: OnnxFile, network: Network, dense: Network | None) -> dict[str, Tensor]:
    """State dict of the traced network, layers from the operations in their places."""
    state = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    weights = {key for layer in network.layers for key in (layer.weight, layer.bias)}
    for name, tensor in state.items():
        same = file.tensors.get(name)
        if name not in weights and same is not None and same.shape == tensor.shape:
            state[name] = torch.from_numpy(same.copy()).to(tensor.dtype)
    kept: dict[str, list[int]] = {}
    for call, operation in _matched(file, network, smaller=dense is not None):
        layer = call.layer
        columns = _columns(file, network, layer, operation, kept)
        rows = _rows(file, layer, operation, columns, kept, dense)
        kept.setdefault(layer.group, rows)
        weight = torch.zeros(layer.units, layer.columns)
        weight[torch.tensor(rows)[:, None], torch.tensor(columns)] = torch.from_numpy(operation.weight.copy()).flatten(1)
        state[layer.weight] = weight.reshape(state[layer.weight].shape)
        bias = torch.zeros(layer.units)
        if operation.bias is not None:
            bias[rows] = torch.from_numpy(operation.bias.copy())
        if layer.bias is not None:
            state[layer.bias] = bias
        elif bias.any():
            raise OnnxWeightsError(
                f"{file.path}: {operation}: found biases, expected none, as {layer.name} has none: give the "
                "network a bias there, or a file of the same network"
            )
    return state


def _matched(file: OnnxFile, network: Network, *, smaller: bool) -> Iterator[tuple[_Call, WeightOperation]]:
    """Each use of a layer with the file's operation in its place, in forward order."""
    calls = _calls(network)
    if len(calls) != len(file.operations):
        raise OnnxWeightsError(
            f"{file.path}: found {len(file.operations)} convolutions and matrices "
            f"({', '.join(map(str, file.operations)) or 'none'}), expected {len(calls)} "
            f"({', '.join(call.layer.name for call in calls)}): give a file of the same network"
        )
    places: dict[int, int] = {INPUT: INPUT}
    """Place of a call's operation in the file."""
    for number, call in enumerate(calls):
        reads = frozenset(places[one] for one in call.reads)
        free = [place for place in range(len(calls)) if place not in places.values()]
        there = [one for one in free if file.operations[one].reads == reads and _fits(call.layer, file.operations[one])]
        exact = [one for one in there if _is_exact(call.layer, file.operations[one])]
        fitting = exact or (there if smaller else [])
        if len(fitting) > 1:
            fitting = [one for one in fitting if file.operations[one].name == call.layer.weight] or fitting
        if not fitting:
            left = ", ".join(str(file.operations[one]) for one in free)
            raise OnnxWeightsError(
                f"{file.path}: found no weights for {call} in its place, expected one of those left ({left}) to have "
                f"its shape{', or fewer units of it,' if smaller else ''} and to read the same layers: give a file of "
                "the same network"
            )
        if len(fitting) > 1:
            names = " and ".join(repr(file.operations[one].name) for one in fitting)
            raise OnnxWeightsError(
                f"{file.path}: found {names} in the place of {call}, alike in shape and in what they read; expected "
                f"names to tell them apart, one of them {call.layer.weight!r}: export with torch.onnx.export(..., "
                "dynamo=True), which keeps names, or give a safetensors file"
            )
        places[number] = fitting[0]
        yield call, file.operations[fitting[0]]


def _calls(network: Network) -> list[_Call]:
    """Uses of layers in forward order, and whose values each reads."""
    layers = {layer.name: layer for layer in network.layers}
    found: list[_Call] = []
    reads: dict[fx.Node, frozenset[int]] = {}
    for node in network.graph.graph.nodes:
        before = frozenset().union(*(reads[one] for one in node.all_input_nodes))
        if node.op == "placeholder":
            before = frozenset({INPUT})
        elif node.op == "call_module" and node.target in layers:
            found.append(_Call(layers[node.target], before))
            before = frozenset({len(found) - 1})
        reads[node] = before
    return found


def _fits(layer: Layer, operation: WeightOperation) -> bool:
    """Whether an operation may be a layer, perhaps with fewer units."""
    units, channels, *taps = operation.weight.shape
    within = units <= layer.units and channels <= layer.channels
    return operation.kind == layer.role and within and int(np.prod(taps)) == layer.columns // layer.channels


def _is_exact(layer: Layer, operation: WeightOperation) -> bool:
    return operation.weight.shape[:2] == (layer.units, layer.channels)


def _columns(
    file: OnnxFile, network: Network, layer: Layer, operation: WeightOperation, kept: Mapping[str, list[int]]
) -> list[int]:
    """The layer's columns that an operation has, in the operation's order."""
    found = [*range(layer.columns)]
    if any(source.group in kept and len(kept[source.group]) < source.units for source in layer.sources):
        found = [column for source in layer.sources for unit in kept[source.group] for column in source.columns_of(unit)]
    if len(found) != operation.weight[0].size:
        raise OnnxWeightsError(
            f"{file.path}: {operation}: found {operation.weight[0].size} weights a unit for {layer.name}, expected "
            f"{len(found)}, going by the units of the layers it reads ({', '.join(kept) or 'none'}): give a file of "
            "the same network"
        )
    return found


def _rows(
    file: OnnxFile,
    layer: Layer,
    operation: WeightOperation,
    columns: list[int],
    kept: Mapping[str, list[int]],
    dense: Network | None,
) -> list[int]:
    """The dense units that an operation's are, in the operation's order."""
    units = len(operation.weight)
    known = kept.get(layer.group)
    if known is not None and len(known) != units:
        raise OnnxWeightsError(
            f"{file.path}: {operation}: found {units} units for {layer.name}, expected {len(known)} as in "
            f"{layer.group}, whose units are tied to its own: give a file of the same network"
        )
    if known is not None or units == layer.units:
        return known or [*range(units)]
    if layer.why_fixed is not None:
        raise OnnxWeightsError(
            f"{file.path}: {operation}: found {units} units for {layer.name}, expected {layer.units}, as none can be "
            f"removed: {layer.why_fixed}"
        )
    assert dense is not None
    state = dense.module.state_dict()
    own = operation.weight.reshape(units, -1).astype(float)
    theirs = state[layer.weight].flatten(1)[:, columns].double().numpy()
    if layer.bias is not None and operation.bias is not None:
        own = np.concatenate([own, operation.bias[:, None]], 1)
        theirs = np.concatenate([theirs, state[layer.bias].double().numpy()[:, None]], 1)
    size = (own**2).sum()
    distances = (own**2).sum(1)[:, None] - 2 * own @ theirs.T + (theirs**2).sum(1)[None]
    _, rows = linear_sum_assignment(distances)
    apart = float(distances[np.arange(units), rows].sum() / size) if size else np.inf
    if apart >= FAR:
        raise OnnxWeightsError(
            f"{file.path}: {operation}: found {units} units, the nearest {units} of {layer.units} in {layer.name} "
            f"{apart:.2g} of their size away, expected less than {FAR}, to know which they are: give a network that "
            "was pruned from the dense one, or one of the same shapes whose removed units are zero"
        )
    return [int(row) for row in rows]


def _check_function(file: OnnxFile, filled: nn.Module, sample: Tensor) -> None:
    """Ask the file's own graph and the network with its weights the same samples."""
    inputs = sample[:SAMPLES].float()
    try:
        session = Session(file.content, file.external, origin=str(file.path))
        weights = session.bind({})
        size = (session.input_shape or (None,))[0]
        batches = [inputs] if size is None else [one.expand(size, *one.shape[1:]) for one in inputs.split(1)]
        answers = [session.run(one.contiguous().numpy(), weights) for one in batches]
    except GeoshiftError as error:
        raise OnnxFileError(
            f"{file.path}: ONNX Runtime cannot ask it samples of shape {list(inputs.shape)}: {error}; expected a "
            "model that takes what the network takes: export it for the same inputs"
        ) from error
    theirs = answers[0] if size is None else np.concatenate([one[:1] for one in answers])
    with torch.no_grad():
        own = filled.eval()(inputs).numpy()
    if own.shape != theirs.shape:
        raise OnnxWeightsError(
            f"{file.path}: found answers of shape {list(theirs.shape)}, expected {list(own.shape)}, as the network "
            "gives: give a file of the same network"
        )
    apart, largest = float(np.abs(own - theirs).max()), float(np.abs(own).max())
    if not apart <= TOLERANCE * max(largest, 1e-6):
        raise OnnxWeightsError(
            f"{file.path}: found answers up to {apart:.3g} away from those of {type(filled).__name__} with the file's "
            f"weights, expected at most {TOLERANCE * largest:.3g}: the file computes something else, such as other "
            "activations, a softmax at its end or preprocessing: export the same network"
        )
