"""The trained networks that benchmarks measure: trained once, then read from the cache.

Networks are fitted without the images that a benchmark chooses by: `fit_and_selection` gives both parts.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from planner import checkpoint, models
from planner.datasets import Dataset, split
from planner.image_files import cache_directory
from planner.recipes import recipe_for
from planner.training import accuracy, train

STORED = Path(__file__).parent / "checkpoints"  # float16, where a network is small and slow to train
STORED_SEED = 0
SELECTION = {"digits": 400}  # training images put aside to choose by
SELECTION_ELSEWHERE = 5000
VGG11_VARIABLE = "GEOSHIFT_VGG11"
console = Console(stderr=True)


def trained(definition: str, dataset: Dataset, seed: int = 0, *, selection: int | None = None) -> nn.Module:
    """The network trained by its recipe on the part to fit on: stored here, from the cache, or trained and cached.

    Args:
        definition: A name of `planner.models.BUILTIN`.
        dataset: What it is trained on.
        seed: Seed of fresh weights, of the split and of the training.
        selection: Training images put aside; by default as many as `fit_and_selection` puts aside.

    Returns:
        The network in eval mode.
    """
    size = selection_size(dataset) if selection is None else selection
    path = STORED / f"{definition}-{dataset.name}.safetensors"
    if not path.exists() or seed != STORED_SEED or size != selection_size(dataset):
        path = cache_directory() / "benchmarks" / f"{definition}-{dataset.name}-{size}-seed{seed}.safetensors"
    if not path.exists():
        _train(definition, dataset, seed, size, path)
    module = models.build(definition, seed=seed)
    checkpoint.load(path, module)
    return module.eval()


def store(definition: str, dataset: Dataset) -> float:
    """Put a trained network beside the benchmarks, in float16; returns the test accuracy of what was put there."""
    module = trained(definition, dataset, STORED_SEED)
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in module.state_dict().items()
    }
    size = selection_size(dataset)
    held = fit_and_selection(dataset, STORED_SEED)[1]
    module.load_state_dict(half)
    right = accuracy(module, torch.from_numpy(dataset.test_x), torch.from_numpy(dataset.test_y))
    STORED.mkdir(exist_ok=True)
    words = {
        "format": checkpoint.FORMAT, "definition": definition, "dataset": dataset.name, "seed": str(STORED_SEED),
        "accuracy": repr(right), "selection": str(size),
        "selection images": hashlib.sha256(np.ascontiguousarray(held, dtype=np.int64).data).hexdigest(),
    }  # fmt: skip
    checkpoint.write_tensors(STORED / f"{definition}-{dataset.name}.safetensors", half, words)
    return right


def vgg11(dataset: Dataset, seed: int = 0) -> nn.Module:
    """VGG-11 for CIFAR-10 in eval mode: the checkpoint `$GEOSHIFT_VGG11` if that is set, else the one of `trained`."""
    if not (own := os.environ.get(VGG11_VARIABLE)):
        return trained("vgg11", dataset, seed)
    module = models.build("vgg11", seed=seed)
    checkpoint.load(Path(own).expanduser(), module)
    return module.eval()


def fit_and_selection(dataset: Dataset, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices into `train_x`: what `trained` fits on, and what is left to choose by."""
    return split(dataset, seed, selection_size(dataset))


def selection_size(dataset: Dataset) -> int:
    """Number of training images put aside to choose by."""
    return SELECTION.get(dataset.name, SELECTION_ELSEWHERE)


def _train(definition: str, dataset: Dataset, seed: int, selection: int, path: Path) -> None:
    recipe = recipe_for(definition, dataset.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fit, held = split(dataset, seed, selection)
    partial = path.with_name(f"{path.name}.partial")
    console.print(f"training {definition} on {dataset.name}, seed {seed}")
    result = train(
        models.build(definition, seed=seed), dataset, definition=definition, epochs=recipe.epochs, seed=seed,
        batch_size=recipe.batch_size, learning_rate=recipe.learning_rate, out=path, fit_indices=fit,
        selection_indices=held, weight_decay=recipe.weight_decay, shift=recipe.shift, resume=partial.exists(),
        progress=lambda epoch: console.print(
            f"  epoch {epoch.number} of {epoch.of}: loss {epoch.loss:.3f}, selection {epoch.selection_accuracy:.2%}, "
            f"{epoch.seconds:.0f} s"
        ),
    )  # fmt: skip
    console.print(f"{path}: {result.test_accuracy:.2%} of the test images after {result.seconds:.0f} s")
