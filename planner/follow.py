"""Follows every layer's units through a traced graph, to the layers that read them.

An abstract interpretation: each value in the graph is described by the layer whose units it is made of, and where in
the value each unit lies. Operations that keep units apart pass the description on; all others end it, and every
layer whose units came this far is fixed, with the operation as its reason.

Where a sum or a product meets two descriptions of the same form, it ties the layers: unit u of one is from there on
unit u of the other. A concatenation puts descriptions side by side. A depthwise convolution keeps units apart like any
elementwise operation, but has rows of its own, one a unit: it is tied to the layer that it reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

from torch import fx, nn

from planner.operations import (
    ELEMENTWISE,
    JOINS,
    SHAPE_QUERIES,
    SUMS,
    TIES,
    Flow,
    Part,
    is_depthwise,
    is_tensor,
    shape_of,
    side_by_side,
    taps,
    through,
    word_of,
)


@dataclass(frozen=True)
class Source:
    """Some columns of a layer, and whose units they read.

    Attributes:
        group: The first layer, in forward order, that has these units.
        units: How many there are.
        first: First column.
        columns_per_unit: Contiguous columns that belong to one unit.
    """

    group: str
    units: int
    first: int
    columns_per_unit: int

    @property
    def columns(self) -> int:
        """Number of columns."""
        return self.units * self.columns_per_unit

    def columns_of(self, unit: int) -> range:
        """Columns of one unit."""
        begin = self.first + unit * self.columns_per_unit
        return range(begin, begin + self.columns_per_unit)


@dataclass(frozen=True)
class Links:
    """How one layer is connected.

    Attributes:
        positions: Output positions per sample, over all calls.
        sources: Whose units it reads, in the order of its columns.
        readers: The layers that read its units or those of a layer that is tied to it, in forward order.
        group: The first layer in forward order that it is tied to, itself if there is no other.
        why_fixed: None if its units can be removed, else the reason in words.
    """

    positions: int
    sources: tuple[Source, ...]
    readers: tuple[str, ...]
    group: str
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


class _Follower:
    """One forward visit of the graph."""

    def __init__(self, module: nn.Module, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.modules = dict(module.named_modules())
        self.shared = dict(_shared_weights(module))
        self.flows: dict[fx.Node, Flow] = {}
        self.calls: defaultdict[str, list[fx.Node]] = defaultdict(list)
        self.reads: defaultdict[str, list[tuple[Part, int]]] = defaultdict(list)  # layer -> (part, its first column)
        self.tied: dict[str, str] = {}  # layer -> one before it, or itself, that has the same units
        self.reasons: defaultdict[str, list[str]] = defaultdict(list)
        self.outputs: set[str] = set()

    def links(self) -> dict[str, Links]:
        for node in self.graph.graph.nodes:
            operands = [n for n in node.all_input_nodes if is_tensor(n) or self.flows.get(n, Flow()).origins]
            flows = [self.flows.get(n, Flow()) for n in operands]
            if node.op == "output":
                self.outputs.update(name for flow in flows for name in flow.origins)
            elif node.op == "call_module" and isinstance(self.modules[node.target], nn.Conv2d | nn.Linear):
                self.flows[node] = self._layer(node, operands[0], flows[0])
            elif flows:
                self.flows[node] = self._operation(node, operands, flows)
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.calls:
            groups[self._group(name)].append(name)
        return {name: self._link(name, groups[self._group(name)]) for name in self.calls}

    def _group(self, name: str) -> str:
        """The first layer that a layer is tied to."""
        while self.tied[name] != name:
            name = self.tied[name]
        return name

    def _tie(self, names: Sequence[str]) -> None:
        order = list(self.calls)
        groups = sorted({self._group(name) for name in names}, key=order.index)
        self.tied.update(dict.fromkeys(groups, groups[0]) if groups else {})

    def _layer(self, node: fx.Node, operand: fx.Node, flow: Flow) -> Flow:
        """A layer reads a value: connect it to whose units they are, and start a new flow."""
        name, inner = str(node.target), self.modules[str(node.target)]
        self.calls[name].append(node)
        self.tied.setdefault(name, name)
        read_axis = 1 if isinstance(inner, nn.Conv2d) else len(shape_of(operand)) - 1
        made = Flow(frozenset([name]), (Part(name, inner.weight.shape[0]),), read_axis)
        followed = bool(flow.parts) and flow.axis == read_axis
        if not followed:
            self._fix(flow, f"{name!r} reads its units together: they do not lie along the dimension it reads")
        if not is_depthwise(inner):
            starts = accumulate((part.entries for part in flow.parts if followed), initial=0)
            self.reads[name] += [
                (replace(part, per_unit=part.per_unit * taps(inner)), start * taps(inner))
                for part, start in zip(flow.parts, starts, strict=False)
            ]
            return made
        if followed and len(flow.parts) == 1 and flow.parts[0].per_unit == 1 and flow.parts[0].layer is not None:
            self._tie([name, flow.parts[0].layer])
            return replace(made, origins=made.origins | flow.origins)
        self._fix(flow, f"depthwise convolution {name!r} reads units of several layers or several entries of each")
        self._fix(made, "it is a depthwise convolution whose inputs are not the units of one layer, one entry each")
        return made

    def _operation(self, node: fx.Node, operands: list[fx.Node], flows: list[Flow]) -> Flow:
        """The flow behind an operation that is no layer; fixes the layers whose units it does not keep apart."""
        ended = Flow(frozenset(name for flow in flows for name in flow.origins))
        inner = self.modules[str(node.target)] if node.op == "call_module" else None
        word = word_of(node)
        if not is_tensor(node):
            if word not in SHAPE_QUERIES:  # asking for a shape does not read a unit
                self._fix(ended, f"operation {word!r} makes of its units something other than one tensor")
                return ended
            return Flow()
        if len(flows) > 1:
            merged = self._merged(node, operands, flows, word)
            if merged is not None:
                return replace(merged, origins=ended.origins)
            verb = "added to" if word in SUMS else "concatenated with" if word in JOINS else "combined with"
            note = " (a residual connection to other units or none)" if word in SUMS else ""
            self._fix(ended, f"its units are {verb} another branch at {node.name!r}{note}")
            return ended
        followed = through(node, word, inner, flows[0], shape_of(operands[0]))
        if followed is None:
            what = f"operation {word!r}" if inner is None else f"module {word!r} ({type(inner).__name__})"
            self._fix(ended, f"its units go through {what}, which geoshift cannot follow")
            return ended
        return followed

    def _merged(self, node: fx.Node, operands: list[fx.Node], flows: list[Flow], word: str) -> Flow | None:
        """The flow behind an operation on several tensors, None if it does not keep units apart."""
        if word in JOINS:
            return side_by_side(node, operands, flows) if any(flow.origins for flow in flows) else None
        first, shape = flows[0], shape_of(node)
        if not first.parts or any(flow.axis != first.axis for flow in flows):
            return None
        if all(flow.parts == first.parts for flow in flows):
            # x * sigmoid(x): every operand holds the same unit at the same place
            return first if word in ELEMENTWISE and all(shape_of(n) == shape for n in operands) else None
        # A gate may have one value a unit where the other operand has one a position.
        alike = all(len(shape_of(n)) == len(shape) and shape_of(n)[first.axis] == shape[first.axis] for n in operands)
        forms = {tuple((part.units, part.per_unit, part.layer is None) for part in flow.parts) for flow in flows}
        if word not in TIES or not alike or len(forms) > 1:
            return None
        for parts in zip(*(flow.parts for flow in flows), strict=True):
            self._tie([part.layer for part in parts if part.layer is not None])
        return first

    def _fix(self, flow: Flow, reason: str) -> None:
        for name in flow.origins:
            self.reasons[name].append(reason)

    def _peculiarity(self, name: str) -> str | None:
        """Why a layer's own weights cannot be rewritten unit by unit, whoever reads it."""
        inner = self.modules[name]
        if isinstance(inner, nn.Conv2d) and inner.groups != 1 and not is_depthwise(inner):
            return f"a grouped convolution (groups={inner.groups})"
        if len(self.calls[name]) > 1:
            return f"a module that is called {len(self.calls[name])} times"
        if name in self.shared:
            return f"a layer that shares its weights with {self.shared[name]!r}"
        return None

    def _own_reason(self, name: str) -> str | None:
        """Why a layer's units cannot be removed, whoever reads them and whatever it is tied to."""
        if name in self.outputs:
            return "it is an output layer: its units are the network's answer"
        if peculiarity := self._peculiarity(name):
            return f"it is {peculiarity}"
        return self.reasons[name][0] if self.reasons[name] else None

    def _why_fixed(self, name: str, members: Sequence[str], readers: Sequence[str]) -> str | None:
        if reason := self._own_reason(name):
            return reason
        for other in members:
            if reason := self._own_reason(other):
                return f"its units are those of {other!r} too, which cannot lose any: {reason}"
        if not readers:
            return "no layer reads its units"
        for reader in readers:
            if peculiarity := self._peculiarity(reader):
                return f"its reader {reader!r} is {peculiarity}"
        return None

    def _link(self, name: str, members: Sequence[str]) -> Links:
        units = self.modules[name].weight.shape[0]
        readers = tuple(
            reader
            for reader in self.calls
            if any(part.layer is not None and self._group(part.layer) == members[0] for part, _ in self.reads[reader])
        )
        return Links(
            positions=sum(prod(shape_of(node)) // (shape_of(node)[0] * units) for node in self.calls[name]),
            sources=tuple(
                Source(self._group(part.layer), part.units, first, part.per_unit)
                for part, first in self.reads[name]
                if part.layer is not None and len(self.calls[name]) == 1
            ),
            readers=readers,
            group=members[0],
            why_fixed=self._why_fixed(name, members, readers),
        )


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
