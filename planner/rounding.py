"""How far a device's float32 answers can be from the exact ones: what a bound in float64 has to leave over.

A sum of n products in float32, in any order, with or without fused multiply-add, is off by at most γ_n Σ|w_j a_j|,
γ_n = n u / (1 − n u), u = 2⁻²⁴. Carried through the network with what came in, E ← |W|E + γ(|W|(|a| + E) + |b|), that
bounds every output. It does not hold for convolutions by Winograd's or Fourier's way, which multiply other numbers.

Reference:
    Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., sections 3.1 and 3.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from planner.bounds import Bounds
from planner.reachable import Writes
from planner.tail import Tail

UNIT = 2.0**-24 * (1 + 2.0**-10)
"""Unit roundoff of float32; the rest pays for float64's own rounding in the bounds, 2⁻²⁹ of it an operation."""
FUNCTION = 64
"""Units in the last place of 1 that a sigmoid or the like may be off by; assumed, no library states a bound."""
TINY = 1e-30
"""Far above what underflow of float32 can take from a sum of a million products, 1e6 x 2^-149."""


def output_error(tail: Tail, bounds: Bounds, writes: Writes) -> Tensor:
    """Largest distance of float32 outputs from the exact ones, in any state of a write, [N, outputs].

    Args:
        tail: The network behind the layer.
        bounds: Intervals over the states.
        writes: What is written; the larger of old and new weights counts.
    """
    errors: dict[fx.Node, Tensor] = {}
    with torch.no_grad():
        for node in tail.order:
            value = tail.values[node]
            if not isinstance(value, Tensor) or node.op in ("placeholder", "get_attr"):
                continue
            tensors = [one for one in node.all_input_nodes if isinstance(tail.values[one], Tensor)]
            known = {one: errors.get(one, torch.zeros_like(tail.values[one])) for one in tensors}
            errors[node] = _error(tail, bounds, writes, node, known)
    return errors[tail.output]


def _error(tail: Tail, bounds: Bounds, writes: Writes, node: fx.Node, known: dict[fx.Node, Tensor]) -> Tensor:
    """Error of a node from those of its operands."""
    kind = tail.kind(node)
    if kind == "layer":
        return _layer(tail, bounds, writes, node, known)
    if kind in ("sum", "difference"):
        total = torch.stack([known[one] for one in node.args[:2] if one in known]).sum(0)  # type: ignore[index]
        return total + UNIT * (torch.maximum(*(end.abs() for end in bounds.box(node))) + total)
    if kind == "monotone":
        # None is steeper than 1; their own error is a few units in the last place.
        return next(iter(known.values())) + FUNCTION * UNIT
    if kind == "average":
        operand, error = next(iter(known.items()))
        size = torch.maximum(*(end.abs() for end in bounds.box(operand)))
        return tail.apply(node, {operand: error + _gamma(size[0, 0].numel() + 1) * (size + error)})
    return tail.apply(node, known)  # a ReLU, a maximum, a change of shape, a concatenation


def _layer(tail: Tail, bounds: Bounds, writes: Writes, node: fx.Node, known: dict[fx.Node, Tensor]) -> Tensor:
    weight, bias = tail.layer_weights(node)
    weight, bias = weight.abs(), None if bias is None else bias.abs()
    if node is tail.node:
        weight = torch.maximum(weight, writes.after[f"{node.target}.weight"].abs())
        bias = None if bias is None else torch.maximum(bias, writes.after[f"{node.target}.bias"].abs())
    operand = tail.operand(node)
    size = torch.maximum(*(end.abs() for end in bounds.box(operand)))
    gamma = _gamma(weight[0].numel() + 1)
    # One product for both: |W|(E + γ(|a| + E)) + γ|b|.
    carried = known[operand] + gamma * (size + known[operand])
    return tail.linear(node, weight, None if bias is None else gamma * bias, carried) + TINY


def _gamma(terms: int) -> float:
    return terms * UNIT / (1 - terms * UNIT)
