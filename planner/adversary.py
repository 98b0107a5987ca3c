"""A search for wrong answers among the states of a write: where it finds one, nothing can be proved.

Rows are switched between old and new by sign steps on the margin, each sample for itself, and every state of whole rows
on the way is asked. Then one row is torn: where its margin is lowest to first order, or so that the numbers that lower
it are written and no others. What is found is a state that writes in some order do reach. **What is not found is not
proved absent.**
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from planner.cost import CostMeter
from planner.reachable import Tear, Writes, unread
from planner.tail import Tail


@dataclass(frozen=True)
class Search:
    """How hard to search.

    Attributes:
        targets: Classes that each sample is driven towards, the likeliest first.
        steps: Sign steps for each.
        step: Length of one, of the way from old to new.
        torn_rows: Rows that are torn in turn, those of the largest first-order effect.
    """

    targets: int = 3
    steps: int = 6
    step: float = 0.35
    torn_rows: int = 3


def find_wrong(
    tail: Tail, writes: Writes, labels: Tensor, *, torn: bool, search: Search, cost: CostMeter, tear: Tear = "place"
) -> NDArray[np.bool_]:
    """Whether a state was found that answers a sample wrong, bool [N].

    Args:
        tail: The network behind the layer that is written, on the samples.
        writes: The stage.
        labels: Right classes, int64 [N].
        torn: Whether one row may be torn.
        search: How hard to search.
        cost: Counts what is spent.
        tear: How a row may be torn.
    """
    return (worst_margin(tail, writes, labels, torn=torn, search=search, cost=cost, tear=tear) <= 0).numpy()


def worst_margin(
    tail: Tail, writes: Writes, labels: Tensor, *, torn: bool, search: Search, cost: CostMeter, tear: Tear = "place"
) -> Tensor:
    """Smallest margin that was found, float64 [N]; at least the true minimum, never proved to be it.

    Args:
        tail: The network behind the layer that is written, on the samples.
        writes: The stage.
        labels: Right classes, int64 [N].
        torn: Whether one row may be torn.
        search: How hard to search.
        cost: Counts what is spent.
        tear: How a row may be torn.
    """
    old = tail.values[tail.node]
    weight = writes.after[f"{tail.layer}.weight"]
    with torch.no_grad():
        change = tail.linear(tail.node, weight, writes.after.get(f"{tail.layer}.bias"), tail.reads) - old
    outputs = tail.values[tail.output]
    if unread(tail, writes):
        return margin(outputs, labels)
    others = outputs.scatter(1, labels[:, None], -torch.inf).topk(min(search.targets, outputs.shape[1] - 1)).indices
    worst = torch.full((len(labels),), torch.inf, dtype=torch.float64)
    for target in others.T:
        share = torch.full((len(labels), old.shape[1]), 0.5, dtype=torch.float64)
        for _ in range(search.steps):
            slope = _slope(tail, _spread(share, old) * change + old, labels, target)
            share = (share - search.step * (slope * change).flatten(2).sum(-1).sign()
                     if old.ndim > 2 else share - search.step * (slope * change).sign()).clamp(0, 1)  # fmt: skip
            whole = (share > 0.5).to(torch.float64)
            state = _spread(whole, old) * change + old
            worst = torch.minimum(worst, margin(tail.run(state).detach(), labels))
            cost.forward_backward(len(labels))
            cost.forward(len(labels))
        if torn:
            worst = torch.minimum(worst, _tear(tail, writes, labels, target, whole, change, search, cost, tear))
    return worst


def margin(outputs: Tensor, labels: Tensor) -> Tensor:
    """Output of the right class minus the largest other one, [N]."""
    right = outputs.gather(1, labels[:, None])[:, 0]
    return right - outputs.scatter(1, labels[:, None], -torch.inf).amax(1)


def _slope(tail: Tail, state: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """Gradient of right minus target output by the layer's pre-activations."""
    state = state.detach().requires_grad_()
    outputs = tail.run(state)
    lead = outputs.gather(1, labels[:, None]) - outputs.gather(1, target[:, None])
    (slope,) = torch.autograd.grad(lead.sum(), state)
    return slope


def _tear(
    tail: Tail,
    writes: Writes,
    labels: Tensor,
    target: Tensor,
    whole: Tensor,
    change: Tensor,
    search: Search,
    cost: CostMeter,
    tear: Tear,
) -> Tensor:
    """Smallest margin with one row torn, the others as a search has left them."""
    old = tail.values[tail.node]
    state = _spread(whole, old) * change + old
    slope = _slope(tail, state, labels, target)
    cost.forward_backward(len(labels))
    rows = writes.rows
    delta = _row_changes(tail, writes)
    reads = _patches(tail)
    slopes = slope.flatten(2) if slope.ndim > 2 else slope[:, :, None]
    # First-order effect of writing number j of row r: its change, times what it multiplies, times the slope there.
    effect = torch.einsum("nrp,njp->nrj", slopes[:, rows], reads) * delta
    current = whole[:, rows] * effect.sum(-1)
    gain, written = _torn_best(effect, tear)
    worst = torch.full((len(labels),), torch.inf, dtype=torch.float64)
    for place in (gain - current).topk(min(search.torn_rows, len(rows)), largest=False).indices.T:
        sample = torch.arange(len(labels))
        torn = state.clone()
        value = torch.einsum("nj,njp->np", written[sample, place] * delta[place], reads).reshape(old[:, 0].shape)
        torn[sample, rows[place]] = old[sample, rows[place]] + value
        with torch.no_grad():
            worst = torch.minimum(worst, margin(tail.run(torn), labels))
        cost.forward(len(labels))
    return worst


def _torn_best(effect: Tensor, tear: Tear) -> tuple[Tensor, Tensor]:
    """The least sum that a tear of each row can give, [N, R], and which of its numbers are written, [N, R, width]."""
    if tear == "set":
        return effect.clamp(max=0).sum(-1), effect < 0
    width = effect.shape[-1]
    prefix = F.pad(effect.cumsum(-1), (1, 0))
    whole = prefix[..., -1:]
    forwards, upto = prefix.min(-1, keepdim=True)
    backwards, since = (whole - prefix).min(-1, keepdim=True)
    number = torch.arange(width)
    written = torch.where(forwards <= backwards, number < upto, number >= since)
    return torch.minimum(forwards, backwards)[..., 0], written


def _row_changes(tail: Tail, writes: Writes) -> Tensor:
    """What each written row changes by, bias last, [R, width]."""
    old_weight, old_bias = tail.layer_weights(tail.node)
    change = (writes.after[f"{tail.layer}.weight"] - old_weight)[writes.rows].flatten(1)
    if old_bias is None:
        return change
    return torch.cat([change, (writes.after[f"{tail.layer}.bias"] - old_bias)[writes.rows, None]], 1)


def _patches(tail: Tail) -> Tensor:
    """What the numbers of a row multiply, a trailing 1 for the bias, [N, width, positions]."""
    inner, reads = tail.modules[tail.layer], tail.reads
    if isinstance(inner, nn.Conv2d):
        down, right = tail.padding(inner)
        reads = F.unfold(reads, inner.kernel_size, inner.dilation, (down, right), inner.stride)
    else:
        reads = reads[:, :, None]
    if tail.layer_weights(tail.node)[1] is None:
        return reads
    return torch.cat([reads, torch.ones_like(reads[:, :1])], 1)


def _spread(share: Tensor, like: Tensor) -> Tensor:
    """A number a unit, at all positions of it."""
    return share.reshape(*share.shape, *[1] * (like.ndim - 2))
