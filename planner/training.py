"""Train a network: the same weights from the same seed, also when stopped half-way and resumed."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from device_profiles.errors import GeoshiftError
from planner import augmentation, checkpoint, partial_run, twin
from planner.datasets import Dataset, fingerprint, split
from planner.partial_run import Epoch, TrainingError
from planner.recipes import Recipe, recipe_for
from planner.threads import threads as computing_threads

__all__ = ["Epoch", "TrainingError", "TrainingInterrupted", "TrainingResult", "accuracy", "recipe_for", "train"]

MOMENTUM = 0.9
WARM_UP = 0.2  # share of the steps in which the rate rises; the rest lowers it to zero
EVALUATION_BATCH = 1000


class TrainingInterrupted(GeoshiftError):
    """Training was stopped from the keyboard; what is done so far can be resumed."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained network.

    Attributes:
        path: Its checkpoint.
        epochs: Every pass, those before a resumption included.
        test_accuracy: Share of the test images that are answered correctly by the end point; read once.
        seconds: Time of all passes.
        samples: Images passed forward and backward.
        resumed_after: Number of epochs that came from an interrupted run.
    """

    path: Path
    epochs: tuple[Epoch, ...]
    test_accuracy: float
    seconds: float
    samples: int
    resumed_after: int


def train(
    module: nn.Module,
    dataset: Dataset,
    *,
    definition: str,
    epochs: int,
    seed: int,
    batch_size: int,
    learning_rate: float,
    out: Path,
    fit_indices: np.ndarray,
    selection_indices: np.ndarray,
    weight_decay: float = Recipe.weight_decay,
    shift: int = Recipe.shift,
    threads: int | None = None,
    flip: bool | None = None,
    batch_norm: bool | None = None,
    bfloat16: bool | None = None,
    progress: Callable[[Epoch], None] | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Train with Nesterov momentum under a rate that rises and falls once, and write the end point to `out`.

    Each epoch's order, shifts and dropout come from (seed, epoch) alone, and its end is kept in `<out>.partial`: a
    resumed run ends in the same bits as one that was never stopped. The end point is the last one; nothing is chosen,
    and the test images are read once, at the end.

    Args:
        module: Network to train, in place; left in evaluation mode.
        dataset: Where the images come from.
        definition: What `module` was built from; goes into the checkpoint.
        epochs: Passes over the images to fit on.
        seed: Seed of order, shifts and dropout. The fresh weights come from `models.build`.
        batch_size: Images a step, at most.
        learning_rate: Its highest value.
        out: Checkpoint to write; its folder has to exist.
        fit_indices: Images of `train_x` to fit on.
        selection_indices: Images of `train_x` for the accuracy after each epoch; none of those to fit on.
        weight_decay: Coefficient of the squared weights in the loss.
        shift: Largest random move of an image in pixels.
        threads: Threads PyTorch computes with, 0 for its own choice, None for the recipe's. Another number gives other
            last bits.
        flip: Mirror half of the images; None for the recipe's choice.
        batch_norm: Train a twin with batch norm and fold it into `module` at the end; None for the recipe's choice.
        bfloat16: Multiply in bfloat16; None for the recipe's choice.
        progress: Called after each epoch, when its partial checkpoint is safe.
        resume: Go on from `<out>.partial` instead of starting.

    Returns:
        Accuracies, time and samples.

    Raises:
        TrainingError: An argument or the partial checkpoint does not fit, or the loss is no longer finite.
        TrainingInterrupted: Stopped from the keyboard; says after which epoch and how to go on.
    """
    usual = recipe_for(definition, dataset.name)
    recipe = Recipe(
        epochs, batch_size, learning_rate, weight_decay, shift,
        usual.threads if threads is None else threads,
        usual.flip if flip is None else flip,
        usual.batch_norm if batch_norm is None else batch_norm,
        usual.bfloat16 if bfloat16 is None else bfloat16,
    )  # fmt: skip
    _check_recipe(recipe, seed)
    _check_indices(dataset, fit_indices, selection_indices)
    _check_outputs(module, definition, dataset)
    if not out.parent.is_dir() or out.is_dir():
        raise TrainingError(f"{out}: expected a file in a folder that exists; create {out.parent} or choose another")
    partial = out.with_name(f"{out.name}.partial")
    if recipe.batch_norm and (bare := twin.without_bias(module)):
        raise TrainingError(
            f"{definition}: found no bias in {', '.join(bare)}, expected one to fold a batch norm into; train it "
            "without batch_norm, or give the convolutions a bias"
        )
    trainee = twin.normalised(module) if recipe.batch_norm else module
    with computing_threads(recipe.threads):
        settings = {
            "definition": definition,
            "dataset": dataset.name,
            "data": fingerprint(dataset),
            "images to fit on": _digest(fit_indices),
            "selection images": _digest(selection_indices),
            "fresh weights": _state_digest(module),
            "seed": str(seed),
            **{name.replace("_", " "): repr(value) for name, value in asdict(recipe).items()},
            "threads": str(torch.get_num_threads()),
        }
        optimizer = torch.optim.SGD(
            trainee.parameters(), lr=learning_rate, momentum=MOMENTUM, weight_decay=weight_decay, nesterov=True
        )
        history = partial_run.resume(partial, trainee, optimizer, settings) if resume else partial_run.start(partial)
        resumed_after = len(history)
        fit = _tensors(dataset.train_x[fit_indices], dataset.train_y[fit_indices])
        held = _tensors(dataset.train_x[selection_indices], dataset.train_y[selection_indices])
        try:
            while len(history) < epochs:
                began = time.perf_counter()
                loss = _pass(trainee, optimizer, *fit, recipe, seed, len(history) + 1)
                right = accuracy(trainee, *held)
                epoch = Epoch(len(history) + 1, epochs, loss, right, time.perf_counter() - began)
                partial_run.keep(partial, trainee, optimizer, settings, [*history, epoch])
                history.append(epoch)
                if progress is not None:
                    progress(epoch)
            if trainee is not module:
                twin.fold_into(module, trainee)
            result = TrainingResult(
                path=out,
                epochs=tuple(history),
                test_accuracy=accuracy(module, *_tensors(dataset.test_x, dataset.test_y)),
                seconds=sum(epoch.seconds for epoch in history),
                samples=epochs * len(fit_indices),
                resumed_after=resumed_after,
            )
            checkpoint.save(out, module, _metadata(settings, result))
            partial.unlink()
        except TrainingError:
            partial.unlink(missing_ok=True)  # resumed, it would diverge again
            raise
        except KeyboardInterrupt as stop:
            raise TrainingInterrupted(partial_run.interruption(partial, len(history), epochs)) from stop
    return result


def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images [N, ...] whose largest output is at their label [N]; `module` is left in evaluation mode."""
    module.eval()
    with torch.no_grad():
        right = sum(
            int((module(x).argmax(1) == y).sum())
            for x, y in zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True)
        )
    return right / len(labels)


def _pass(
    module: nn.Module,
    optimizer: torch.optim.SGD,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    seed: int,
    number: int,
) -> float:
    """One epoch, counted from 1; returns the mean loss over its images."""
    module.train()
    steps = math.ceil(len(labels) / recipe.batch_size)
    order, dropout = (int(word) for word in np.random.SeedSequence([seed, number]).generate_state(2))
    generator = torch.Generator().manual_seed(order)
    total = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(dropout)  # dropout draws from the global generator
        # batches of nearly equal size: a last one of a single image would break batch normalisation
        for step, batch in enumerate(torch.randperm(len(labels), generator=generator).tensor_split(steps)):
            done = (step + 1 + (number - 1) * steps) / (recipe.epochs * steps)
            rate = recipe.learning_rate * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            seen = augmentation.shifted(images[batch], recipe.shift, generator)
            if recipe.flip:
                seen = augmentation.mirrored(seen, generator)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bfloat16):
                loss = functional.cross_entropy(module(seen), labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    mean = total / len(labels)
    if not math.isfinite(mean):
        raise TrainingError(
            f"training diverged in epoch {number}: the loss is {mean}, expected a finite one; lower the learning rate "
            f"from {recipe.learning_rate}"
        )
    return mean


def _metadata(settings: dict[str, str], result: TrainingResult) -> dict[str, str]:
    """What a checkpoint says about itself."""
    digests = ("data", "images to fit on", "fresh weights")
    return {
        **{name: value for name, value in settings.items() if name not in digests},
        "accuracy": repr(result.test_accuracy),
        "selection accuracy": repr(result.epochs[-1].selection_accuracy),
    }


def check_selection(metadata: Mapping[str, str], dataset: Dataset, seed: int, selection: int) -> None:
    """Check that weights were not fitted on the images that are to be chosen by.

    Args:
        metadata: What the checkpoint says about itself; nothing is known of one that `train` did not write.
        dataset: The data.
        seed: Seed of the split.
        selection: Number of images to choose by.

    Raises:
        TrainingError: They were put aside from another split.
    """
    found = metadata.get("selection images")
    if found is not None and metadata.get("dataset") == dataset.name:
        expected = _digest(split(dataset, seed, selection)[1])
        if found != expected:
            raise TrainingError(
                f"weights trained with seed {metadata.get('seed')}: found that other images were put aside than seed "
                f"{seed} and a selection of {selection} put aside; expected the same, or paths are chosen on images "
                "the network was trained on: use the --seed and --selection of the training"
            )


def _check_recipe(recipe: Recipe, seed: int) -> None:
    least = {"epochs": 1, "batch_size": 1, "shift": 0, "threads": 0, "weight_decay": 0.0}
    for name, value in {**{name: getattr(recipe, name) for name in least}, "seed": seed}.items():
        if not least.get(name, 0) <= value < math.inf:
            raise TrainingError(f"{name.replace('_', ' ')} is {value}, expected {least.get(name, 0)} or more")
    if not 0 < recipe.learning_rate < math.inf:
        raise TrainingError(f"learning rate is {recipe.learning_rate}, expected a positive number")


def _check_indices(dataset: Dataset, fit: np.ndarray, selection: np.ndarray) -> None:
    size = len(dataset.train_y)
    for what, indices in (("images to fit on", fit), ("selection images", selection)):
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= size:
            raise TrainingError(f"{what}: {len(indices)} indices, expected one or more, each from 0 to {size - 1}")
    if len(common := np.intersect1d(fit, selection)):
        raise TrainingError(f"{len(common)} images are both to fit on and to select by, expected none")


def _check_outputs(module: nn.Module, definition: str, dataset: Dataset) -> None:
    """Find out before an hour's work whether network and data fit."""
    images = torch.from_numpy(dataset.train_x[:2])
    module.eval()
    try:
        with torch.no_grad():
            outputs = module(images)
    except RuntimeError as cause:
        raise TrainingError(
            f"{definition} cannot read the images of {dataset.name}, of shape {list(images.shape[1:])}: {cause}"
        ) from cause
    found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    expected = [len(images), len(dataset.labels)]
    if found != expected:
        raise TrainingError(
            f"{definition} answers {len(images)} images of {dataset.name} with {found}, expected a tensor of shape "
            f"{expected}: one output a class"
        )


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images), torch.from_numpy(labels)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.int64).data).hexdigest()


def _state_digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.numpy(force=True)).tobytes())
    return digest.hexdigest()
