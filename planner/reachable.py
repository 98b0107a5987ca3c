"""What a layer can compute while its rows are written: the set of states that a certificate speaks of.

Rows R of one layer go from W₀ to W₁, all other weights stand still, so that the layer reads the same a throughout.

* *Whole rows, in any order*: each row is old or new, so each unit computes z₀ = W₀a + b₀ or z₁ = W₁a + b₁, the same of
  the two at all positions of a convolution.
* *One torn row*: of one row only a set T of its numbers is written, so its unit computes z₀ + Σ_{j∈T} Δw_j a_j. That is
  in general no mixture (1 − s) z₀ + s z₁: the numbers written first may overshoot both. A row that stopped at some
  place, forwards or on the way back, has for T a prefix or a suffix of its numbers in storage order, bias last; the
  least and the greatest partial sum bound it. If the memory may write a row's numbers in any order, T is any set, and
  the sums of the negative and of the positive parts do.

Numbers themselves are not torn: an aligned 4-byte store is atomic, or the device has to make it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from planner.tail import Tail, Weights

Tear = Literal["place", "set"]
"""What a torn row has of the new one: all up to some place, or from there on, in storage order; or any numbers."""
PARTS = 512
"""Parts that a row is divided into to find its partial sums; within a part any numbers may be written. The rows of
LeNet-300-100 and of VGG-11's convolutions have fewer numbers or channels, a part each."""


@dataclass(frozen=True)
class Writes:
    """Rows of one layer that are written, in any order.

    Attributes:
        layer: The layer.
        rows: Its rows, int64 [R].
        before: All tensors before the first of them is written, float64 by name.
        after: The layer's tensors after the last one, float64 by name.
    """

    layer: str
    rows: Tensor
    before: Weights
    after: Weights


@dataclass(frozen=True)
class Reachable:
    """Values that a node can take where each unit has entries of its own; all [N, entries of units...].

    Attributes:
        old: With all rows as before.
        new: With all rows as after.
        low: No entry is smaller, one torn row included.
        high: No entry is larger.
    """

    old: Tensor
    new: Tensor
    low: Tensor
    high: Tensor

    def unit(self, unit: int, units: int) -> Reachable:
        """Entries of one unit, the unit dimension kept."""
        size = self.old.shape[1] // units
        part = slice(unit * size, (unit + 1) * size)
        return Reachable(self.old[:, part], self.new[:, part], self.low[:, part], self.high[:, part])


def reachable(tail: Tail, writes: Writes, tear: Tear = "place") -> dict[fx.Node, Reachable]:
    """What the layer and every node behind it that keeps its units apart can compute.

    Every operation there is monotone in each entry, so that the ends of an interval go to ends.
    """
    with torch.no_grad():
        found = {tail.node: at_layer(tail, writes, tear)}
        for step in tail.steps:
            if step.by_unit:
                before = found[step.varies[0]]
                found[step.node] = Reachable(
                    *(
                        tail.apply(step.node, {step.varies[0]: value})
                        for value in (before.old, before.new, before.low, before.high)
                    )
                )
    return found


def unread(tail: Tail, writes: Writes) -> bool:
    """Whether nobody reads the units that are written: all columns for them are zero, so that no answer changes."""
    units = tail.network.layer(tail.layer).units
    kept_apart = {tail.node, *(step.node for step in tail.steps if step.by_unit)}
    if tail.output in kept_apart:
        return False
    for step in tail.steps:
        if step.by_unit or not kept_apart & {*step.varies}:
            continue
        if step.kind != "layer" or getattr(tail.modules[str(step.node.target)], "groups", 1) != 1:
            return False
        weight = tail.layer_weights(step.node)[0]
        if weight.reshape(len(weight), units, -1)[:, writes.rows].any():
            return False
    return True


def at_layer(tail: Tail, writes: Writes, tear: Tear = "place") -> Reachable:
    """Pre-activations of the layer itself."""
    node, reads, old = tail.node, tail.reads, tail.values[tail.node]
    if unread(tail, writes):
        return Reachable(old, old, old, old)
    old_weight, old_bias = tail.layer_weights(node)
    change = writes.after[f"{tail.layer}.weight"] - old_weight
    shift = None if old_bias is None else writes.after[f"{tail.layer}.bias"] - old_bias
    sides = _spread(shift, old) if shift is not None else torch.zeros_like(old)
    with torch.no_grad():
        if tear == "set" or getattr(tail.modules[tail.layer], "groups", 1) != 1:
            falling, rising = _parts(tail, change, reads)
            falling, rising = falling + sides.clamp(max=0), rising + sides.clamp(min=0)
            return Reachable(old, old + (falling + rising), old + falling, old + rising)
        done = torch.zeros_like(old)
        least, most = done, done
        size = -(-change.shape[1] // PARTS)
        for begin in range(0, change.shape[1], size):
            part = slice(begin, begin + size)
            if not change[:, part].any():
                continue
            if size == 1 and change.ndim == 2:  # one number: its partial sums are those before and after it
                done = done + reads[:, part] * change[:, begin]
                least, most = torch.minimum(least, done), torch.maximum(most, done)
                continue
            falling, rising = _parts(tail, change[:, part], reads[:, part])
            least, most = torch.minimum(least, done + falling), torch.maximum(most, done + rising)
            done = done + (falling + rising)
        # The bias is the last number. Forwards a prefix p is new; backwards all but a prefix, the whole less p.
        whole = done + sides
        least, most = torch.minimum(least, whole), torch.maximum(most, whole)
        low, high = torch.minimum(least, whole - most), torch.maximum(most, whole - least)
        return Reachable(old, old + whole, old + low, old + high)


def _parts(tail: Tail, change: Tensor, reads: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the negative and of the positive products of some columns, in the shape of the layer's output."""
    up, down = change.clamp(min=0), change.clamp(max=0)
    positive = reads.clamp(min=0)
    falling, rising = tail.linear(tail.node, down, None, positive), tail.linear(tail.node, up, None, positive)
    if (reads < 0).any():
        negative = reads.clamp(max=0)
        falling = falling + tail.linear(tail.node, up, None, negative)
        rising = rising + tail.linear(tail.node, down, None, negative)
    return falling, rising


def _spread(shift: Tensor, like: Tensor) -> Tensor:
    """A number a unit, at all positions of it."""
    return shift.reshape(1, -1, *[1] * (like.ndim - 2)).expand_as(like)
