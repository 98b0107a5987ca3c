"""Network-level refinement: a compensated configuration is trained towards the dense network's outputs.

The refits of `planner.endpoint_search` match one layer at a time. What is left, the layers make up for together: the
physically smaller network is trained on the squared distance of its outputs from the dense network's, on inputs that
need no labels; where there are some, they may count too. Its divergence on inputs it is not trained on decides when to
stop, and what is kept; a refinement that never lowers it returns the configuration it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from device_profiles.errors import GeoshiftError
from planner import augmentation
from planner.approach import approach, layers_behind
from planner.cost import CostMeter
from planner.endpoint import EndPoint
from planner.narrow import narrow, widen
from planner.network import Network

_BATCH = 250  # inputs a forward pass where no gradient is taken


class RefineError(GeoshiftError):
    """A refinement cannot be run."""


@dataclass(frozen=True)
class Settings:
    """How a configuration is refined.

    Attributes:
        passes: Samples to train on, in passes over the inputs given.
        batch: Samples a step.
        rate: Highest learning rate of Adam; it rises over the first tenth of the steps and falls to zero. On VGG-11 at
            half its multiply-accumulates, 1e-5 took the divergence from 0.751 to 0.746 in 3,072 images; the first
            1,024 images of a schedule to 1e-4 raised it to 0.99. The digits network took 1e-3.
        checks: How often the divergence on the selection inputs is measured.
        patience: Checks without a new lowest divergence after which it stops.
        shift: Images are moved by up to this many pixels in each direction, and mirrored, anew in each step; None to
            leave inputs as they are, as anything that is not an image of a scene needs.
        approached: Samples to train on before that, in passes over the inputs given, until the layers behind read what
            they read in the dense network; see `planner.approach`. 0 for none.
        approach_rate: Highest learning rate of this.
        label_weight: What the cross-entropy of labels counts for beside the squared distance, where there are labels.
        seed: Seed of order and augmentation.
    """

    passes: float = 1.0
    batch: int = 64
    rate: float = 1e-5
    checks: int = 8
    patience: int = 3
    shift: int | None = None
    approached: float = 0.0
    approach_rate: float = 3e-3
    label_weight: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Refined:
    """A refined configuration.

    Attributes:
        end: The configuration at its lowest divergence.
        divergence: Root mean squared distance from the dense outputs on the selection inputs: at the start, after the
            approach if there was one, then at each check.
        samples: Samples trained on towards the outputs up to each of these.
        kept: Index of the one that was kept; 0 is the start.
    """

    end: EndPoint
    divergence: tuple[float, ...]
    samples: tuple[int, ...]
    kept: int


def refine(
    network: Network,
    end: EndPoint,
    inputs: Tensor,
    selection: Tensor,
    settings: Settings | None = None,
    *,
    labels: Tensor | None = None,
    layers: Collection[str] | None = None,
    cost: CostMeter | None = None,
    step: Callable[[str], None] | None = None,
) -> Refined:
    """Train a configuration towards the dense network's outputs.

    Only layers that lost units or make up for units before them are trained, or those named; the others stay bit for
    bit.

    Args:
        network: The dense network.
        end: The configuration to begin with.
        inputs: Inputs to train on, float32 [N, ...].
        selection: Inputs to stop by, float32 [M, ...], none of those above.
        settings: How.
        labels: Right classes of the inputs to train on, int64 [N]; needed where `Settings.label_weight` is not 0.
        layers: Names of the layers to train.
        cost: Counts what is spent: training, the dense network's outputs, checks. A sample passed through the smaller
            network counts like one through the dense network.
        step: Called with a line at each check.

    Raises:
        RefineError: The configuration lacks nothing, labels are wanted and missing, or the outputs became infinite.
    """
    how = settings or Settings()
    if how.label_weight and (labels is None or len(labels) != len(inputs)):
        found = "none" if labels is None else f"{len(labels)}"
        raise RefineError(
            f"labels: found {found}, expected one for each of {len(inputs)} inputs, or a label_weight of 0"
        )
    chosen = {*end.removed, *end.refits} if layers is None else {*layers}
    trained = [layer for layer in network.layers if layer.name in chosen]
    if not trained:
        raise RefineError(f"mode {end.mode!r}: found no layer that differs from the dense network; nothing to refine")
    meter = cost or CostMeter()
    module = narrow(network, end)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    names = [name for layer in trained for name in (layer.weight, layer.bias) if name is not None]
    moving: list[Tensor] = [module.get_parameter(name).requires_grad_(True) for name in names]
    target = _outputs(network.module, selection, meter)
    best = [parameter.detach().clone() for parameter in moving]
    divergence = [_distance(_outputs(module, selection, meter), target)]
    samples, kept = [0], 0
    behind = layers_behind(network, trained)
    if how.approached and behind:
        steps = max(1, round(how.approached * len(inputs) / how.batch))
        batches = _batches(inputs, how, steps)
        approach(
            network, module, moving, behind, (batch for batch, _ in batches), steps, rate=how.approach_rate, cost=meter
        )
        divergence.append(_distance(_outputs(module, selection, meter), target))
        samples.append(0)
        if divergence[1] < divergence[0]:
            kept, best = 1, [parameter.detach().clone() for parameter in moving]
    steps = max(1, round(how.passes * len(inputs) / how.batch))
    every = max(1, steps // how.checks)
    optimiser = torch.optim.Adam(moving, how.rate)
    for count, (batch, places) in enumerate(_batches(inputs, how, steps), start=1):
        for group in optimiser.param_groups:
            group["lr"] = how.rate * min(10 * count / steps, 1.0) * (1 - (count - 1) / steps)
        with torch.no_grad():
            wanted = network.module(batch)
        outputs = module(batch)
        loss = (outputs - wanted).square().sum(1).mean()
        if labels is not None and how.label_weight:
            loss = loss + how.label_weight * F.cross_entropy(outputs, labels[places])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        meter.forward(len(batch))
        meter.forward_backward(len(batch))
        if count % every and count < steps:
            continue
        divergence.append(_distance(_outputs(module, selection, meter), target))
        samples.append(count * how.batch)
        if step is not None:
            step(f"{samples[-1]} samples: divergence {divergence[-1]:.4f}, at first {divergence[0]:.4f}")
        if divergence[-1] < divergence[kept]:
            kept, best = len(divergence) - 1, [parameter.detach().clone() for parameter in moving]
        elif not divergence[-1] < float("inf"):
            raise RefineError(
                f"mode {end.mode!r}: the outputs are not finite after {samples[-1]} samples; expected a falling "
                f"divergence: lower the learning rate {how.rate:g}"
            )
        elif len(divergence) - 1 - kept >= how.patience:
            break
    if not kept:
        return Refined(end, tuple(divergence), tuple(samples), 0)
    with torch.no_grad():
        for weight, value in zip(moving, best, strict=True):
            weight.copy_(value)
    wide = widen(network, end, module)
    tensors = {name: wide[name] if name in set(names) else tensor for name, tensor in end.tensors.items()}
    return Refined(replace(end, tensors=tensors), tuple(divergence), tuple(samples), kept)


def _batches(inputs: Tensor, how: Settings, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in random order, pass after pass, and the places of their inputs."""
    generator = torch.Generator().manual_seed(how.seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < how.batch:
            order = torch.cat([order, torch.randperm(len(inputs), generator=generator)])
        places, order = order[: how.batch], order[how.batch :]
        batch = inputs[places]
        if how.shift is not None:
            batch = augmentation.mirrored(augmentation.shifted(batch, how.shift, generator), generator)
        yield batch, places


def _outputs(module: nn.Module, inputs: Tensor, cost: CostMeter) -> Tensor:
    cost.forward(len(inputs))
    with torch.no_grad():
        return torch.cat([module(inputs[at : at + _BATCH]) for at in range(0, len(inputs), _BATCH)])


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).double().square().sum(1).mean().sqrt())
