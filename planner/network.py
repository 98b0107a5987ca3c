"""Structure of a network: its layers, whose units they read, and which units are tied.

A unit (an output channel or feature) can be removed when only layers read it, through operations that keep units
apart: its weights and the readers' columns for it then become zero, and nothing else sees the difference. Where values
are added up, as in a residual network, unit u of one addend is unit u of the other: their layers form a *group*, which
loses a unit in all of its members or in none. A group is called after its first member; most have no other. `trace`
finds all this; a layer for which it does not hold is *fixed* and carries the reason in words.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from device_profiles.errors import GeoshiftError
from planner.fold import fold
from planner.follow import Links, Source, follow


class TraceError(GeoshiftError):
    """The network's structure cannot be found; the message says what stands in the way and what to do."""


class UnknownLayer(GeoshiftError):
    """A layer name that the network does not have."""


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer.

    Attributes:
        name: Module path, such as "conv1" or "features.3".
        role: "convolution", or "classifier" for any linear layer.
        weight: Key of the weight in the state dict.
        bias: Key of the bias in the state dict, None without one.
        units: Output channels or features.
        columns: Weights per unit.
        channels: Input channels that each unit reads; for a linear layer, its columns.
        macs: Dense multiply-accumulates per input sample.
        positions: Output positions per sample (H·W for a convolution, 1 for a linear layer on vectors).
        sources: Whose units this one reads, in the order of its columns; none for the network's input. More than one
            behind a concatenation.
        readers: The layers that read this one's units, or those of another member of its group, in forward order.
        group: The first layer in forward order that has the same units; the layer itself if no other has.
        why_fixed: None if units can be removed, else the reason in words; the same for all members of a group, but
            for the words.
    """

    name: str
    role: Literal["convolution", "classifier"]
    weight: str
    bias: str | None
    units: int
    columns: int
    channels: int
    macs: int
    positions: int
    sources: tuple[Source, ...]
    readers: tuple[str, ...]
    group: str
    why_fixed: str | None

    @property
    def reads(self) -> str | None:
        """The group whose units alone this layer reads; None for the network input or behind a concatenation."""
        alone = len(self.sources) == 1 and self.sources[0].columns == self.columns
        return self.sources[0].group if alone else None

    @property
    def columns_per_unit(self) -> int:
        """Contiguous columns of this layer that belong to one unit of `reads`; 1 where that is None."""
        return self.sources[0].columns_per_unit if self.reads is not None else 1

    @property
    def reader(self) -> str | None:
        """The one layer that reads this one's units, if there is exactly one."""
        return self.readers[0] if len(self.readers) == 1 else None

    def columns_of(self, group: str, units: Iterable[int]) -> list[int]:
        """This layer's columns that belong to units of a group, unit by unit."""
        mine = [source for source in self.sources if source.group == group]
        return [column for unit in units for source in mine for column in source.columns_of(unit)]


@dataclass(frozen=True)
class Network:
    """A traced network.

    Attributes:
        module: A private copy in eval mode, without batch norms; nobody changes it. Other weights go in through
            `functional_call`.
        graph: The same modules as an fx graph, for running a part of the network.
        layers: Every convolution and linear layer, in forward order.
        input_shape: Shape of one input, without the batch.
    """

    module: nn.Module
    graph: fx.GraphModule
    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]

    def layer(self, name: str) -> Layer:
        """The layer called `name`.

        Raises:
            UnknownLayer: there is none; the message lists those there are.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers)
        raise UnknownLayer(f"layer {name!r} is not in the network; expected one of: {known}")

    def members(self, name: str) -> tuple[Layer, ...]:
        """The layers that lose their units together with the one called `name`, itself among them, in forward order.

        Raises:
            UnknownLayer: there is no layer of that name.
        """
        group = self.layer(name).group
        return tuple(layer for layer in self.layers if layer.group == group)


def removable(network: Network) -> tuple[Layer, ...]:
    """The layers whose units can be removed, in forward order; of each group the first, which stands for it."""
    return tuple(layer for layer in network.layers if layer.why_fixed is None and layer.group == layer.name)


def trace(module: nn.Module, sample: Tensor) -> Network:
    """Find a network's layers and who reads whom.

    Args:
        module: Any module with one tensor input whose forward torch.fx can trace. It is copied, not changed; batch
            norms are folded into the layers of the copy.
        sample: At least one input with its batch dimension, shape [any, ...].

    Returns:
        The network. Layers whose units cannot be removed say why.

    Raises:
        TraceError: forward cannot be traced or run, or calls no convolution or linear layer.
        FoldError: A batch norm cannot be written as a part of a layer.
    """
    kind = type(module).__name__
    if sample.ndim < 2 or not len(sample):
        raise TraceError(f"sample has shape {list(sample.shape)}; expected a batch of inputs, such as [1, 1, 28, 28]")
    inner = copy.deepcopy(module).eval()
    # Two samples: a batch of one could not be told from any other dimension of size one.
    pair = sample[:1].expand(2, *sample.shape[1:]).contiguous()
    graph = _graph(inner, pair, kind)
    folded = fold(inner, graph)
    if folded is not inner:
        inner, graph = folded, _graph(folded, pair, kind)
    layers = tuple(_layer(inner, name, links) for name, links in follow(inner, graph).items())
    if not layers:
        raise TraceError(f"{kind} calls no Conv2d or Linear module; expected at least one as a submodule")
    return Network(inner, graph, layers, tuple(sample.shape[1:]))


def _graph(module: nn.Module, pair: Tensor, kind: str) -> fx.GraphModule:
    """The module as a graph with shapes."""
    try:
        graph = fx.symbolic_trace(module)
    except Exception as error:  # forward is the user's code and may raise anything
        raise TraceError(
            f"{kind}.forward cannot be traced: {error}. Expected tensor operations without branches or loops that "
            "depend on a tensor's values or shape: move them out of forward, or decide them in the constructor"
        ) from error
    inputs = [node.name for node in graph.graph.nodes if node.op == "placeholder" and not node.args]
    if len(inputs) != 1:
        raise TraceError(
            f"{kind}.forward takes {len(inputs)} inputs ({', '.join(inputs)}); expected one tensor: wrap the "
            "network in a module whose forward takes one"
        )
    try:
        with torch.no_grad():
            ShapeProp(graph).propagate(pair)
    except Exception as error:  # as above
        raise TraceError(
            f"{kind}.forward fails on a batch of shape {list(pair.shape)}: {error}. Expected a network that takes "
            "batches of any size: check the sample's shape, and reshapes that fix the batch size"
        ) from error
    return graph


def _layer(module: nn.Module, name: str, links: Links) -> Layer:
    inner = module.get_submodule(name)
    if not isinstance(inner, nn.Conv2d | nn.Linear):
        raise TypeError(f"{name} is a {type(inner).__name__}: follow() returns layers only")
    if "weight" not in dict(inner.named_parameters(recurse=False)):
        raise TraceError(
            f"{name}.weight is computed from other parameters (weight or spectral norm); expected a stored weight: "
            "call torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.remove_weight_norm first"
        )
    units = inner.weight.shape[0]
    return Layer(
        name=name,
        role="convolution" if isinstance(inner, nn.Conv2d) else "classifier",
        weight=f"{name}.weight",
        bias=None if inner.bias is None else f"{name}.bias",
        units=units,
        columns=inner.weight.numel() // units,
        channels=inner.weight.shape[1],
        macs=inner.weight.numel() * links.positions,
        positions=links.positions,
        sources=links.sources,
        readers=links.readers,
        group=links.group,
        why_fixed=links.why_fixed,
    )
