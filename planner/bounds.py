"""Bounds of what a network can answer in any state of a write: intervals, and linear bounds carried backwards.

Forwards, every node behind the layer gets an interval for each entry. The first layer that reads the units uses that a
unit is as before or as after as a whole: each entry of it is at least Σ over units of the lesser of the two, and one
torn row adds the worst that any one row can add. Later nodes follow by interval arithmetic.

Backwards, a linear function of the outputs is bounded from below by a linear function of each node before it in turn.
Layers and sums pass slopes on exactly; a ReLU with pre-activations in [l, u], l < 0 < u, lies above αx for any α in
[0, 1] and below u (x − l) / (u − l). What arrives at the units is minimised over their states exactly.

Reference:
    Zhang et al., "Efficient neural network robustness certification with general activation functions" (CROWN), 2018;
    Gowal et al., "On the effectiveness of interval bound propagation for training verifiably robust models", 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import vjp

from planner.reachable import Reachable
from planner.tail import Step, Tail

Rule = Literal["interval", "nearest", "flat", "steep"]
"""How a ReLU that may be on or off is bounded from below: by its interval, by the one of 0 and x that leaves the
smaller triangle, by 0, by x. All are sound, so the best of them is, for each sample and class."""
LINEAR: tuple[tuple[Rule, ...], ...] = (("nearest",), ("flat", "steep"))
"""Tried one after the other."""
TIGHTENED = 1024
"""Up to so many entries, intervals of a node further behind are tightened by one backward pass an entry."""
SPECIFICATIONS = 64
"""Backward passes at once when a node is tightened."""

Interval = tuple[Tensor, Tensor]


class Bounds:
    """Bounds over the states of one write.

    Args:
        tail: The network behind the layer that is written.
        reach: What its units can compute, from `reachable`.
        rows: Rows that are written, int64 [R].
        torn: Whether one row may be torn; else all are whole.
        tighten: Whether intervals are tightened by backward bounds, see `TIGHTENED`.
    """

    def __init__(
        self, tail: Tail, reach: Mapping[fx.Node, Reachable], rows: Tensor, *, torn: bool, tighten: bool = False
    ) -> None:
        self.tail, self.reach, self.rows, self.torn = tail, reach, rows.tolist(), torn
        self.units = tail.network.layer(tail.layer).units
        self.passes = 0.0
        """Passes through the network behind the layer, of all samples, a backward one counted as two."""
        self._kinds: dict[fx.Node, Step] = {step.node: step for step in tail.steps}
        self._boxes: dict[fx.Node, Interval] = {}
        with torch.no_grad():
            for step in tail.steps:
                if not step.by_unit:
                    self._boxes[step.node] = self._interval(step)
                    if tighten and self._tightenable(step):
                        self._boxes[step.node] = self._tightened(step.node)
        self.passes += 2

    def box(self, node: fx.Node) -> Interval:
        """Least and largest value of every entry of a node, [N, ...] each."""
        if node in self._boxes:
            return self._boxes[node]
        if node in self.reach:
            found = self.reach[node]
            if self.torn:
                return found.low, found.high
            return torch.minimum(found.old, found.new), torch.maximum(found.old, found.new)
        value: Tensor = self.tail.values[node]
        return value, value

    def margins(self, labels: Tensor, rule: Rule) -> Tensor:
        """Lower bounds of the right class's output minus each other's, [N, outputs]; infinite at the right class.

        Args:
            labels: The right class of each sample, int64 [N].
            rule: How ReLUs are bounded.
        """
        outputs = self.tail.values[self.tail.output].shape[-1]
        unit = torch.eye(outputs, dtype=torch.float64)
        slopes = unit[labels][None] - unit[:, None]
        found = self.lower(self.tail.output, slopes, rule).T
        return found.masked_fill(unit[labels] > 0, torch.inf)

    def lower(self, node: fx.Node, slopes: Tensor, rule: Rule) -> Tensor:
        """Lower bounds of linear functions of a node, [S, N].

        Args:
            node: The node.
            slopes: S functions for each sample or for all, [S, N or 1, ...].
            rule: How ReLUs are bounded.
        """
        samples = len(self.tail.values[node])
        count = len(slopes)
        at: dict[fx.Node, Tensor] = {node: slopes.expand(count, samples, *slopes.shape[2:])}
        constant = torch.zeros(count, samples, dtype=torch.float64)
        with torch.no_grad():
            for step in reversed(self.tail.steps):
                if step.by_unit or step.node not in at:
                    continue
                slope = at.pop(step.node)
                passed, added = self._back(step, slope, rule)
                constant = constant + added
                for operand, value in passed:
                    at[operand] = at[operand] + value if operand in at else value
            self.passes += 2 * count
            return constant + self._least(at)

    def _least(self, at: Mapping[fx.Node, Tensor]) -> Tensor:
        """The least value of linear functions over all states of the units, [S, N]."""
        old = new = wide = torch.zeros(())
        for node, slope in at.items():
            flat = slope.reshape(*slope.shape[:2], self.units, -1)
            found = self.reach[node]
            values = [part.reshape(len(part), self.units, -1) for part in (found.old, found.new, found.low, found.high)]
            old = old + (flat * values[0]).sum(-1)
            new = new + (flat * values[1]).sum(-1)
            if self.torn:
                wide = wide + (flat.clamp(min=0) * values[2] + flat.clamp(max=0) * values[3]).sum(-1)
        if not at:
            return old
        whole = torch.minimum(old, new)
        least = whole.sum(-1)
        return least + (wide - whole).clamp(max=0).amin(-1) if self.torn else least

    def _back(self, step: Step, slope: Tensor, rule: Rule) -> tuple[list[tuple[fx.Node, Tensor]], Tensor]:
        """Slopes at a node's operands, and the constant that a lower bound gains there, [S, N]."""
        count, samples = slope.shape[:2]
        operand = step.varies[0]
        shape = tuple(self.tail.values[operand].shape[1:])
        if step.kind == "layer":
            passed = self.tail.transposed(step.node, slope.reshape(count * samples, *slope.shape[2:]), shape)
            bias = self.tail.layer_weights(step.node)[1]
            added = slope.new_zeros(count, samples)
            if bias is not None:
                by_unit = slope.flatten(3).sum(-1) if slope.ndim > 3 else slope
                added = by_unit @ bias
            return [(operand, passed.reshape(count, samples, *shape))], added
        if step.kind == "reshape":
            return [(operand, slope.reshape(count, samples, *shape))], slope.new_zeros(())
        if step.kind in ("sum", "difference"):
            return self._back_sum(step, slope)
        if step.kind == "join":
            return self._back_join(step, slope)
        if step.kind == "average":
            _, transpose = vjp(lambda value: self.tail.apply(step.node, {operand: value}),
                               slope.new_zeros(count * samples, *shape))[:2]  # fmt: skip
            (passed,) = transpose(slope.reshape(count * samples, *slope.shape[2:]))
            return [(operand, passed.reshape(count, samples, *shape))], slope.new_zeros(())
        rising, falling = slope.clamp(min=0), slope.clamp(max=0)
        if step.kind == "relu" and rule != "interval":
            low, high = self.box(operand)
            unsure = (low < 0) & (high > 0)
            on = (low >= 0).to(slope.dtype)
            upper = torch.where(unsure, high / (high - low).clamp(min=1e-300), on)
            if rule == "nearest":
                lower = torch.where(unsure, (high > -low).to(slope.dtype), on)
            else:
                lower = torch.where(unsure, torch.full_like(on, float(rule == "steep")), on)
            added = (falling * torch.where(unsure, -upper * low, torch.zeros_like(low))).flatten(2).sum(-1)
            return [(operand, rising * lower + falling * upper)], added
        if step.kind == "maximum" and rule != "interval":
            found = self._back_maximum(step, rising, falling)
            if found is not None:
                return found
        low, high = self.box(step.node)
        return [], (rising * low + falling * high).flatten(2).sum(-1)

    def _back_sum(self, step: Step, slope: Tensor) -> tuple[list[tuple[fx.Node, Tensor]], Tensor]:
        """Every operand of a sum gets the slope; what does not vary joins the constant."""
        sign = -1.0 if step.kind == "difference" else 1.0
        passed: list[tuple[fx.Node, Tensor]] = []
        added = slope.new_zeros(())
        for place, operand in enumerate(step.node.args[:2]):
            own = slope if place == 0 else sign * slope
            if isinstance(operand, fx.Node) and operand in step.varies:
                passed.append((operand, own))
            else:
                # What is added to an activation is another one, or a number.
                value: Any = self.tail.values[operand] if isinstance(operand, fx.Node) else operand
                added = added + (own * value).flatten(2).sum(-1)
        return passed, added

    def _back_join(self, step: Step, slope: Tensor) -> tuple[list[tuple[fx.Node, Tensor]], Tensor]:
        """Every operand of a concatenation gets its part of the slope."""
        listed = step.node.args[0] if step.node.args else step.node.kwargs["tensors"]
        dim = step.node.kwargs.get("dim", step.node.args[1] if len(step.node.args) > 1 else 0)
        assert isinstance(listed, list | tuple)
        assert isinstance(dim, int)
        values = [self.tail.values[one] for one in listed]
        dim %= values[0].ndim
        parts = slope.split([value.shape[dim] for value in values], dim + 1)
        passed: list[tuple[fx.Node, Tensor]] = []
        added = slope.new_zeros(())
        for operand, value, part in zip(listed, values, parts, strict=True):
            if operand in step.varies:
                passed.append((operand, part))
            else:
                added = added + (part * value).flatten(2).sum(-1)
        return passed, added

    def _back_maximum(
        self, step: Step, rising: Tensor, falling: Tensor
    ) -> tuple[list[tuple[fx.Node, Tensor]], Tensor] | None:
        """A maximum is at least its entry with the largest lower end, and that entry where no other can be larger."""
        inner = self.tail.modules.get(str(step.node.target))
        if not isinstance(inner, nn.MaxPool2d) or inner.ceil_mode or inner.return_indices:
            return None
        operand = step.varies[0]
        low, high = self.box(operand)
        best, places = F.max_pool2d(
            low, inner.kernel_size, inner.stride, inner.padding, inner.dilation, return_indices=True
        )
        _, top = self.box(step.node)
        # The others' largest end, read off windows in which the chosen entry has been taken out.
        windows = _windows(high, inner)
        chosen = _windows(torch.arange(prod(low.shape[2:]), dtype=high.dtype).reshape(1, 1, *low.shape[2:]), inner)
        others = windows.masked_fill(chosen == places.flatten(2)[:, :, None], -torch.inf).amax(2).view_as(best)
        sure = others <= best
        slope = rising + torch.where(sure, falling, torch.zeros_like(falling))
        added = (torch.where(sure, torch.zeros_like(falling), falling) * top).flatten(2).sum(-1)
        flat = slope.new_zeros(*slope.shape[:2], low.shape[1], prod(low.shape[2:]))
        index = places.flatten(2)[None].expand(len(slope), -1, -1, -1)
        flat.scatter_add_(3, index, slope.flatten(3))
        return [(operand, flat.reshape(*slope.shape[:2], *low.shape[1:]))], added

    def _interval(self, step: Step) -> Interval:
        """Interval of a node from those of its operands."""
        operand = step.varies[0]
        if step.kind == "layer":
            if operand in self.reach and getattr(self.tail.modules[str(step.node.target)], "groups", 1) == 1:
                return self._first_layer(step)
            low, high = self.box(operand)
            weight, bias = self.tail.layer_weights(step.node)
            middle = self.tail.linear(step.node, weight, bias, (low + high) / 2)
            radius = self.tail.linear(step.node, weight.abs(), None, (high - low) / 2)
            return middle - radius, middle + radius
        lows, highs = ({one: self.box(one)[end] for one in step.varies} for end in (0, 1))
        if step.kind == "difference" and step.node.args[1] in step.varies:
            second = step.node.args[1]
            assert isinstance(second, fx.Node)
            lows[second], highs[second] = highs[second], lows[second]
            if step.node.args[0] is second:  # x - x
                zero = torch.zeros_like(lows[second])
                return zero, zero
        return self.tail.apply(step.node, lows), self.tail.apply(step.node, highs)

    def _first_layer(self, step: Step) -> Interval:
        """Interval of a layer that reads the units: each is as before, as after, or, one of them, torn."""
        found = self.reach[step.varies[0]]
        weight, bias = self.tail.layer_weights(step.node)
        low = high = self.tail.linear(step.node, weight, bias, found.old)
        width = weight.shape[1] // self.units
        worst, best = torch.zeros_like(low), torch.zeros_like(low)
        for unit in self.rows:
            part = weight[:, unit * width : (unit + 1) * width]
            if not part.any():
                continue
            one = found.unit(unit, self.units)
            change = self.tail.linear(step.node, part, None, one.new - one.old)
            falls, rises = change.clamp(max=0), change.clamp(min=0)
            low, high = low + falls, high + rises
            if self.torn:
                middle = self.tail.linear(step.node, part, None, (one.low + one.high) / 2 - one.old)
                radius = self.tail.linear(step.node, part.abs(), None, (one.high - one.low) / 2)
                worst = torch.minimum(worst, middle - radius - falls)
                best = torch.maximum(best, middle + radius - rises)
        return low + worst, high + best

    def _tightenable(self, step: Step) -> bool:
        """Whether a node feeds something that bends, is small, and is not bounded exactly already."""
        first = step.kind == "layer" and step.varies[0] in self.reach
        bends = any(self._kinds[user].kind in ("relu", "maximum") for user in step.node.users if user in self._kinds)
        return bends and not first and self.tail.values[step.node][0].numel() <= TIGHTENED

    def _tightened(self, node: fx.Node) -> Interval:
        """Interval of a node, met with what backward bounds of each entry say."""
        low, high = self._boxes[node]
        shape = low.shape[1:]
        unit = torch.eye(shape.numel(), dtype=torch.float64)
        for part, place in zip(unit.split(SPECIFICATIONS), torch.arange(shape.numel()).split(SPECIFICATIONS),
                               strict=True):  # fmt: skip
            slopes = part.reshape(len(part), 1, *shape)
            flat_low, flat_high = low.flatten(1).clone(), high.flatten(1).clone()
            flat_low[:, place] = torch.maximum(flat_low[:, place], self.lower(node, slopes, "nearest").T)
            flat_high[:, place] = torch.minimum(flat_high[:, place], -self.lower(node, -slopes, "nearest").T)
            low, high = flat_low.view_as(low), flat_high.view_as(high)
        return low, high


def _windows(images: Tensor, pool: nn.MaxPool2d) -> Tensor:
    """Entries of every window, [N, channels, window, positions]; outside the image minus infinity."""
    down, right = pool.padding if isinstance(pool.padding, tuple) else (pool.padding, pool.padding)
    padded = F.pad(images, (right, right, down, down), value=-torch.inf)
    size = pool.kernel_size if isinstance(pool.kernel_size, tuple) else (pool.kernel_size, pool.kernel_size)
    # unfold multiplies nothing, but sums: infinities are safe in it, as each entry is moved alone.
    flat = F.unfold(padded.flatten(0, 1)[:, None], size, pool.dilation, 0, pool.stride)
    return flat.reshape(*images.shape[:2], prod(size), -1)
