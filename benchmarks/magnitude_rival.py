"""What a user would reach for instead: torch-pruning's magnitude pruning, fine-tuned on labels."""

from __future__ import annotations

import copy
import time
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
CUTS = {"over all layers": True, "in each layer": False}
"""Where units are compared by their magnitude: global pruning, and an equal share of each layer."""


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
    """Prune by magnitude, over all layers or in each, then fine-tune; what is best on images held apart.

    Args:
        module: The dense network.
        images: Training images.
        labels: Their labels.
        held: Training images that cut and rate are chosen on; what that takes is not charged to the budget.
        test: Test images, read for the figures alone.
        share: Multiply-accumulates that may be left.
        budget: Samples to fine-tune on, forward and backward.
        mirror: Whether images are mirrored at random.
        seed: Seed of the batches.

    Returns:
        Share of multiply-accumulates left, and drops in points after the cut and after fine-tuning, of the cut and the
        rate that were chosen; what was tried; seconds of it all, and of the run that was chosen.
    """
    begun = time.monotonic()
    steps = budget // BATCH
    networks: dict[str, nn.Module] = {}
    left: dict[str, float] = {}
    ends: dict[tuple[str, int], nn.Module] = {}
    tried: dict[tuple[str, int], float] = {}
    seconds: dict[tuple[str, int], float] = {}

    def tune(cut: str, at: int) -> None:
        since = time.monotonic()
        end = _tuned(networks[cut], images, labels, rate=RATES[at], steps=steps, mirror=mirror, seed=seed)
        seconds[cut, at] = time.monotonic() - since
        ends[cut, at] = end
        tried[cut, at] = float(_right(end, held).float().mean())
        console.print(f"seed {seed}, cut {cut}, rate {RATES[at]:g}: {tried[cut, at]:.2%} of the images held apart")

    for cut, everywhere in CUTS.items():
        networks[cut], left[cut] = _cut(module, images[:1], share, everywhere=everywhere)
        tune(cut, FIRST)
    cut, best = max(CUTS, key=lambda one: tried[one, FIRST]), FIRST
    while missing := {best - 1, best + 1} & set(range(len(RATES))) - {at for one, at in tried if one == cut}:
        for at in sorted(missing):
            tune(cut, at)
        best = max((at for one, at in tried if one == cut), key=lambda at: tried[cut, at])
    dense, pruned, tuned = (_right(one, test).float() for one in (module, networks[cut], ends[cut, best]))
    return {
        "cut": cut,
        "macs": left[cut],
        "rate": RATES[best],
        "tried": {
            name: {f"{RATES[at]:g}": tried[one, at] for one, at in sorted(tried) if one == name} for name in CUTS
        },
        "cut_drop_points": 100 * float((dense - pruned).mean()),
        "tuned_drop_points": 100 * float((dense - tuned).mean()),
        "samples": steps * BATCH,
        "seconds": time.monotonic() - begun,
        "seconds_of_the_chosen": seconds[cut, best],
    }


def _cut(module: nn.Module, sample: Tensor, share: float, *, everywhere: bool) -> tuple[nn.Module, float]:
    """A pruned copy, and the share of multiply-accumulates left."""
    module = copy.deepcopy(module)
    whole, _ = torch_pruning.utils.count_ops_and_params(module, sample)
    output = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    pruner = torch_pruning.pruner.MagnitudePruner(
        module, sample, torch_pruning.importance.MagnitudeImportance(p=2), global_pruning=everywhere,
        iterative_steps=200, pruning_ratio=0.95, max_pruning_ratio=0.9, ignored_layers=[output],
    )  # fmt: skip
    left = whole
    while left > share * whole:
        pruner.step()
        left, _ = torch_pruning.utils.count_ops_and_params(module, sample)
    return module, left / whole


def _tuned(
    pruned: nn.Module, images: Tensor, labels: Tensor, *, rate: float, steps: int, mirror: bool, seed: int
) -> nn.Module:
    """A fine-tuned copy: batch norms take their batches' statistics, and nothing is dropped out in so short a time."""
    module = copy.deepcopy(pruned)
    for layer in module.modules():
        layer.train(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d))
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
    return module.eval()


def _right(module: nn.Module, test: Samples) -> Tensor:
    images = torch.from_numpy(test.inputs)
    with torch.no_grad():
        outputs = torch.cat([module(images[at : at + 500]) for at in range(0, len(images), 500)])
    return outputs.argmax(1) == torch.from_numpy(test.labels)
