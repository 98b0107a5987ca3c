"""Follows every layer's units through a traced graph, to the layers that read them.

An abstract interpretation: each value in the graph is described by the layer whose units it is made of, and where in
the value each unit lies. Operations that keep units apart pass the description on; all others end it, and every
layer whose units came this far is fixed, with the operation as its reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata

# Operations that treat every unit alone. Classes and names, because fx records modules, functions and methods.
_ELEMENTWISE_MODULES = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.ReLU, nn.ReLU6,
    nn.LeakyReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.Tanh,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.Threshold, nn.Tanhshrink,
    nn.Softshrink, nn.Hardshrink,
)  # fmt: skip
_DROPOUT_NAMES = {"dropout", "dropout2d", "alpha_dropout", "feature_alpha_dropout"}
_ELEMENTWISE_NAMES = _DROPOUT_NAMES | {
    "relu", "relu6", "leaky_relu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "logsigmoid",
    "tanh", "hardtanh", "hardswish", "hardsigmoid", "softplus", "softsign", "threshold", "tanhshrink", "softshrink",
    "hardshrink", "clamp", "clip", "abs", "neg", "square", "sqrt", "exp", "pow", "contiguous", "clone", "detach",
    "add", "sub", "mul", "div", "truediv", "iadd", "isub", "imul", "itruediv",
}  # fmt: skip
_POOLING_MODULES = (
    nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d,
)  # fmt: skip
_POOLING_NAMES = {"max_pool2d", "avg_pool2d", "lp_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
_RESHAPE_NAMES = {"flatten", "view", "view_as", "reshape", "squeeze", "unsqueeze"}
_SHAPE_QUERIES = {"size", "dim", "ndimension", "numel", "getattr"}
_SUMS = {"add", "iadd", "sub", "isub"}
_JOINS = {"cat", "concat", "concatenate", "stack", "hstack"}
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Links:
    """How one layer is connected.

    Attributes:
        positions: Output positions per sample, over all calls.
        reads: The layer whose units it reads; None for the network input or where it is not a single layer.
        columns_per_unit: Its contiguous columns that belong to one unit of `reads`.
        reader: The one layer that reads its units, if there is exactly one and it is no output layer.
        why_fixed: None if its units can be removed, else the reason in words.
    """

    positions: int
    reads: str | None
    columns_per_unit: int
    reader: str | None
    why_fixed: str | None


def follow(module: nn.Module, graph: fx.GraphModule) -> dict[str, Links]:
    """Connect the convolution and linear layers of a traced network.

    Args:
        module: The network.
        graph: Its fx graph, with shapes propagated for a batch of at least two samples.

    Returns:
        Links of every layer that is called, keyed by module name, in forward order.
    """
    return _Follower(module, graph).links()


@dataclass(frozen=True)
class _Flow:
    """What a value is made of: one layer's units along one axis, or something not followed."""

    origins: frozenset[str] = frozenset()  # layers whose units reach the value through no further layer
    source: str | None = None  # the layer whose units lie along `axis`, in order
    per_unit: int = 1  # contiguous entries along `axis` that belong to one unit
    axis: int = 1


class _Follower:
    """One forward visit of the graph."""

    def __init__(self, module: nn.Module, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.modules = dict(module.named_modules())
        self.shared = dict(_shared_weights(module))
        self.flows: dict[fx.Node, _Flow] = {}
        self.calls: defaultdict[str, list[fx.Node]] = defaultdict(list)
        self.reads: dict[str, tuple[str, int]] = {}  # layer -> (source, columns per unit)
        self.readers: defaultdict[str, set[str]] = defaultdict(set)
        self.reasons: defaultdict[str, list[str]] = defaultdict(list)
        self.outputs: set[str] = set()

    def links(self) -> dict[str, Links]:
        for node in self.graph.graph.nodes:
            operands = [n for n in node.all_input_nodes if _is_tensor(n) or self.flows.get(n, _Flow()).origins]
            flows = [self.flows.get(n, _Flow()) for n in operands]
            if node.op == "output":
                self.outputs.update(name for flow in flows for name in flow.origins)
            elif node.op == "call_module" and isinstance(self.modules[node.target], nn.Conv2d | nn.Linear):
                self.flows[node] = self._layer(node, operands[0], flows[0])
            elif flows:
                self.flows[node] = self._operation(node, operands, flows)
        return {name: self._link(name) for name in self.calls}

    def _layer(self, node: fx.Node, operand: fx.Node, flow: _Flow) -> _Flow:
        """A layer reads a value: connect it to the source, and start a new flow."""
        name, inner = str(node.target), self.modules[str(node.target)]
        self.calls[name].append(node)
        read_axis = 1 if isinstance(inner, nn.Conv2d) else len(_shape(operand)) - 1
        if flow.source is None or flow.axis != read_axis:
            self._fix(flow, f"{name!r} reads its units together: they do not lie along the dimension it reads")
        else:
            self.reads[name] = (flow.source, flow.per_unit * _taps(inner))
            self.readers[flow.source].add(name)
        return _Flow(frozenset([name]), name, 1, 1 if isinstance(inner, nn.Conv2d) else len(_shape(node)) - 1)

    def _operation(self, node: fx.Node, operands: list[fx.Node], flows: list[_Flow]) -> _Flow:
        """The flow behind an operation that is no layer; fixes the layers whose units it does not keep apart."""
        ended = _Flow(frozenset(name for flow in flows for name in flow.origins))
        inner = self.modules[str(node.target)] if node.op == "call_module" else None
        word = _word(node)
        if not _is_tensor(node):
            if word not in _SHAPE_QUERIES:  # asking for a shape does not read a unit
                self._fix(ended, f"operation {word!r} makes of its units something other than one tensor")
                return ended
            return _Flow()
        if len(flows) > 1:
            alike = all(f == flows[0] for f in flows) and all(_shape(n) == _shape(node) for n in operands)
            if alike and word in _ELEMENTWISE_NAMES:
                return flows[0]  # x * sigmoid(x): every operand holds the same unit at the same place
            verb = "added to" if word in _SUMS else "concatenated with" if word in _JOINS else "combined with"
            note = " (a residual connection)" if word in _SUMS else ""
            self._fix(ended, f"its units are {verb} another branch at {node.name!r}{note}")
            return ended
        if isinstance(inner, _BATCH_NORM):
            # Harmless in eval mode, but the removed unit's scale and shift would stay in the compact graph.
            self._fix(ended, f"batch normalisation {word!r} stands behind it: fold it into the layer first "
                             "(torch.nn.utils.fusion.fuse_conv_bn_eval)")  # fmt: skip
            return flows[0]
        followed = _through(node, word, inner, flows[0], _shape(operands[0]))
        if followed is None:
            what = f"operation {word!r}" if inner is None else f"module {word!r} ({type(inner).__name__})"
            self._fix(ended, f"its units go through {what}, which geoshift cannot follow")
            return ended
        return followed

    def _fix(self, flow: _Flow, reason: str) -> None:
        for name in flow.origins:
            self.reasons[name].append(reason)

    def _peculiarity(self, name: str) -> str | None:
        """Why a layer's own weights cannot be rewritten unit by unit, whoever reads it."""
        inner = self.modules[name]
        if isinstance(inner, nn.Conv2d) and inner.groups != 1:
            return f"a grouped convolution (groups={inner.groups})"
        if len(self.calls[name]) > 1:
            return f"a module that is called {len(self.calls[name])} times"
        if name in self.shared:
            return f"a layer that shares its weights with {self.shared[name]!r}"
        return None

    def _why_fixed(self, name: str) -> str | None:
        if name in self.outputs:
            return "it is an output layer: its units are the network's answer"
        if peculiarity := self._peculiarity(name):
            return f"it is {peculiarity}"
        if self.reasons[name]:
            return self.reasons[name][0]
        readers = sorted(self.readers[name])
        if len(readers) != 1:
            named = ", ".join(map(repr, readers))
            return f"several layers read its units: {named}" if readers else "no layer reads its units"
        if peculiarity := self._peculiarity(readers[0]):
            return f"its reader {readers[0]!r} is {peculiarity}"
        return None

    def _link(self, name: str) -> Links:
        source, per_unit = self.reads.get(name, (None, _taps(self.modules[name])))
        readers = sorted(self.readers[name])
        units = self.modules[name].weight.shape[0]
        return Links(
            positions=sum(prod(_shape(node)) // (_shape(node)[0] * units) for node in self.calls[name]),
            reads=source,
            columns_per_unit=per_unit,
            reader=readers[0] if len(readers) == 1 and name not in self.outputs else None,
            why_fixed=self._why_fixed(name),
        )


def _through(node: fx.Node, word: str, inner: nn.Module | None, flow: _Flow, before: tuple[int, ...]) -> _Flow | None:
    """The flow behind an operation with one tensor operand, None if units are not kept apart."""
    after = _shape(node)
    named = word if inner is None else None
    scalar_prelu = isinstance(inner, nn.PReLU) and inner.num_parameters == 1
    if isinstance(inner, _ELEMENTWISE_MODULES) or scalar_prelu or named in _ELEMENTWISE_NAMES:
        random = named in _DROPOUT_NAMES and node.kwargs.get("training", True)
        return flow if after == before and not random else None
    if isinstance(inner, _POOLING_MODULES) or named in _POOLING_NAMES:
        return flow if flow.axis == 1 and len(before) == 4 and after[:2] == before[:2] else None
    if named == "mean":
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        pooled = {d % len(before) for d in dims} if isinstance(dims, tuple | list) else set()
        return flow if flow.axis == 1 and pooled == set(range(2, len(before))) else None
    if isinstance(inner, nn.Flatten | nn.Unflatten) or named in _RESHAPE_NAMES:
        if after == before:
            return flow
        if flow.axis == 1 and after[:2] == before[:2]:  # only the positions within a unit are arranged anew
            return flow
        if flow.axis == 1 and len(after) > 1 and after[:2] == (before[0], prod(before[1:])):
            return replace(flow, per_unit=flow.per_unit * prod(before[2:]))
    return None


def _taps(inner: nn.Module) -> int:
    """Columns of a layer per entry of its input's unit axis."""
    return prod(inner.kernel_size) if isinstance(inner, nn.Conv2d) else 1


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("tensor_meta"), TensorMetadata)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape) if _is_tensor(node) else ()


def _word(node: fx.Node) -> str:
    """A module's path, or the name of a function or method without the underscore of its in-place form."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return target.rstrip("_")


def _shared_weights(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs (module name, name of another module that holds the same parameter)."""
    owners: defaultdict[int, list[str]] = defaultdict(list)
    for key, parameter in module.named_parameters(remove_duplicate=False):
        owners[id(parameter)].append(key.rpartition(".")[0])
    for names in owners.values():
        for name in names:
            others = [other for other in names if other != name]
            if others:
                yield name, others[0]
