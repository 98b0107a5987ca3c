"""A path from one network towards another that keeps what the first one answers: catastrophic forgetting, figure 2F.

The path follows the minimisers of

    D(w) + λ R(w),   D = mean over inputs of KL(p₁ ‖ p_w),   R = ½ Σ_layers ⟨W − W₂, (W − W₂) B⟩

as λ rises, from the first network on. p₁ and p_w are the softmax answers of the first network and of w to the first
task's inputs: D is to second order half of the squared Fisher length from w₁ to w. It is measured against w₁ itself at
every step, so drift does not add up as along the tangents of eq. (5). R pulls towards the second network's weights W₂:

    B = (1 − m) W₂ᵀW₂ / c + m I,   c = |W₂|² / columns.

What a layer was trained to read shows in its rows; inputs of the second task lie, more than others, in the directions
in which W₂ is large, and there W has to agree with W₂. B says so without any input of the second task.

Given *surrogates*, made-up inputs on which w shall answer as the second network does, their divergence is added to D.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from device_profiles.errors import GeoshiftError
from planner.configuration import Configuration
from planner.cost import CostMeter

Surrogate = Callable[[Tensor, torch.Generator], Tensor]

# m. On one pair of LeNet-300-100 (training images put aside), MNIST/Fashion at λ = 0.6: 0.1 88.5/86.7, 0.02 92.2/85.3;
# at equal MNIST accuracy they differ by less than a point, and W₂ᵀW₂ alone would leave its null space free.
ISOTROPIC_SHARE = 0.1
# R's gradient changes slowly, and costs as much as some hundred samples: it is worked out anew every so many steps.
PULL_EVERY = 4
_ADAM_BETAS = (0.9, 0.999)


class ApproachError(GeoshiftError):
    """A path towards another network cannot be made from these arguments."""


@dataclass(frozen=True)
class Approach:
    """A path from one network towards another.

    Attributes:
        points: Waypoints w_0 … w_K, each [n]; w_0 is the first network. The second one is approached, not reached.
        pulls: λ at each waypoint; 0 at w_0.
        distances: (2 R)^½ at each waypoint.
    """

    points: tuple[Tensor, ...]
    pulls: tuple[float, ...]
    distances: tuple[float, ...]


def approach(
    module: nn.Module,
    configuration: Configuration,
    start: Tensor,
    end: Tensor,
    inputs: Tensor,
    *,
    pulls: tuple[float, float] = (1e-3, 3.0),
    epochs: float = 3.0,
    waypoints: int = 15,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    averaging: float = 0.99,
    surrogate: Surrogate | None = None,
    seed: int = 0,
    cost: CostMeter | None = None,
) -> Approach:
    """Walk from one network towards another and keep the first one's answers to some inputs.

    λ rises geometrically over all steps; where there are surrogates, over the first half. Waypoints are running
    averages of the iterates, which takes the noise of single batches off them and leaves the start where it is.

    Args:
        module: The network; not changed. Tensors outside the configuration stay at its values.
        configuration: The tensors that move.
        start: The first network, shape [n].
        end: The second network, shape [n].
        inputs: Inputs of the first task, shape [N, ...]. Neither labels nor anything of the second task is used.
        pulls: First and last λ, both above 0.
        epochs: Passes over the inputs.
        waypoints: How many waypoints follow the start.
        batch_size: Inputs a step, and as many surrogates.
        learning_rate: Adam's; with surrogates it falls linearly over the second half.
        averaging: Share of the running average kept at each step, in [0, 1).
        surrogate: Makes as many surrogates as it is given inputs; None for a path by weights alone.
        seed: Seed of batches and surrogates.
        cost: Where passes are counted, the teachers' too. A product of weight matrices counts as the forward passes
            with as many multiplications.

    Returns:
        The path.

    Raises:
        ApproachError: there are too few inputs, or a number is out of its range.
        ShapeMismatch: an end does not lie in the weight space.
    """
    configuration.check(start, like=inputs)
    configuration.check(end, like=inputs)
    steps = int(epochs * len(inputs) / batch_size) if batch_size > 0 else 0
    _check(pulls, steps, waypoints, learning_rate, averaging)
    meter = CostMeter() if cost is None else cost
    generator = torch.Generator().manual_seed(seed)
    own = copy.deepcopy(module).eval().requires_grad_(False).to(inputs.device, inputs.dtype)
    pull = Pull(configuration, end)
    weights = start.detach().clone().requires_grad_()
    average = start.detach().clone()
    optimiser = torch.optim.Adam([weights], lr=learning_rate, betas=_ADAM_BETAS)
    target = _answers(own, configuration, start, inputs, batch_size, meter)
    points, used, distances = [average.clone()], [0.0], [pull.distance(average)]
    marks = {round((place + 1) * steps / waypoints): place for place in range(waypoints)}
    toward = torch.zeros_like(average)
    for step, batch in enumerate(_batches(len(inputs), batch_size, steps, generator), start=1):
        done = step / steps
        risen = min(1.0, 2 * done) if surrogate is not None else done
        strength = pulls[0] * (pulls[1] / pulls[0]) ** risen
        if surrogate is not None:
            optimiser.param_groups[0]["lr"] = learning_rate * min(1.0, 2 * (1 - done) + 0.01)
        if (step - 1) % PULL_EVERY == 0:
            toward = pull.gradient(weights.detach())
            meter.add(pull.forward_passes)
        seen, answers = inputs[batch], target[batch]
        if surrogate is not None:
            made = surrogate(seen, generator)
            answers = torch.cat([answers, _answers(own, configuration, end, made, len(made), meter)])
            seen = torch.cat([seen, made])
        found = functional_call(own, configuration.unflatten(weights), (seen,))
        meter.forward_backward(len(seen))
        # Both kinds of batch count once each: the sum of two means, not the mean of both.
        loss = F.cross_entropy(found, answers, reduction="sum") / len(batch)
        (gradient,) = torch.autograd.grad(loss, weights)
        weights.grad = gradient + strength * toward
        optimiser.step()
        average.lerp_(weights.detach(), 1 - min(averaging, step / (step + 10)))
        if step in marks:
            points.append(average.clone())
            used.append(strength)
            distances.append(pull.distance(average))
    return Approach(tuple(points), tuple(used), tuple(distances))


class Pull:
    """R: how far weights are from a network's, measured by what its rows read.

    Args:
        configuration: The weight space.
        end: The network that is pulled towards, shape [n].
        isotropic_share: m, in [0, 1]; vectors, such as biases, are measured in flat distance.
    """

    def __init__(self, configuration: Configuration, end: Tensor, isotropic_share: float = ISOTROPIC_SHARE) -> None:
        self._configuration = configuration
        self._end = end.detach().clone()
        self._share = isotropic_share
        matrices = [shape for shape in configuration.shapes if len(shape) > 1]
        # (D W₂ᵀ) W₂ multiplies each of D's entries by as many rows, twice; a forward pass, each weight once a position.
        products = sum(2 * shape[0] * shape.numel() for shape in matrices)
        self.forward_passes = math.ceil(products / max(1, sum(shape.numel() for shape in matrices)))

    def gradient(self, point: Tensor) -> Tensor:
        """∂R/∂w = (W − W₂) B for each layer, shape [n]."""
        away = self._configuration.unflatten(point - self._end)
        rows = self._configuration.unflatten(self._end)
        found = {}
        for name, difference in away.items():
            found[name] = difference
            if difference.ndim > 1:
                read, apart = rows[name].flatten(1), difference.flatten(1)
                scale = float(read.square().sum()) / read.shape[1] or 1.0
                weighted = (apart @ read.T) @ read / scale
                found[name] = ((1 - self._share) * weighted + self._share * apart).view_as(difference)
        return self._configuration.flatten(found)

    def distance(self, point: Tensor) -> float:
        """(2 R)^½, in units of weights."""
        return math.sqrt(max(0.0, float((point - self._end) @ self.gradient(point))))


def furthest(accuracies: Sequence[float], least: float) -> int:
    """The last waypoint before the accuracy on the first task's selection split falls below a bound.

    Args:
        accuracies: Of w_0 … w_K.
        least: The bound.

    Returns:
        Its place; 0, the first network, if w_1 is below already.
    """
    below = [place for place, accuracy in enumerate(accuracies) if accuracy < least]
    return max(0, (below[0] if below else len(accuracies)) - 1)


def _answers(
    module: nn.Module, configuration: Configuration, point: Tensor, inputs: Tensor, batch_size: int, cost: CostMeter
) -> Tensor:
    with torch.no_grad():
        tensors = configuration.unflatten(point)
        logits = [functional_call(module, tensors, (batch,)) for batch in inputs.split(batch_size)]
    cost.forward(len(inputs))
    return torch.cat(logits).softmax(1)


def _batches(samples: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """As many whole batches, in a new order each time all inputs were seen."""
    waiting: list[Tensor] = []
    for _ in range(steps):
        if not waiting:
            waiting = list(torch.randperm(samples, generator=generator)[: samples // size * size].split(size))
        yield waiting.pop()


def _check(pulls: tuple[float, float], steps: int, waypoints: int, learning_rate: float, averaging: float) -> None:
    if not all(math.isfinite(pull) and pull > 0 for pull in (*pulls, learning_rate)):
        raise ApproachError(f"pulls are {pulls}, learning_rate is {learning_rate}: expected numbers above 0")
    if not 0 <= averaging < 1:
        raise ApproachError(f"averaging is {averaging}: expected a number in [0, 1)")
    if not 1 <= waypoints <= steps:
        raise ApproachError(
            f"{steps} steps for {waypoints} waypoints: expected at least one waypoint, and a step for each; allow more "
            "epochs, give more inputs, or make batches smaller"
        )
