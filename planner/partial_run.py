"""A training run half-way: what `<out>.partial` holds between two epochs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from device_profiles.errors import GeoshiftError
from planner import checkpoint

FORMAT = "geoshift.training/1"


class TrainingError(GeoshiftError):
    """Training cannot begin, cannot be resumed, or diverged."""


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


def keep(
    partial: Path, module: nn.Module, optimizer: torch.optim.SGD, settings: dict[str, str], history: list[Epoch]
) -> None:
    """Write the state after an epoch, atomically: weights, momentum, settings and history."""
    tensors = {f"weights.{name}": tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        if (momentum := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None:
            tensors[f"momentum.{name}"] = momentum
    words = {**settings, "format": FORMAT, "history": json.dumps([asdict(epoch) for epoch in history])}
    checkpoint.write_tensors(partial, tensors, words)


def start(partial: Path) -> list[Epoch]:
    """No epochs done, provided that no interrupted run would be overwritten.

    Raises:
        TrainingError: There is one.
    """
    if partial.exists():
        raise TrainingError(
            f"{partial} is there from an interrupted run: go on from it with --resume, or delete it to start anew"
        )
    return []


def resume(partial: Path, module: nn.Module, optimizer: torch.optim.SGD, settings: dict[str, str]) -> list[Epoch]:
    """Put weights and momentum back into the network and its optimiser.

    Args:
        partial: File written by `keep`.
        module: Network, changed only if the file belongs to this run.
        optimizer: Its optimiser, likewise.
        settings: What this run was called with.

    Returns:
        The epochs done.

    Raises:
        TrainingError: There is no such file, or it was written under other settings.
    """
    if not partial.exists():
        raise TrainingError(f"{partial}: there is no interrupted run to resume; run without --resume to start one")
    tensors, words = checkpoint.read_tensors(partial)
    if words.get("format") != FORMAT:
        raise TrainingError(f"{partial}: its format is {words.get('format')!r}, expected {FORMAT!r}; delete it")
    different = [
        f"{name} is {value}, was {words.get(name)}" for name, value in settings.items() if words.get(name) != value
    ]
    if different:
        raise TrainingError(
            f"{partial} belongs to another run: {'; '.join(different)}. Use the same arguments, or delete it to start "
            f"anew"
        )
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    module.load_state_dict(weights)
    for name, parameter in module.named_parameters():
        if (momentum := tensors.get(f"momentum.{name}")) is not None:
            optimizer.state[parameter]["momentum_buffer"] = momentum
    return [Epoch(**epoch) for epoch in json.loads(words["history"])]


def interruption(partial: Path, done: int, epochs: int) -> str:
    """What to tell a user who stopped a run."""
    if done == 0:
        return f"training was stopped before the first of {epochs} epochs was over; nothing was kept, start it again"
    return (
        f"training was stopped after epoch {done} of {epochs}; it is kept in {partial}. "
        f"To go on, run the same command with --resume"
    )
