"""What operations between layers do to units: which of them keep units apart, and where each unit then lies."""

from __future__ import annotations

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
ELEMENTWISE = _DROPOUT_NAMES | {
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
SHAPE_QUERIES = {"size", "dim", "ndimension", "numel", "getattr"}
SUMS = {"add", "iadd", "sub", "isub"}
TIES = SUMS | {"mul", "imul"}
"""Operations on units of several layers that are 0 where all of their operands are; 0 / 0 is not."""
JOINS = {"cat", "concat", "concatenate"}


@dataclass(frozen=True)
class Part:
    """A stretch of an axis: all units of one layer, in order, or entries that are nobody's units."""

    layer: str | None
    units: int
    per_unit: int = 1  # contiguous entries that belong to one unit

    @property
    def entries(self) -> int:
        """Length of the stretch."""
        return self.units * self.per_unit


@dataclass(frozen=True)
class Flow:
    """What a value is made of: layers' units along one axis, or something not followed."""

    origins: frozenset[str] = frozenset()  # layers whose units reach the value through no further layer
    parts: tuple[Part, ...] = ()  # what lies along `axis`; nothing if it is not followed
    axis: int = 1


def side_by_side(node: fx.Node, operands: list[fx.Node], flows: list[Flow]) -> Flow | None:
    """The flow behind a concatenation, None if it does not put units of one operand after those of another."""
    listed = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.kwargs.get("dim", node.kwargs.get("axis", node.args[1] if len(node.args) > 1 else 0))
    axes = {flow.axis for flow in flows if flow.parts}
    if not isinstance(listed, list | tuple) or not isinstance(dim, int) or len(axes) != 1:
        return None
    axis, shape = axes.pop(), shape_of(node)
    if dim % len(shape) != axis:
        return None
    parts: list[Part] = []
    for one in listed:  # a tensor may stand here twice, though it is one operand
        flow = flows[operands.index(one)]
        if flow.origins and not flow.parts:
            return None
        parts += flow.parts or (Part(None, shape_of(one)[axis]),)
    return Flow(parts=tuple(parts), axis=axis) if sum(part.entries for part in parts) == shape[axis] else None


def through(node: fx.Node, word: str, inner: nn.Module | None, flow: Flow, before: tuple[int, ...]) -> Flow | None:
    """The flow behind an operation with one tensor operand, None if units are not kept apart."""
    after = shape_of(node)
    named = word if inner is None else None
    scalar_prelu = isinstance(inner, nn.PReLU) and inner.num_parameters == 1
    if isinstance(inner, _ELEMENTWISE_MODULES) or scalar_prelu or named in ELEMENTWISE:
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
            positions = prod(before[2:])
            return replace(flow, parts=tuple(replace(p, per_unit=p.per_unit * positions) for p in flow.parts))
    return None


def is_depthwise(inner: nn.Module) -> bool:
    """Whether each unit reads the one input channel of its own number."""
    return isinstance(inner, nn.Conv2d) and 1 < inner.groups == inner.in_channels == inner.out_channels


def taps(inner: nn.Module) -> int:
    """Columns of a layer per entry of its input's unit axis."""
    return prod(inner.kernel_size) if isinstance(inner, nn.Conv2d) else 1


def is_tensor(node: fx.Node) -> bool:
    """Whether a node's value is one tensor."""
    return isinstance(node.meta.get("tensor_meta"), TensorMetadata)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's value, with a batch of two; nothing where it is no tensor."""
    return tuple(node.meta["tensor_meta"].shape) if is_tensor(node) else ()


def word_of(node: fx.Node) -> str:
    """A module's path, or the name of a function or method without the underscore of its in-place form."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return target.rstrip("_")
