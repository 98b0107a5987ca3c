"""The part of a network behind one layer, on fixed inputs: what a bound or a search has to follow.

While one layer is written, everything before it stands still. So its inputs are computed once, and only the nodes that
come after it in the graph are followed, each by what it does to a box: a layer, a ReLU, a maximum over windows, another
operation that is monotone in every entry, or a linear one without weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.grad import conv2d_input

from device_profiles.errors import GeoshiftError
from planner.network import Network
from planner.operations import SHAPE_QUERIES, Flow, Part, is_tensor, shape_of, through, word_of

Kind = Literal["layer", "relu", "maximum", "monotone", "reshape", "average", "sum", "difference", "join", "other"]
Weights = Mapping[str, Tensor]

_MODULES: tuple[tuple[tuple[type[nn.Module], ...], Kind], ...] = (
    ((nn.Conv2d, nn.Linear), "layer"),
    ((nn.ReLU,), "relu"),
    ((nn.MaxPool2d,), "maximum"),
    ((nn.ReLU6, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardsigmoid), "monotone"),
    ((nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d), "reshape"),
    ((nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d), "average"),
)
_NAMES: Mapping[str, Kind] = {
    "relu": "relu", "max_pool2d": "maximum",
    "sigmoid": "monotone", "tanh": "monotone", "hardtanh": "monotone", "relu6": "monotone", "softplus": "monotone",
    "flatten": "reshape", "view": "reshape", "reshape": "reshape", "squeeze": "reshape", "unsqueeze": "reshape",
    "contiguous": "reshape", "clone": "reshape", "detach": "reshape",
    "avg_pool2d": "average", "adaptive_avg_pool2d": "average", "mean": "average",
    "add": "sum", "iadd": "sum", "sub": "difference", "isub": "difference",
    "cat": "join", "concat": "join", "concatenate": "join",
}  # fmt: skip


class CannotBound(GeoshiftError):
    """No bound is known for what a network does behind a layer; the message says which operation."""


@dataclass(frozen=True)
class Step:
    """One node behind the layer.

    Attributes:
        node: The node.
        kind: What it does to a box.
        varies: Its operands that depend on the layer, in order.
        by_unit: Whether each unit of the layer still has entries of its own here.
    """

    node: fx.Node
    kind: Kind
    varies: tuple[fx.Node, ...]
    by_unit: bool


class Tail:
    """A network behind one layer.

    Args:
        network: The network.
        layer: Name of the layer.
        weights: All tensors by name, float64.
        inputs: float64 [N, ...].
        bounded: Whether boxes are to be followed. Without, any operation may stand behind the layer; a search needs no
            more than its value.

    Raises:
        CannotBound: The layer is called more than once, a convolution is not padded with zeros alike on both sides, or
            an operation behind the layer is not known here.
    """

    def __init__(self, network: Network, layer: str, weights: Weights, inputs: Tensor, *, bounded: bool = True) -> None:
        self.network = network
        self.layer = layer
        self.weights = weights
        self.modules = dict(network.graph.named_modules())
        self.values: dict[fx.Node, Any] = {}
        """Values of all nodes before the layer, and those of all others with the weights given."""
        self.steps: list[Step] = []
        nodes = list(network.graph.graph.nodes)
        calls = [node for node in nodes if node.op == "call_module" and node.target == layer]
        if len(calls) != 1:
            raise CannotBound(f"layer {layer}: found {len(calls)} calls, expected one; no bound is known for it")
        self.node: fx.Node = calls[0]
        for node in nodes:
            inner = self.modules[str(node.target)] if node.op == "call_module" else None
            if isinstance(inner, nn.Conv2d) and not _pads_with_zeros(inner):
                raise CannotBound(f"layer {node.target}: nothing is known for its padding, {inner.padding_mode}")
        self._run(nodes, inputs)
        self._follow(nodes, bounded)

    @property
    def reads(self) -> Tensor:
        """What the layer reads, [N, ...]."""
        value: Tensor = self.values[self.operand(self.node)]
        return value

    @cached_property
    def order(self) -> list[fx.Node]:
        """All nodes but the output, in forward order."""
        return [node for node in self.network.graph.graph.nodes if node.op != "output"]

    @cached_property
    def output(self) -> fx.Node:
        """The node whose value the network returns."""
        last = next(node for node in self.network.graph.graph.nodes if node.op == "output").args[0]
        if not isinstance(last, fx.Node) or last not in {self.node, *(step.node for step in self.steps)}:
            raise CannotBound(f"layer {self.layer}: the network's answer does not depend on it alone as one tensor")
        return last

    def operand(self, node: fx.Node) -> fx.Node:
        """The first tensor operand of a node."""
        return node.all_input_nodes[0]

    def layer_weights(self, node: fx.Node) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a layer's node."""
        return self.weights[f"{node.target}.weight"], self.weights.get(f"{node.target}.bias")

    def linear(self, node: fx.Node, weight: Tensor, bias: Tensor | None, value: Tensor) -> Tensor:
        """What a layer's node computes with other weights; a part of its input channels goes with a part of them."""
        inner = self.modules[str(node.target)]
        if isinstance(inner, nn.Linear):
            return F.linear(value, weight, bias)
        assert isinstance(inner, nn.Conv2d)
        return F.conv2d(value, weight, bias, inner.stride, inner.padding, inner.dilation, inner.groups)

    def transposed(self, node: fx.Node, slope: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The transpose of a layer's weight, applied to slopes of its output: slopes of its input.

        Args:
            node: The layer's node.
            slope: [B, ...] in the shape of its output.
            shape: Shape of its input, without the batch.
        """
        inner, weight = self.modules[str(node.target)], self.layer_weights(node)[0]
        if isinstance(inner, nn.Linear):
            return slope @ weight
        assert isinstance(inner, nn.Conv2d)
        return conv2d_input(
            [len(slope), *shape], weight, slope, inner.stride, self.padding(inner), inner.dilation, inner.groups
        )

    def padding(self, inner: nn.Conv2d) -> list[int]:
        """Zeros above and beside the images that a convolution reads."""
        if not isinstance(inner.padding, str):
            return list(inner.padding)
        spans = [dilation * (size - 1) for dilation, size in zip(inner.dilation, inner.kernel_size, strict=True)]
        return [0, 0] if inner.padding == "valid" else [span // 2 for span in spans]

    def apply(self, node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
        """What a node computes when some of its operands have other values."""
        if node.op == "call_module" and isinstance(self.modules[str(node.target)], nn.Conv2d | nn.Linear):
            operand = self.operand(node)
            return self.linear(node, *self.layer_weights(node), values.get(operand, self.values[operand]))
        args, kwargs = fx.node.map_arg(
            (node.args, node.kwargs), lambda operand: values.get(operand, self.values[operand])
        )
        if isinstance(args[0], Tensor) and self._in_place(node):
            args = (args[0].clone(), *args[1:])
        if node.op == "call_module":
            inner = self.modules[str(node.target)]
            own = {name: self.weights[f"{node.target}.{name}"] for name in inner.state_dict()}
            found: Tensor = functional_call(inner, own, args, kwargs) if own else inner(*args, **kwargs)
            return found
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def run(self, pre_activations: Tensor) -> Tensor:
        """The network's outputs for other values of the layer, [N, outputs]; differentiable.

        Args:
            pre_activations: In the shape of the layer's output, same samples.
        """
        values = {self.node: pre_activations}
        for step in self.steps:
            values[step.node] = self.apply(step.node, values)
        return values[self.output]

    def _in_place(self, node: fx.Node) -> bool:
        """Whether a node may write over its operand, whose value is needed once more here."""
        inner = self.modules[str(node.target)] if node.op == "call_module" else None
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return bool(
            getattr(inner, "inplace", False) or node.kwargs.get("inplace") or name.endswith("_") or name[:1] == "i"
        )

    def _run(self, nodes: list[fx.Node], inputs: Tensor) -> None:
        with torch.no_grad():
            for node in nodes:
                if node.op == "placeholder":
                    self.values[node] = inputs
                elif node.op == "get_attr":
                    self.values[node] = self.weights[str(node.target)]
                elif node.op != "output":
                    self.values[node] = self.apply(node, {})

    def _follow(self, nodes: list[fx.Node], bounded: bool) -> None:
        units = self.network.layer(self.layer).units
        axis = 1 if len(shape_of(self.node)) == 4 else len(shape_of(self.node)) - 1
        flows: dict[fx.Node, Flow | None] = {self.node: Flow(parts=(Part(self.layer, units),), axis=axis)}
        if axis != 1:
            raise CannotBound(f"layer {self.layer}: found outputs of shape {list(shape_of(self.node))}, expected its "
                              "units along dimension 1")  # fmt: skip
        for node in nodes:
            varies = tuple(operand for operand in node.all_input_nodes if operand in flows)
            if not varies or node.op == "output":
                continue
            if not is_tensor(node):
                if word_of(node) in SHAPE_QUERIES:
                    continue
                if not bounded:
                    flows[node] = None
                    self.steps.append(Step(node, "other", varies, by_unit=False))
                    continue
                raise CannotBound(f"operation {word_of(node)!r} behind layer {self.layer}: makes no tensor")
            kind = self.kind(node) if bounded else self._kind(node)
            if any(shape_of(one)[:1] != shape_of(node)[:1] for one in varies if is_tensor(one)):
                raise CannotBound(f"operation {word_of(node)!r} behind layer {self.layer}: mixes samples")
            flow = None
            if kind not in ("layer", "sum", "difference", "join", "other") and (before := flows[varies[0]]) is not None:
                inner = self.modules[str(node.target)] if node.op == "call_module" else None
                flow = through(node, word_of(node), inner, before, shape_of(varies[0]))
            flows[node] = flow
            self.steps.append(Step(node, kind, varies, flow is not None))

    def kind(self, node: fx.Node) -> Kind:
        """What a node does to a box.

        Raises:
            CannotBound: No bound is known for it.
        """
        kind = self._kind(node)
        if kind == "other":
            raise CannotBound(f"operation {word_of(node)!r} next to layer {self.layer}: no bound is known for it")
        return kind

    def _kind(self, node: fx.Node) -> Kind:
        inner = self.modules[str(node.target)] if node.op == "call_module" else None
        kind = next((kind for types, kind in _MODULES if isinstance(inner, types)), None)
        if inner is None:
            kind = _NAMES.get(word_of(node))
        shapes = [shape_of(operand) for operand in node.all_input_nodes if is_tensor(operand)]
        if kind in ("sum", "difference") and (node.kwargs or any(one[1:] != shape_of(node)[1:] for one in shapes)):
            kind = None  # an operand is multiplied first, or spread over several entries of the other
        if any(one[:1] != shape_of(node)[:1] for one in shapes):
            kind = None  # samples are mixed
        if isinstance(inner, nn.Linear) and len(shape_of(node)) != 2:
            kind = None
        if kind is None or (kind not in ("sum", "difference", "join") and len(node.all_input_nodes) > 1
                            and any(is_tensor(one) for one in node.all_input_nodes[1:])):  # fmt: skip
            return "other"
        return kind


def _pads_with_zeros(inner: nn.Conv2d) -> bool:
    lopsided = inner.padding == "same" and any(size % 2 == 0 for size in inner.kernel_size)
    return inner.padding_mode == "zeros" and not lopsided
