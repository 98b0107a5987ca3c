"""Sparse networks, p % of the weights zero, with the support chosen anew along the way.

The target is not one hyperplane but the set of all networks that are sparse enough. The way there is trained towards
the dense network's outputs, and every few steps the support is chosen again, smaller each time: the weights whose
removal would cost most under the damped metric, w_i² (g_ii + ε), over all layers together, with g where the network
is by then. After half of the way the support stays. Weights that are out are lost, or, if the search is not hard, go on
learning unseen until then and may come back.

Biases are not counted and stay. Rivals are made by the same functions: magnitude instead of saliency, a random support,
and a closed form alone.

Reference:
    Zhu & Gupta, "To prune, or not to prune", 2017, for the cubic schedule; Lin et al., "Dynamic model pruning with
    feedback", 2020, for supports that change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from device_profiles.errors import GeoshiftError
from planner.compensation import refit_columns
from planner.cost import BACKWARD, FORWARD, CostMeter
from planner.distill import Course, Masks, Support, Watch, distill, teach
from planner.gram import Statistics, collect
from planner.network import Network
from planner.saliency import diagonal


class SparsityError(GeoshiftError):
    """A sparse network cannot be had as asked for."""


@dataclass(frozen=True)
class Search:
    """How a support is looked for.

    Attributes:
        score: What a weight has to have to stay: much to say under the metric, or size.
        hard: Whether a weight that is out is lost, as in plain gradual pruning, or goes on learning unseen and may
            come back. Lost was better where it was tried: LeNet-300-100, 95 % sparse after 5 epochs, outputs 2.2 from
            the dense network's instead of 2.7 (selection images of one network).
        damping: ε in units of the mean g of the weight's layer. Without it, weights that only rare inputs excite,
            which the probes may lack, would count as worthless.
        every: Steps from one choice to the next.
        ramp: Share of the steps in which the number of weights falls to what is wanted.
        settle: Share of the steps after which the support stays.
        refreshes: Estimates of the metric's diagonal on the way; each is averaged into those before.
        probes: Samples of an estimate, at most.
        probing: Share of the budget that they may cost together.
        course: How the weights are trained.
    """

    score: Literal["saliency", "magnitude"] = "saliency"
    hard: bool = True
    damping: float = 0.1
    every: int = 20
    ramp: float = 0.4
    settle: float = 0.5
    refreshes: int = 12
    probes: int = 1000
    probing: float = 0.05
    course: Course = field(default_factory=lambda: Course(learning_rate=3e-3, mixed=0.3))


@dataclass(frozen=True)
class SparseEnd:
    """A sparse network.

    Attributes:
        tensors: Its tensors by key, those of the dense network that did not change included.
        share: Share of the weights that are zero, of the layers that were made sparse, biases not counted.
        steps: Steps trained.
    """

    tensors: Mapping[str, Tensor]
    share: float
    steps: int


def sparsify(
    network: Network,
    inputs: Tensor,
    share: float,
    epochs: float,
    *,
    search: Search | None = None,
    masks: Mapping[str, Tensor] | None = None,
    layers: Collection[str] | None = None,
    teacher: Network | None = None,
    training_set_size: int | None = None,
    watch: Watch | None = None,
    seed: int = 0,
    cost: CostMeter | None = None,
) -> SparseEnd:
    """Walk to a sparse network within a budget that covers the teacher, the saliencies and every step.

    Args:
        network: The network that is made sparse.
        inputs: Training inputs, shape [N, ...]; labels are not needed.
        share: Share of the weights that are to be zero, of those of all layers or those named.
        epochs: The budget in epoch-equivalents.
        search: How; by saliency by default.
        masks: A support that was chosen before, weight key to 0 and 1; nothing is looked for then.
        layers: Names of the layers that are made sparse and trained; the others stay bit for bit. All by default.
        teacher: The network whose outputs are matched; the network itself by default.
        training_set_size: Samples an epoch; N by default.
        watch: Is shown every step's weights.
        seed: Seed of every draw.
        cost: Where to count.

    Returns:
        The sparse network.

    Raises:
        SparsityError: the share is not between 0 and 1, or the budget does not cover the teacher and one step.
    """
    search = Search() if search is None else search
    chosen = [layer for layer in network.layers if layers is None or layer.name in layers]
    keys = [layer.weight for layer in chosen]
    dense = {key: tensor.detach() for key, tensor in network.module.state_dict().items()}
    total = sum(dense[key].numel() for key in keys)
    keep = _kept(total, share)
    size = len(inputs) if training_set_size is None else training_set_size
    spent = CostMeter()
    lessons = teach(teacher or network, inputs, spent)
    budget = int(epochs * size * (FORWARD + BACKWARD)) - spent.forward_passes
    support: Support
    probes = 0
    if masks is None and search.score == "saliency":
        probes = min(search.probes, len(inputs), int(search.probing * max(budget, 0) / (3 * search.refreshes)))
        budget -= probes * search.refreshes * (FORWARD + BACKWARD)
    steps = budget // (search.course.batch_size * (FORWARD + BACKWARD))
    if steps < 1 or (masks is None and search.score == "saliency" and probes < 1):
        raise SparsityError(
            f"a budget of {epochs:g} epoch-equivalents of {size} samples does not cover the teacher's pass over "
            f"{len(inputs)} inputs, the saliencies and one step; expected more, or fewer inputs"
        )
    if masks is not None:
        support = _Given(masks)
    else:
        support = _Chosen(network, dense, keys, inputs, keep, search, steps, probes, seed, spent)
    names = [key for layer in chosen for key in (layer.weight, layer.bias) if key is not None]
    trained = distill(
        network, dense, names, lessons, search.course, steps, support=support, watch=watch, seed=seed, cost=spent
    )
    if cost is not None:
        cost.add(spent.forward_passes)
    return SparseEnd({**dense, **trained}, _zero_share(trained, keys), steps)


def refit_support(
    network: Network, masks: Mapping[str, Tensor], inputs: Tensor, *, cost: CostMeter | None = None
) -> SparseEnd:
    """The closed form alone: each layer's rows refitted on their support, in forward order.

    Each row is the least-squares fit of the dense network's pre-activations from what the layers before now compute.

    Args:
        network: The dense network.
        masks: Weight key to 0 and 1, for every layer.
        inputs: Calibration inputs, shape [N, ...].
        cost: Where to count the samples passed forward.
    """
    state = {key: tensor.detach().clone() for key, tensor in network.module.state_dict().items()}
    for layer in network.layers:
        stats = collect(network, layer, inputs, current=state, cost=cost)
        present = masks[layer.weight].flatten(1).bool()
        rows = torch.cat([_row(stats, row, present[row]) for row in range(layer.units)])
        state[layer.weight] = rows[:, : layer.columns].reshape(state[layer.weight].shape).to(state[layer.weight])
        if layer.bias is not None:
            state[layer.bias] = rows[:, -1].to(state[layer.bias])
    return SparseEnd(state, zero_share(network, state), 0)


def salient_support(
    network: Network, inputs: Tensor, share: float, *, seed: int = 0, cost: CostMeter | None = None
) -> dict[str, Tensor]:
    """Masks of the weights that cost most to remove from the dense network, at one go; inputs are the probes."""
    dense = network.module.state_dict()
    keys = [layer.weight for layer in network.layers]
    metric = diagonal(network, dense, keys, inputs, seed=seed, cost=cost)
    scores = {key: _score(dense[key], metric[key], Search.damping) for key in keys}
    return _largest(scores, _kept(sum(one.numel() for one in scores.values()), share))


def random_support(network: Network, share: float, *, seed: int = 0) -> dict[str, Tensor]:
    """Masks of weights drawn at random over all layers together."""
    generator = torch.Generator().manual_seed(seed)
    dense = network.module.state_dict()
    scores = {
        layer.weight: torch.rand(dense[layer.weight].shape, generator=generator, dtype=torch.float64)
        for layer in network.layers
    }
    return _largest(scores, _kept(sum(one.numel() for one in scores.values()), share))


def zero_share(network: Network, tensors: Mapping[str, Tensor]) -> float:
    """Share of the layers' weights that are exactly zero, biases not counted."""
    return _zero_share(tensors, [layer.weight for layer in network.layers])


def _zero_share(tensors: Mapping[str, Tensor], keys: Sequence[str]) -> float:
    weights = [tensors[key] for key in keys]
    return sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)


class _Given:
    """A support that was chosen before."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = Masks({key: mask.float() for key, mask in masks.items()}, hard=True)

    def masks(self, step: int, latent: Mapping[str, Tensor]) -> Masks | None:
        return self._masks if step == 0 else None


class _Chosen:
    """A support chosen anew every few steps, smaller and smaller, until it settles."""

    def __init__(
        self,
        network: Network,
        dense: Mapping[str, Tensor],
        keys: Sequence[str],
        inputs: Tensor,
        keep: int,
        search: Search,
        steps: int,
        probes: int,
        seed: int,
        cost: CostMeter,
    ) -> None:
        self._network, self._dense, self._inputs, self._cost = network, dense, inputs, cost
        self._search, self._probes = search, probes
        self._keep = keep
        self._keys = keys
        self._total = sum(dense[key].numel() for key in self._keys)
        self._ramp = max(1, int(search.ramp * steps))
        # Even the shortest way has a choice, the last one, at which all of the weights to go are gone.
        self._settle = min(steps - 1, max(self._ramp, int(search.settle * steps)))
        self._between = max(search.every, -(-self._settle // search.refreshes))
        self._seed = seed
        self._metric: dict[str, Tensor] = {}
        self._refreshed = 0
        self._now: Masks = Masks({}, hard=False)

    def masks(self, step: int, latent: Mapping[str, Tensor]) -> Masks | None:
        if step > self._settle or (step % self._search.every and step != self._settle):
            return None
        if self._search.score == "saliency" and step >= self._refreshed * self._between:
            self._refresh(latent)
        scores = {key: _score(latent[key], self._metric.get(key), self._search.damping) for key in self._keys}
        last = step == self._settle
        self._now = Masks(_largest(scores, self._wanted(step)), hard=last or self._search.hard)
        return self._now

    def _wanted(self, step: int) -> int:
        left = 1 - min(1.0, step / self._ramp)
        return self._keep + round((self._total - self._keep) * left**3)

    def _refresh(self, latent: Mapping[str, Tensor]) -> None:
        """Estimate the metric where the network is now, and average it with what was known."""
        if self._refreshed >= self._search.refreshes:
            return
        generator = torch.Generator().manual_seed(self._seed * 1009 + self._refreshed)
        drawn = torch.randint(len(self._inputs), (self._probes,), generator=generator)
        here = {key: latent[key] * self._now.keep[key] if key in self._now.keep else latent[key] for key in latent}
        found = diagonal(
            self._network, {**self._dense, **here}, self._keys, self._inputs[drawn],
            seed=self._seed * 1009 + self._refreshed, cost=self._cost,
        )  # fmt: skip
        self._metric = (
            {key: torch.lerp(self._metric[key], one, 0.5) for key, one in found.items()} if self._metric else found
        )
        self._refreshed += 1


def _score(weights: Tensor, metric: Tensor | None, damping: float) -> Tensor:
    """|w| (g + ε)^½, or |w|."""
    size = weights.detach().abs()
    return size if metric is None else size * (metric + damping * metric.mean()).sqrt()


def _largest(scores: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    """1 where a score is among the ``keep`` largest of all layers together, else 0."""
    flat = torch.cat([one.flatten() for one in scores.values()])
    if keep >= len(flat):
        return {key: torch.ones_like(one, dtype=torch.float32) for key, one in scores.items()}
    least = flat.kthvalue(len(flat) - keep).values
    return {key: (one > least).float() for key, one in scores.items()}


def _kept(total: int, share: float) -> int:
    if not 0 < share < 1:
        raise SparsityError(f"share is {share}; expected the share of weights that are to be zero, between 0 and 1")
    return int((1 - share) * total + 1e-9)  # 1 − 0.9 is a rounding below 0.1


def _row(stats: Statistics, row: int, present: Tensor) -> Tensor:
    """One row refitted on its own columns, [1, n]."""
    return refit_columns(stats.only([row]), present.nonzero()[:, 0])
