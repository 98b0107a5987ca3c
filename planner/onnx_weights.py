"""A network's weights from an ONNX file that some exporter wrote, and the proof that they are the file's.

Layers are found by their place in the file (`planner.onnx_match`). Most exporters fold batch norms; weights then go
into the network as `planner.network.trace` has it, folded likewise. At the end both are asked the same samples, by
PyTorch and by ONNX Runtime: a file whose activations, preprocessing or layout are others is refused, whatever its
shapes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from device_profiles.errors import GeoshiftError
from planner.endpoint import by_member, present_columns
from planner.network import Layer, Network, trace
from planner.onnx_data import OnnxFileError
from planner.onnx_graph import OnnxFile, read_onnx
from planner.onnx_match import OnnxWeightsError, by_place
from runtime.walking.session import Session

SUFFIX: Final = ".onnx"
HEADER_BYTES: Final = 16 << 20
"""What a file may hold beside the network's tensors: the graph, names, small constants."""
TOLERANCE: Final = 1e-3
"""Of the largest output. Two float32 kernels differ by 1e-6 or so of it, folding a batch norm by 1e-5."""
SAMPLES: Final = 4
"""Inputs that are compared: each output is one sum over all weights before it, so one sample would nearly do."""


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
        filled.load_state_dict(by_place(file, network, dense))
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


def _unread(network: Network, tensors: Mapping[str, Tensor], gone: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
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
