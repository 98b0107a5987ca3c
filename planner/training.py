"""Train a network: the same weights from the same seed, also when stopped half-way and resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from device_profiles.errors import GeoshiftError
from planner import checkpoint
from planner.datasets import Dataset, fingerprint

PARTIAL_FORMAT = "geoshift.training/1"
MOMENTUM = 0.9
WARM_UP = 0.2  # share of the steps in which the rate rises; the rest lowers it to zero
EVALUATION_BATCH = 1000


class TrainingError(GeoshiftError):
    """Training cannot begin, cannot be resumed, or diverged."""


class TrainingInterrupted(GeoshiftError):
    """Training was stopped from the keyboard; what is done so far can be resumed."""


@dataclass(frozen=True)
class Recipe:
    """How to train one network on one data set.

    Attributes:
        epochs: Passes over the images to fit on.
        batch_size: Images a step.
        learning_rate: Its highest value; it rises from zero and returns there.
        weight_decay: Coefficient of the squared weights in the loss.
        shift: Each image is moved by up to this many pixels in each direction, anew in each epoch; 0 for none.
        threads: Threads PyTorch computes with; 0 leaves its own choice.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 5e-4
    shift: int = 0
    threads: int = 0


GENERIC = Recipe(epochs=10, batch_size=64, learning_rate=0.02)
# Chosen by selection accuracy. Steps of the digits network are too short to share: on two busy cores two threads
# took 35 s where one took 2 s.
RECIPES: dict[tuple[str, str], Recipe] = {
    ("digits-cnn", "digits"): Recipe(epochs=30, batch_size=32, learning_rate=0.1, threads=1),
    ("lenet5", "mnist"): Recipe(epochs=4, batch_size=128, learning_rate=0.1, shift=2),
}


@dataclass(frozen=True)
class Epoch:
    """What one pass over the data came to.

    Attributes:
        number: Counted from 1.
        of: Number of epochs in all.
        loss: Mean cross-entropy over the pass.
        selection_accuracy: Share of the selection images that are answered correctly after it.
        seconds: Time it took.
    """

    number: int
    of: int
    loss: float
    selection_accuracy: float
    seconds: float


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


def recipe_for(definition: str, dataset_name: str) -> Recipe:
    """The recipe measured for this pair, else `GENERIC`."""
    return RECIPES.get((definition, dataset_name), GENERIC)


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
    threads: int = Recipe.threads,
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
        threads: Threads PyTorch computes with, 0 for its own choice. Another number gives other last bits.
        progress: Called after each epoch, when its partial checkpoint is safe.
        resume: Go on from `<out>.partial` instead of starting.

    Returns:
        Accuracies, time and samples.

    Raises:
        TrainingError: An argument or the partial checkpoint does not fit, or the loss is no longer finite.
        TrainingInterrupted: Stopped from the keyboard; says after which epoch and how to go on.
    """
    partial = out.with_name(f"{out.name}.partial")
    with _threads(threads):
        settings = {
            "definition": definition,
            "dataset": dataset.name,
            "data": fingerprint(dataset),
            "images to fit on": _digest(fit_indices),
            "selection images": _digest(selection_indices),
            "fresh weights": _digest(*(tensor.detach().cpu().numpy() for tensor in module.state_dict().values())),
            "seed": str(seed),
            "epochs": str(epochs),
            "batch size": str(batch_size),
            "learning rate": repr(learning_rate),
            "weight decay": repr(weight_decay),
            "shift": str(shift),
            "threads": str(torch.get_num_threads()),
        }
        _check(dataset, out, fit_indices, selection_indices, epochs, seed, batch_size, learning_rate, shift)
        optimizer = torch.optim.SGD(
            module.parameters(), lr=learning_rate, momentum=MOMENTUM, weight_decay=weight_decay, nesterov=True
        )
        history = _resume(partial, module, optimizer, settings) if resume else _start(partial)
        resumed_after = len(history)
        fit_x, fit_y = _tensors(dataset.train_x, dataset.train_y, fit_indices)
        try:
            while len(history) < epochs:
                began = time.perf_counter()
                number = len(history) + 1
                loss = _pass(module, optimizer, fit_x, fit_y, number, epochs, seed, batch_size, learning_rate, shift)
                held_out = accuracy(module, *_tensors(dataset.train_x, dataset.train_y, selection_indices))
                epoch = Epoch(number, epochs, loss, held_out, time.perf_counter() - began)
                _keep(partial, module, optimizer, settings, [*history, epoch])
                history.append(epoch)
                if progress is not None:
                    progress(epoch)
            test_accuracy = accuracy(module, torch.from_numpy(dataset.test_x), torch.from_numpy(dataset.test_y))
            result = TrainingResult(
                path=out,
                epochs=tuple(history),
                test_accuracy=test_accuracy,
                seconds=sum(epoch.seconds for epoch in history),
                samples=epochs * len(fit_indices),
                resumed_after=resumed_after,
            )
            checkpoint.save(out, module, _metadata(settings, result))
        except KeyboardInterrupt as stop:
            raise TrainingInterrupted(_interruption(partial, len(history), epochs)) from stop
    partial.unlink()
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
    number: int,
    epochs: int,
    seed: int,
    batch_size: int,
    learning_rate: float,
    shift: int,
) -> float:
    """One epoch; returns the mean loss over its images."""
    module.train()
    steps = math.ceil(len(labels) / batch_size)
    own, dropout = (int(word) for word in np.random.SeedSequence([seed, number]).generate_state(2))
    generator = torch.Generator().manual_seed(own)
    total = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(dropout)  # dropout draws from the global generator
        # batches of nearly equal size: a last one of a single image would break batch normalisation
        for step, batch in enumerate(torch.randperm(len(labels), generator=generator).tensor_split(steps)):
            done = (step + 1 + (number - 1) * steps) / (epochs * steps)
            optimizer.param_groups[0]["lr"] = learning_rate * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
            optimizer.zero_grad()
            loss = functional.cross_entropy(module(_shifted(images[batch], shift, generator)), labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    mean = total / len(labels)
    if not math.isfinite(mean):
        raise TrainingError(
            f"training diverged in epoch {number}: the loss is {mean}, expected a finite one; lower the learning rate "
            f"from {learning_rate}"
        )
    return mean


def _shifted(images: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Each image [N, C, H, W] moved by up to `largest` pixels each way; its border is repeated into the gap."""
    if largest == 0:
        return images
    count, _, height, width = images.shape
    padded = functional.pad(images, [largest] * 4, mode="replicate")
    down, right = torch.randint(0, 2 * largest + 1, (2, count, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    # indexing puts the channels last: [N, H, W, C]
    moved = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _keep(
    partial: Path, module: nn.Module, optimizer: torch.optim.SGD, settings: dict[str, str], history: list[Epoch]
) -> None:
    """Write the state after an epoch: weights, momentum, settings and history."""
    tensors = {f"weights.{name}": tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        if (momentum := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None:
            tensors[f"momentum.{name}"] = momentum
    words = {**settings, "format": PARTIAL_FORMAT, "history": json.dumps([asdict(epoch) for epoch in history])}
    checkpoint.write_tensors(partial, tensors, words)


def _start(partial: Path) -> list[Epoch]:
    if partial.exists():
        raise TrainingError(
            f"{partial} is there from an interrupted run: go on from it with --resume, or delete it to start anew"
        )
    return []


def _resume(
    partial: Path, module: nn.Module, optimizer: torch.optim.SGD, settings: dict[str, str]
) -> list[Epoch]:
    """Put weights and momentum back and return the epochs done."""
    if not partial.exists():
        raise TrainingError(f"{partial}: there is no interrupted run to resume; run without --resume to start one")
    tensors, words = checkpoint.read_tensors(partial)
    if words.get("format") != PARTIAL_FORMAT:
        raise TrainingError(f"{partial}: its format is {words.get('format')!r}, expected {PARTIAL_FORMAT!r}; delete it")
    different = [
        f"{name} is {value}, was {words.get(name)}" for name, value in settings.items() if words.get(name) != value
    ]
    if different:
        raise TrainingError(
            f"{partial} belongs to another run: {'; '.join(different)}. Use the same arguments, or delete it to start anew"
        )
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    module.load_state_dict(weights)
    for name, parameter in module.named_parameters():
        if (momentum := tensors.get(f"momentum.{name}")) is not None:
            optimizer.state[parameter]["momentum_buffer"] = momentum
    return [Epoch(**epoch) for epoch in json.loads(words["history"])]


def _check(
    dataset: Dataset,
    out: Path,
    fit: np.ndarray,
    selection: np.ndarray,
    epochs: int,
    seed: int,
    batch_size: int,
    learning_rate: float,
    shift: int,
) -> None:
    for what, value, least in (("epochs", epochs, 1), ("seed", seed, 0), ("batch size", batch_size, 2), ("shift", shift, 0)):
        if value < least:
            raise TrainingError(f"{what} is {value}, expected at least {least}")
    if not 0 < learning_rate < math.inf:
        raise TrainingError(f"learning rate is {learning_rate}, expected a positive number")
    for what, indices in (("images to fit on", fit), ("selection images", selection)):
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= len(dataset.train_y):
            raise TrainingError(
                f"{what}: {len(indices)} indices, expected at least one, all within the {len(dataset.train_y)} training images"
            )
    if len(common := np.intersect1d(fit, selection)):
        raise TrainingError(f"{len(common)} images are both to fit on and to select by, expected none: use datasets.split")
    if not out.parent.is_dir() or out.is_dir():
        raise TrainingError(f"{out}: expected a file name in a folder that exists; create {out.parent} or choose another")
