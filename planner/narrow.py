"""A configuration as a physically smaller PyTorch module, and back: for work on it at the cost it will have.

Rows of units that are gone and the columns that read them are cut out, as in the compact ONNX graph.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from planner.endpoint import EndPoint
from planner.network import Layer, Network


def narrow(network: Network, end: EndPoint) -> nn.Module:
    """The configuration without the units it lacks, equal in function.

    Args:
        network: The dense network.
        end: The configuration.

    Returns:
        A new module in eval mode with the network's own operations; its weights may be trained.
    """
    # Tensors are replaced below: sharing them through the memo saves a copy of the dense weights.
    weights = [*network.module.parameters(), *network.module.buffers()]
    module = copy.deepcopy(network.module, {id(tensor): tensor for tensor in weights})
    for name, tensor in end.tensors.items():
        _set(module, name, tensor.detach().clone())
    for layer in network.layers:
        rows, columns = _kept(end, layer)
        weight = end.tensors[layer.weight]
        taps = layer.columns // layer.channels
        channels = len(columns) // taps
        cut = weight.flatten(1)[rows][:, columns].reshape(len(rows), channels, *weight.shape[2:])
        _set(module, layer.weight, cut)
        if layer.bias is not None:
            _set(module, layer.bias, end.tensors[layer.bias][rows])
        _resize(module.get_submodule(layer.name), channels, len(rows))
    return module.eval()


def widen(network: Network, end: EndPoint, module: nn.Module) -> dict[str, Tensor]:
    """The weights of a narrow module in the places they have in the dense network; zero where units are gone.

    Args:
        network: The dense network.
        end: The configuration that the module was made from.
        module: What `narrow` returned, its weights changed or not.

    Returns:
        State dict in the dense shapes, new tensors throughout.
    """
    own = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    wide = {name: tensor.clone() for name, tensor in own.items()}
    for layer in network.layers:
        rows, columns = _kept(end, layer)
        shape = end.tensors[layer.weight].shape
        weight = own[layer.weight].new_zeros(layer.units, layer.columns)
        weight[rows[:, None], columns] = own[layer.weight].flatten(1)
        wide[layer.weight] = weight.reshape(shape)
        if layer.bias is not None:
            bias = own[layer.bias].new_zeros(layer.units)
            bias[rows] = own[layer.bias]
            wide[layer.bias] = bias
    return wide


def _kept(end: EndPoint, layer: Layer) -> tuple[Tensor, Tensor]:
    return torch.tensor(end.kept(layer)), torch.tensor(end.kept_columns(layer))


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, own = name.rpartition(".")
    owner = module.get_submodule(path)
    if own in owner._parameters:
        owner._parameters[own] = nn.Parameter(tensor)
    else:
        owner._buffers[own] = tensor


def _resize(layer: nn.Module, channels: int, units: int) -> None:
    """Sizes that a module keeps beside its weights."""
    if isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = channels, units
    elif isinstance(layer, nn.Conv2d):
        # Only depthwise convolutions of those with groups lose units, and they have one group a unit.
        depthwise = 1 < layer.groups == layer.out_channels
        layer.groups = units if depthwise else layer.groups
        layer.in_channels, layer.out_channels = channels * layer.groups, units
