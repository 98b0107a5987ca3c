"""Training a configuration until the layers behind read what they read in the dense network.

Only the part of the network in front of these layers runs, forward and backward. Where units are missing near the input
that is a small part, so that many samples are cheap; and what is compared has passed activation and pooling, so that
nothing is spent on values that the network throws away. The least squares of `planner.compensation` can do neither:
they fit pre-activations, for units as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from planner.cost import CostMeter
from planner.network import Layer, Network


class _Enough(Exception):
    """All that was wanted has been computed."""


def layers_behind(network: Network, layers: Iterable[Layer]) -> list[Layer]:
    """The layers that read the units of those given and are not among them, in forward order."""
    given = [*layers]
    names = {name for layer in given for name in layer.readers} - {layer.name for layer in given}
    return [layer for layer in network.layers if layer.name in names]


def share_in_front(network: Network, behind: Sequence[Layer]) -> float:
    """Share of the dense multiply-accumulates up to the last of some layers, none of them counted."""
    last = max(network.layers.index(layer) for layer in behind)
    front = sum(layer.macs for layer in network.layers[:last] if layer not in behind)
    return front / sum(layer.macs for layer in network.layers)


def read_by(module: nn.Module, behind: Sequence[Layer], inputs: Tensor) -> list[Tensor]:
    """What some layers read, each [N, ...]; nothing behind the last of them is computed.

    Args:
        module: The network, dense or narrow.
        behind: The layers.
        inputs: Shape [N, ...].
    """
    found: dict[str, Tensor] = {}

    def take(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            found[name] = arguments[0]
            if len(found) == len(behind):
                raise _Enough

        return hook

    hooks = [module.get_submodule(layer.name).register_forward_pre_hook(take(layer.name)) for layer in behind]
    try:
        module(inputs)
    except _Enough:
        return [found[layer.name] for layer in behind]
    finally:
        for one in hooks:
            one.remove()
    raise AssertionError("the network ended before all of its layers were asked")


def approach(
    network: Network,
    module: nn.Module,
    moving: Sequence[Tensor],
    behind: Sequence[Layer],
    batches: Iterable[Tensor],
    steps: int,
    *,
    rate: float,
    cost: CostMeter,
) -> None:
    """Train weights by Adam on the relative squared error of what the layers behind read; the weights are changed.

    Args:
        network: The dense network.
        module: The narrow one, from `planner.narrow`.
        moving: Those of its parameters that are trained.
        behind: Layers behind them, from `layers_behind`.
        batches: Inputs of each step.
        steps: Number of steps.
        rate: Highest learning rate; it rises over the first tenth of the steps and falls to zero.
        cost: Counts what is spent, by the share of the network that runs.
    """
    share = share_in_front(network, behind)
    optimiser = torch.optim.Adam(moving, rate)
    spent = CostMeter()
    for count, batch in enumerate(batches, start=1):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(10 * count / steps, 1.0) * (1 - (count - 1) / steps)
        with torch.no_grad():
            wanted = read_by(network.module, behind, batch)
        pairs = zip(read_by(module, behind, batch), wanted, strict=True)
        loss = torch.stack([(got - want).square().sum() / want.square().sum().clamp_min(1e-12) for got, want in pairs])
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        spent.forward(len(batch))
        spent.forward_backward(len(batch))
    cost.add(round(share * spent.forward_passes))
