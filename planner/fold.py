"""Folds batch norm into the layers around it: the rest of the planner meets convolutions and linear layers only.

In eval mode a batch norm is a fixed scale and shift of each channel. What stands directly before it can take them over,
and the network computes the same, up to rounding, with one layer less. The formulas are PyTorch's own,
`torch.nn.utils.fusion`; this module finds the pairs. A norm that has no such partner stays, as what it is: a depthwise
convolution of one weight and one bias a channel, which has rows like any other layer.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fusion

from device_profiles.errors import GeoshiftError

_PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Modules that do nothing in eval mode."""
_CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
"""Dimensions of a batch to the convolution that reads it."""


class FoldError(GeoshiftError):
    """A batch norm can be written as no other layer; the message says why and what to do."""


def fold(module: nn.Module, graph: fx.GraphModule) -> nn.Module:
    """Write every batch norm of a network as part of a convolution or linear layer.

    Layers keep their names. A norm that was folded away is an `nn.Identity`; one that stays is a depthwise convolution
    under its own name.

    Args:
        module: The network in eval mode; it is not changed.
        graph: Its fx graph, with shapes propagated.

    Returns:
        A copy that computes the same, or the module itself if there is no batch norm in it.

    Raises:
        FoldError: A norm keeps no running statistics, or stands on vectors with no linear layer directly beside it.
    """
    norms = [name for name, one in module.named_modules() if isinstance(one, _BatchNorm)]
    if not norms:
        return module
    folded = copy.deepcopy(module)
    calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.graph.nodes if node.op == "get_attr"}
    for name in norms:
        if not calls[name] and name not in read:  # such as those of heads that serve training alone
            _replace(folded, name, nn.Identity())
    for node in graph.graph.nodes:
        if node.op == "call_module" and str(node.target) in norms:
            _fold_one(folded, node, calls)
    return folded


def _fold_one(module: nn.Module, node: fx.Node, calls: Counter[str]) -> None:
    """Replace one norm and its partner within the copy."""
    name, modules = str(node.target), dict(module.named_modules())
    norm = modules[name]
    if not isinstance(norm, _BatchNorm):
        return  # called before, and replaced then
    if norm.running_mean is None or norm.running_var is None:
        raise FoldError(
            f"batch norm {name!r} keeps no running statistics (track_running_stats=False), so an answer depends on the "
            "other samples of its batch; expected running statistics: train it with them"
        )
    once = calls[name] == 1
    before = _partner_before(node, modules, calls) if once else None
    after = _partner_after(node, modules, calls) if once else None
    if before is not None:
        _replace(module, before, _after_layer(modules[before], norm))
        _replace(module, name, nn.Identity())
    elif after is not None:
        _replace(module, after, _before_linear(norm, modules[after]))
        _replace(module, name, nn.Identity())
    elif len(_shape(node)) in _CONVOLUTIONS:
        _replace(module, name, _alone(norm, len(_shape(node))))
    else:
        raise FoldError(
            f"batch norm {name!r} reads vectors, and no linear layer stands directly before or behind it that nothing "
            "else reads or calls; expected one to fold it into: move the norm next to a linear layer"
        )


def _partner_before(node: fx.Node, modules: dict[str, nn.Module], calls: Counter[str]) -> str | None:
    """The layer whose output this norm alone reads."""
    before = node.all_input_nodes[0]
    while len(before.users) == 1 and isinstance(_target(before, modules), _PASSING):
        before = before.all_input_nodes[0]
    layer = _target(before, modules)
    fits = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or (
        # on sequences a norm scales steps, not the features that a linear layer makes
        isinstance(layer, nn.Linear) and len(_shape(node)) == 2
    )
    return str(before.target) if fits and len(before.users) == 1 and _is_plain(before, modules, calls) else None


def _partner_after(node: fx.Node, modules: dict[str, nn.Module], calls: Counter[str]) -> str | None:
    """The linear layer that alone reads the vectors this norm makes.

    Not a convolution: its padding puts zeros where the shift would have to be.
    """
    after, shape = node, _shape(node)
    while len(after.users) == 1:
        after = next(iter(after.users))
        if not isinstance(_target(after, modules), _PASSING):
            break
    fits = after is not node and isinstance(_target(after, modules), nn.Linear) and len(shape) == 2
    return str(after.target) if fits and _is_plain(after, modules, calls) else None


def _is_plain(node: fx.Node, modules: dict[str, nn.Module], calls: Counter[str]) -> bool:
    """Whether a layer is called once and has a stored weight, not one computed from others."""
    own = dict(modules[str(node.target)].named_parameters(recurse=False))
    return calls[str(node.target)] == 1 and "weight" in own


def _after_layer(layer: nn.Module, norm: _BatchNorm) -> nn.Module:
    """One layer for a layer and the norm behind it, computed in float64 and rounded once."""
    exact, scale = copy.deepcopy(layer).double(), copy.deepcopy(norm).double()
    if isinstance(exact, nn.Linear):
        if scale.weight is None:  # fuse_linear_bn_eval, unlike the one for convolutions, asks for an affine norm
            scale.weight = nn.Parameter(torch.ones_like(scale.running_mean))
            scale.bias = nn.Parameter(torch.zeros_like(scale.running_mean))
        fused: nn.Module = fusion.fuse_linear_bn_eval(exact, scale)
    else:
        assert isinstance(exact, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        fused = fusion.fuse_conv_bn_eval(exact, scale)
    return fused.to(next(layer.parameters()).dtype)


def _before_linear(norm: _BatchNorm, linear: nn.Module) -> nn.Linear:
    """One layer for a norm and the linear layer behind it."""
    assert isinstance(linear, nn.Linear)
    identity = nn.Linear(norm.num_features, norm.num_features, dtype=torch.float64)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(norm.num_features))
        identity.bias.zero_()
        first = _after_layer(identity.eval(), norm)
        assert isinstance(first, nn.Linear)
        both = copy.deepcopy(linear).double()
        shift = both.weight @ first.bias
        both.bias = nn.Parameter(shift if both.bias is None else both.bias + shift)
        both.weight = nn.Parameter(both.weight @ first.weight)
    return both.to(linear.weight.dtype)


def _alone(norm: _BatchNorm, dimensions: int) -> nn.Module:
    """A norm as a depthwise convolution."""
    channels = norm.num_features
    identity = _CONVOLUTIONS[dimensions](channels, channels, 1, groups=channels)
    with torch.no_grad():
        identity.weight.fill_(1)
        assert identity.bias is not None
        identity.bias.zero_()
    return _after_layer(identity.to(norm.running_mean).eval(), norm)


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of another, under every name that this has."""
    old = module.get_submodule(name)
    for parent in list(module.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, key, new)


def _target(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)
