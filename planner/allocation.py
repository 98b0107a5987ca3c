"""How many units each layer loses, so that a network takes a given share of the dense one's multiply-accumulates.

One elimination a group of layers gives a curve: the error that its readers are left with after each removal, however
many are removed. From these curves the shares follow without another look at the data: take units away where one
multiply-accumulate saved costs the least error, until enough are saved. Every set on the way is nested in the next,
so a deeper mode lacks what a shallower one lacks, and more.

The sum of relative errors of pre-activations stands in for what the outputs lose. It ignores that errors of one layer
reach the next, which the refits of `planner.endpoint_search` correct on what each layer will really read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from device_profiles.errors import GeoshiftError
from planner.compensation import eliminate_jointly
from planner.cost import CostMeter
from planner.gram import collect
from planner.network import Layer, Network, removable
from planner.sweep import Reading

DAMPING = 1e-2
"""Ridge of the curves, relative to the mean diagonal of G. On VGG-11 with 1,000 images, held-out error chose it over
1e-4 and 1e-6 for each of the ten refits of a network of half the multiply-accumulates."""
POSITIONS = 8
"""Output positions drawn of each image: the curves compare layers, the refits that follow draw more."""
LEAST = 16
"""A layer keeps at least one unit in so many: curves end there."""
BLOCKS = 32
"""A layer loses a 32nd of its units at a time: the target is met to about one such block of one layer."""


class AllocationError(GeoshiftError):
    """A network cannot be brought to the share of its multiply-accumulates that is asked for.

    Attributes:
        least: The smallest share that can be had; None where it is not known.
    """

    def __init__(self, message: str, least: float | None = None) -> None:
        super().__init__(message)
        self.least = least


@dataclass(frozen=True)
class Curve:
    """What the units of one group cost.

    Attributes:
        order: Units in the order of their removal.
        errors: Sum of the readers' relative pre-activation errors after a refit, by how many units of `order` are
            gone, [len(order) + 1].
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]


def curves(
    network: Network,
    inputs: Tensor,
    *,
    damping: float = DAMPING,
    positions: int | None = POSITIONS,
    cost: CostMeter | None = None,
    step: Callable[[str], None] | None = None,
) -> dict[str, Curve]:
    """The error curve of every group whose units can be removed, each with all other layers dense.

    Args:
        network: The network.
        inputs: Calibration inputs, shape [N, ...].
        damping: Ridge, as in `planner.compensation.refit`.
        positions: Output positions drawn per input, None for all.
        cost: Counts the samples passed forward.
        step: Called with the name of each group before its curve is made.

    Returns:
        Curves by the first layer of each group, in forward order.
    """
    state = network.module.state_dict()
    found: dict[str, Curve] = {}
    for layer in removable(network):
        if step is not None:
            step(layer.name)
        readings: list[Reading] = []
        for reader in map(network.layer, layer.readers):
            stats = collect(network, reader, inputs, current=state, positions=positions, cost=cost)
            columns = torch.tensor([reader.columns_of(layer.group, [unit]) for unit in range(layer.units)])
            others = sorted(set(range(reader.columns)) - set(columns.flatten().tolist()))
            readings.append(Reading(stats, columns, torch.tensor(others, dtype=torch.long)))
        most = layer.units - max(1, layer.units // LEAST)
        sweep = eliminate_jointly(readings, most, damping=damping)
        found[layer.name] = Curve(sweep.order, (sweep.start_error, *sweep.errors))
    return found


def compact_macs(network: Network, counts: Mapping[str, int]) -> int:
    """Multiply-accumulates per sample of the physically smaller network.

    Args:
        network: The network.
        counts: Number of removed units by the first layer of each group; those that lose none may be left out.
    """
    return sum(layer.positions * units * columns for layer, units, columns in _sizes(network, counts))


def compact_weights(network: Network, counts: Mapping[str, int]) -> int:
    """Weights and biases of the physically smaller network; arguments as for `compact_macs`."""
    return sum(units * (columns + (layer.bias is not None)) for layer, units, columns in _sizes(network, counts))


def _sizes(network: Network, counts: Mapping[str, int]) -> Iterator[tuple[Layer, int, int]]:
    """Each layer with the units and the columns that are left of it."""
    for layer in network.layers:
        columns = layer.columns - sum(counts.get(one.group, 0) * one.columns_per_unit for one in layer.sources)
        yield layer, layer.units - counts.get(layer.group, 0), columns


def allocate(
    network: Network, found: Mapping[str, Curve], share: float, gone: Mapping[str, int], *, block: int = 1
) -> dict[str, int]:
    """Number of units to remove from each group, at the least sum of errors that a greedy search finds.

    Blocks are large steps: what the last ones took beyond the target is given back, dearest first.

    Args:
        network: The network.
        found: From `curves`.
        share: Multiply-accumulates that may be left, as a share of the dense network's.
        gone: Units that are removed already, by group; none of them comes back.
        block: Channels that the device computes together. Each convolution that loses filters here keeps whole
            blocks of them, since a block that is filled in part costs as much as a full one.

    Returns:
        Removed units by group, those of `gone` included; groups that lose none are left out.

    Raises:
        AllocationError: So few cannot be had; the message says how few can.
    """
    dense = compact_macs(network, {})
    steps = {name: _counts(network.layer(name), len(curve.order), block) for name, curve in found.items()}
    counts = {name: gone.get(name, 0) for name in found}
    now = compact_macs(network, counts)
    while now > share * dense:
        best: tuple[float, str, int, int] | None = None
        for name, curve in found.items():
            count = min((one for one in steps[name] if one > counts[name]), default=None)
            if count is None:
                continue
            left = compact_macs(network, {**counts, name: count})
            rise = max(curve.errors[count] - curve.errors[counts[name]], 0.0)
            if best is None or rise / (now - left) < best[0]:
                best = rise / (now - left), name, count, left
        if best is None:
            raise AllocationError(
                f"a mode of {share:.4g} of the dense network's multiply-accumulates: found at least {now / dense:.4g} "
                f"when every layer keeps one unit in {LEAST}{_and_blocks(block)}; expected a share above that: ask for "
                "less saving",
                least=now / dense,
            )
        _, name, counts[name], now = best
    while block > 1 and (back := _given_back(network, found, steps, counts, gone, share * dense)) is not None:
        counts |= back
    return {name: count for name, count in counts.items() if count}


def _counts(layer: Layer, most: int, block: int) -> tuple[int, ...]:
    """Numbers of units that a layer may lose, rising: steps of a 32nd, or such that whole blocks of channels stay."""
    if block > 1 and layer.role == "convolution":
        return tuple(count for count in range(1, most + 1) if (layer.units - count) % block == 0)
    step = max(1, layer.units // BLOCKS)
    return (*range(step, most, step), most) if most else ()


def _given_back(
    network: Network,
    found: Mapping[str, Curve],
    steps: Mapping[str, tuple[int, ...]],
    counts: Mapping[str, int],
    gone: Mapping[str, int],
    limit: float,
) -> dict[str, int] | None:
    """The one step back that lowers the error most and stays within the limit; None if there is none."""
    best: tuple[float, str, int] | None = None
    for name, curve in found.items():
        least = gone.get(name, 0)
        count = max((one for one in (0, *steps[name]) if least <= one < counts[name]), default=None)
        if count is None or compact_macs(network, {**counts, name: count}) > limit:
            continue
        saved = curve.errors[min(counts[name], len(curve.order))] - curve.errors[count]
        if saved > 0 and (best is None or saved > best[0]):
            best = saved, name, count
    return None if best is None else {best[1]: best[2]}


def _and_blocks(block: int) -> str:
    return f" and convolutions keep whole blocks of {block} filters" if block > 1 else ""
