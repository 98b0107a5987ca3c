"""Train weights, on a support, so that the outputs match those of a teacher: the network as it was.

The loss is T² KL(teacher ‖ student) of outputs softened by a temperature T. A step may be taken at a *mixed* state
instead of the weights themselves: on the straight line between the start and the weights, or part way of a one-pass
write, with the rows of the layers behind already written. Such states are those that a device passes through, and
matching the teacher there too costs no pass more, since one batch serves one state.

Reference:
    Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015, for the loss; Lin et al., "Dynamic
    model pruning with feedback", 2020, for weights that go on learning while they are out of the support.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from device_profiles.errors import GeoshiftError
from planner.cost import CostMeter
from planner.network import Layer, Network

_BETAS = (0.9, 0.99)  # Adam's; a memory of 100 steps, as the support changes every 20
_TEACHER_BATCH = 1000

Watch = Callable[[int, Mapping[str, Tensor]], None]
"""Is shown the trained tensors, as they stand on their support, before each step and, with the number of steps, at the
end. The tensors are only good during the call."""


class DistillationError(GeoshiftError):
    """The lessons or the course do not fit, or training diverged."""


@dataclass(frozen=True)
class Lessons:
    """What is to be learnt.

    Attributes:
        inputs: Shape [N, ...].
        outputs: The teacher's outputs for them, shape [N, classes].
    """

    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class Course:
    """How it is learnt.

    Attributes:
        learning_rate: Its highest value; it falls to zero along a cosine.
        batch_size: Samples a step.
        temperature: T; outputs are divided by it before the softmax.
        warm_up: Share of the steps in which the rate rises.
        mixed: Share of the steps taken at a mixed state.
        lines: Share of those on the straight line from the start; the others are part way of a one-pass write.
    """

    learning_rate: float = 3e-3
    batch_size: int = 128
    temperature: float = 4.0
    warm_up: float = 0.03
    mixed: float = 0.0
    lines: float = 0.5


@dataclass(frozen=True)
class Masks:
    """Which weights are present.

    Attributes:
        keep: Weight key to 1 where a weight is present and 0 elsewhere, of the weight's shape; others are all there.
        hard: Whether absent weights are lost. If not, they go on learning unseen, by the slope that the loss has at
            zero, and can be chosen again.
    """

    keep: Mapping[str, Tensor]
    hard: bool


class Support(Protocol):
    """Chooses the weights that are present."""

    def masks(self, step: int, latent: Mapping[str, Tensor]) -> Masks | None:
        """The masks from this step on, or None to leave them; ``latent`` holds absent weights' values too."""
        ...


def teach(network: Network, inputs: Tensor, cost: CostMeter | None = None) -> Lessons:
    """Ask the network, as it stands, for its outputs once; inputs have shape [N, ...]."""
    if not len(inputs):
        raise DistillationError("no inputs to learn from; expected at least one")
    with torch.no_grad():
        outputs = torch.cat([network.module(batch) for batch in inputs.split(_TEACHER_BATCH)])
    if cost is not None:
        cost.forward(len(inputs))
    return Lessons(inputs, outputs)


def distill(
    network: Network,
    start: Mapping[str, Tensor],
    names: Sequence[str],
    lessons: Lessons,
    course: Course,
    steps: int,
    *,
    support: Support | None = None,
    watch: Watch | None = None,
    seed: int = 0,
    cost: CostMeter | None = None,
) -> dict[str, Tensor]:
    """Train some tensors by Adam until the outputs match.

    Args:
        network: The network; not changed.
        start: All of its tensors, as training begins and as mixed states begin.
        names: Keys of the tensors to train.
        lessons: Inputs and the outputs to match.
        course: How.
        steps: Number of steps.
        support: Says which weights are present; all by default.
        watch: Is shown every step's weights.
        seed: Seed of the order of the samples and of the mixed states.
        cost: Where to count the samples passed forward and backward.

    Returns:
        The trained tensors by key, exactly zero off the support.

    Raises:
        DistillationError: the settings do not fit, or the loss is not finite.
    """
    _check(lessons, course, steps)
    generator = torch.Generator().manual_seed(seed)
    origin = {key: start[key].detach() for key in names}
    latent = {key: tensor.clone() for key, tensor in origin.items()}
    adam = torch.optim.Adam(latent.values(), lr=course.learning_rate, betas=_BETAS, fused=True)
    masks = Masks({}, hard=False)
    order, place = torch.randperm(len(lessons.inputs), generator=generator), 0
    for step in range(steps):
        changed = support.masks(step, latent) if support is not None else None
        masks = changed or masks
        if changed is not None and changed.hard:
            _lose(latent, changed, adam)
        present = _present(latent, masks)
        if watch is not None:
            watch(step, present)
        if place + course.batch_size > len(order):
            order, place = torch.randperm(len(order), generator=generator), 0
        batch = order[place : place + course.batch_size]
        place += course.batch_size
        leaves = {key: tensor.requires_grad_() for key, tensor in present.items()}
        weights = _mixed(leaves, origin, network.layers, course, generator)
        outputs = functional_call(network.module, {**start, **weights}, (lessons.inputs[batch],))
        loss = divergence(outputs, lessons.outputs[batch], course.temperature)
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        if not math.isfinite(loss.item()):
            raise DistillationError(
                f"the loss of step {step} is {loss.item()}; expected a finite one: lower the learning rate from "
                f"{course.learning_rate}"
            )
        for (key, tensor), slope in zip(latent.items(), slopes, strict=True):
            tensor.grad = slope * masks.keep[key] if masks.hard and key in masks.keep else slope
        adam.param_groups[0]["lr"] = _rate(course, step, steps)
        adam.step()
        if cost is not None:
            cost.forward_backward(len(batch))
    final = {key: tensor.detach() for key, tensor in _present(latent, masks).items()}
    if watch is not None:
        watch(steps, final)
    return final


def divergence(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher ‖ student) of outputs softened by T, mean over samples; both [N, classes]."""
    student, known = ((one / temperature).log_softmax(1) for one in (outputs, teacher))
    return temperature**2 * F.kl_div(student, known, log_target=True, reduction="batchmean")


def _lose(latent: Mapping[str, Tensor], masks: Masks, adam: torch.optim.Adam) -> None:
    """Set absent weights and Adam's memory of them to zero; left to decay, it ends in slow subnormal numbers."""
    for key, mask in masks.keep.items():
        for tensor in (latent[key], *(one for one in adam.state[latent[key]].values() if one.shape == mask.shape)):
            tensor.mul_(mask)


def _present(latent: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """Fresh tensors that are zero where a weight is absent."""
    return {
        key: tensor.detach() * masks.keep[key] if key in masks.keep else tensor.detach().clone()
        for key, tensor in latent.items()
    }


def _mixed(
    weights: Mapping[str, Tensor],
    origin: Mapping[str, Tensor],
    layers: Sequence[Layer],
    course: Course,
    generator: torch.Generator,
) -> Mapping[str, Tensor]:
    """The weights, or a random state between the origin and them; see the module's text."""
    kind, share = torch.rand(2, generator=generator).tolist()
    if kind >= course.mixed:
        return weights
    if kind < course.mixed * course.lines:
        return {key: torch.lerp(origin[key], tensor, share) for key, tensor in weights.items()}
    mixed = dict(weights)
    moving = [layer for layer in layers if layer.weight in weights]
    # By the square root of its size, so that small layers near the output, written first, get their turn too.
    chances = torch.tensor([weights[layer.weight].numel() ** 0.5 for layer in moving])
    at = int(torch.multinomial(chances, 1, generator=generator))
    for place, layer in enumerate(moving[: at + 1]):
        written = torch.rand(layer.units, generator=generator) < (share if place == at else 0.0)
        for key in (layer.weight, layer.bias):
            if key is not None and key in weights:
                chosen = written.view(-1, *[1] * (weights[key].ndim - 1)).to(weights[key].device)
                mixed[key] = torch.where(chosen, weights[key], origin[key])
    return mixed


def _rate(course: Course, step: int, steps: int) -> float:
    done = step / steps
    return (
        course.learning_rate
        * min(1.0, (step + 1) / max(1.0, course.warm_up * steps))
        * (1 + math.cos(math.pi * done))
        / 2
    )


def _check(lessons: Lessons, course: Course, steps: int) -> None:
    if not 1 <= course.batch_size <= len(lessons.inputs):
        raise DistillationError(
            f"batch_size is {course.batch_size}; expected 1 to the {len(lessons.inputs)} samples there are"
        )
    if len(lessons.inputs) != len(lessons.outputs):
        raise DistillationError(
            f"found {len(lessons.outputs)} outputs for {len(lessons.inputs)} inputs; expected one each"
        )
    if steps < 1:
        raise DistillationError(f"steps is {steps}; expected at least 1: the budget is too small")
    if not (0 < course.learning_rate < math.inf and 0 < course.temperature < math.inf):
        raise DistillationError(
            f"learning rate {course.learning_rate} and temperature {course.temperature}: expected positive numbers"
        )
