"""The rival of figures 2A and 2B: iterative pruning with fine-tuning, unit by unit, as the paper describes it.

The filter of smallest norm is removed, the network is trained on labels for a share of the budget, then the next one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planner import augmentation
from planner.cost import CostMeter
from runtime.plan.samples import Samples

SHIFT = 4


@dataclass(frozen=True)
class Pruned:
    """What prune-train reached.

    Attributes:
        right: Removed filters to which test answers were right: just after a removal, and at the end.
        epochs: What it cost, in epoch-equivalents.
        seconds: What it took, looks at test images included.
    """

    right: dict[str, np.ndarray]
    epochs: float
    seconds: float


def prune_train(
    module: nn.Module,
    layer: str,
    remove: int,
    fit: Samples,
    test: Samples,
    *,
    epochs: float,
    rate: float,
    seed: int,
    looks: tuple[int, ...],
    batch: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    step: Callable[[str], None] = print,
) -> Pruned:
    """Remove filters of a convolution one by one, fine-tuning in between.

    Args:
        module: Trained network; it is copied.
        layer: The convolution.
        remove: Filters to remove.
        fit: Images to train on, mirrored and shifted by up to four pixels.
        test: Images to report on.
        epochs: Budget in passes over ``fit``; a half of it is spent between removals, a half after the last one.
        rate: Learning rate; it falls linearly to zero.
        seed: Seed of order and augmentation.
        looks: Numbers of removed filters just after which the test images are asked, beside the end.
        batch: Images a step.
        momentum: Of SGD, Nesterov's.
        weight_decay: Of SGD.
        step: Called with a line at each look.
    """
    begun = perf_counter()
    network = copy.deepcopy(module).eval()  # dropout off: the budget is too small for it to help
    network = network.to(memory_format=torch.channels_last)
    convolution = network.get_submodule(layer)
    assert isinstance(convolution, nn.Conv2d)
    mask = torch.ones(convolution.out_channels)
    optimiser = torch.optim.SGD(network.parameters(), rate, momentum, nesterov=True, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    steps = round(epochs * len(fit) / batch)
    cost, right, removed = CostMeter(), {}, 0
    for count in range(steps):
        wanted = min(remove, 1 + int(remove * 2 * count / steps))
        while removed < wanted:
            norms = convolution.weight.detach().flatten(1).norm(dim=1).masked_fill(mask == 0, torch.inf)
            mask[norms.argmin()] = 0
            removed += 1
            _apply(convolution, mask)
            if removed in looks:
                right[f"just after removing {removed}"] = _right(network, test)
                step(f"{removed} removed: {right[f'just after removing {removed}'].mean():.2%}")
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - count / steps)
        at = torch.randint(len(fit), (batch,), generator=generator).numpy()
        images = augmentation.mirrored(
            augmentation.shifted(torch.from_numpy(fit.inputs[at]), SHIFT, generator), generator
        )
        optimiser.zero_grad()
        # Products in bfloat16, as networks are trained where a processor has it; weights and sums stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(
                network(images.contiguous(memory_format=torch.channels_last)), torch.from_numpy(fit.labels[at])
            )
        loss.backward()
        optimiser.step()
        _apply(convolution, mask)
        cost.forward_backward(batch)
    right["end"] = _right(network, test)
    step(f"end: {right['end'].mean():.2%}")
    return Pruned(right, cost.epoch_equivalents(len(fit)), perf_counter() - begun)


def _apply(convolution: nn.Conv2d, mask: Tensor) -> None:
    with torch.no_grad():
        convolution.weight *= mask[:, None, None, None]
        if convolution.bias is not None:
            convolution.bias *= mask


def _right(network: nn.Module, test: Samples, batch: int = 250) -> np.ndarray:
    with torch.no_grad():
        parts = [network(torch.from_numpy(test.inputs[at : at + batch])).argmax(1) for at in range(0, len(test), batch)]
    return torch.cat(parts).numpy() == test.labels
