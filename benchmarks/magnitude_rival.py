"""What a user would reach for instead: torch-pruning's global magnitude pruning, fine-tuned on labels."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning
from rich.console import Console
from torch import Tensor, nn

from runtime.plan.samples import Samples

console = Console(stderr=True)
BATCH = 64
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Highest learning rates of Adam; each rises over the first tenth of the steps and falls to zero."""
FIRST = 3
"""Which of them is tried first. Both neighbours of the best are tried too, so that the best is not one at an edge."""


def prune_and_tune(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    held: Samples,
    test: Samples,
    *,
    share: float,
    budget: int,
    mirror: bool,
    seed: int,
) -> dict[str, Any]:
    """Prune globally by magnitude, then fine-tune at the rate that is best on images held apart.

    Args:
        module: The dense network; it is changed.
        images: Training images.
        labels: Their labels.
        held: Training images that the rate is chosen on; what that takes is not charged to the budget.
        test: Test images, read for the figures alone.
        share: Multiply-accumulates that may be left.
        budget: Samples to fine-tune on, forward and backward.
        mirror: Whether images are mirrored at random.
        seed: Seed of the batches.

    Returns:
        Share of multiply-accumulates left, and drops in points after the cut and after fine-tuning.
    """
    sample = images[:1]
    dense = _right(module, test)
    whole, _ = torch_pruning.utils.count_ops_and_params(module, sample)
    output = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    pruner = torch_pruning.pruner.MagnitudePruner(
        module, sample, torch_pruning.importance.MagnitudeImportance(p=2), global_pruning=True, iterative_steps=200,
        pruning_ratio=0.95, max_pruning_ratio=0.9, ignored_layers=[output],
    )  # fmt: skip
    left = whole
    while left > share * whole:
        pruner.step()
        left, _ = torch_pruning.utils.count_ops_and_params(module, sample)
    cut = _right(module, test)
    steps = budget // BATCH
    ends: dict[int, nn.Module] = {}
    tried: dict[int, float] = {}
    best = FIRST
    while untried := {best - 1, best, best + 1} & set(range(len(RATES))) - set(tried):
        for at in sorted(untried):
            ends[at] = _tuned(module, images, labels, rate=RATES[at], steps=steps, mirror=mirror, seed=seed)
            tried[at] = float(_right(ends[at], held).float().mean())
            console.print(f"seed {seed}, rate {RATES[at]:g}: {tried[at]:.2%} of the images held apart")
        best = max(tried, key=lambda at: tried[at])
    tuned = _right(ends[best], test)
    return {
        "macs": left / whole,
        "rate": RATES[best],
        "tried": {f"{RATES[at]:g}": tried[at] for at in sorted(tried)},
        "cut_drop_points": 100 * float((dense.float() - cut.float()).mean()),
        "tuned_drop_points": 100 * float((dense.float() - tuned.float()).mean()),
        "samples": steps * BATCH,
    }


def _tuned(
    pruned: nn.Module, images: Tensor, labels: Tensor, *, rate: float, steps: int, mirror: bool, seed: int
) -> nn.Module:
    """A fine-tuned copy."""
    module = copy.deepcopy(pruned)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(module.parameters(), rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(10 * (step + 1) / steps, 1.0) * (1 - step / steps)
        chosen = torch.randint(0, len(images), (BATCH,), generator=generator)
        batch = images[chosen]
        if mirror:
            mirrored = torch.rand(BATCH, generator=generator) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        loss = F.cross_entropy(module(batch), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return module


def _right(module: nn.Module, test: Samples) -> Tensor:
    images = torch.from_numpy(test.inputs)
    with torch.no_grad():
        outputs = torch.cat([module(images[at : at + 500]) for at in range(0, len(images), 500)])
    return outputs.argmax(1) == torch.from_numpy(test.labels)
