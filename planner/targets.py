"""Modes that are more than the units they lack: sparse ones, and other networks.

A sparse mode begins as the configuration that its removals leave; which of the weights left are zero is found while
it is trained towards the dense network's outputs (`planner.sparse`). Another network is taken as its file has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from planner.cost import CostMeter
from planner.endpoint import EndPoint
from planner.modes import ModeTarget, Sparsity
from planner.narrow import narrow, widen
from planner.network import Network, trace
from planner.options import Options
from planner.progress import Progress
from planner.sparse import Search, sparsify
from planner.weight_files import Given

EPOCHS = 5
"""Passes over the training set, as figure 2C spends on 90 %."""
FEWEST = 20_000
"""Samples all the same. The digits network, 90 % sparse after 20,000, 60,000 and 300,000 samples: 97.25, 96.75 and
97.25 % of 400 selection images right; the dense network 97.75 %."""


def sparse_samples(options: Options, training_size: int) -> int:
    """Samples that each sparse mode is trained on, the metric's among them."""
    return max(FEWEST, EPOCHS * training_size) if options.sparse is None else options.sparse


def reach(
    network: Network,
    targets: Mapping[str, ModeTarget],
    ends: Mapping[str, EndPoint],
    given: Mapping[str, Given],
    inputs: Callable[[], Tensor],
    options: Options,
    cost: CostMeter,
    progress: Progress,
) -> dict[str, EndPoint]:
    """The configurations of all modes, in the order of the targets.

    Args:
        network: The dense network.
        targets: What each mode comes to.
        ends: Configurations that lack the units each mode lacks.
        given: Mode name to another network's weights, for the modes that are one.
        inputs: Makes the training inputs, [N, ...]; asked once, and only if there is a sparse mode.
        options: What may be spent.
        cost: Counts what is.
        progress: Shows where the work is.

    Raises:
        GeoshiftError: A network cannot be made as sparse as asked for.
    """
    found = dict(ends)
    for name, one in given.items():
        found[name] = replace(ends[name], tensors=one.tensors, source=one.sha256, removed=one.removed)
    sparse = {name: target.sparsity for name, target in targets.items() if target.sparsity is not None}
    if sparse:
        progress.stage("Sparse modes", len(sparse))
        seen = inputs()
    for name, wanted in sparse.items():
        progress.step(name)
        found[name] = make_sparse(
            network, ends[name], wanted, seen, sparse_samples(options, len(seen)), seed=options.seed, cost=cost
        )
    return found


def make_sparse(
    network: Network,
    end: EndPoint,
    wanted: Sparsity,
    inputs: Tensor,
    samples: int,
    *,
    seed: int,
    cost: CostMeter,
) -> EndPoint:
    """A configuration with a share of its weights zero, trained towards the dense network's outputs.

    Args:
        network: The dense network.
        end: The configuration; units that it lacks are left out throughout, and are not counted as zeros.
        wanted: How much of which layers.
        inputs: Training inputs, [N, ...].
        samples: How many samples may be passed forward and backward.
        seed: Seed of every draw.
        cost: Counts what is spent. A sample passed through a smaller network counts like one through the dense one.
    """
    module = narrow(network, end)
    search = Search()
    search = replace(search, course=replace(search.course, batch_size=min(search.course.batch_size, len(inputs))))
    found = sparsify(
        trace(module, inputs[:2]), inputs, wanted.share, samples / len(inputs),
        search=search, layers=wanted.layers, teacher=network, seed=seed, cost=cost,
    )  # fmt: skip
    # A weight times the 0 of a mask may be −0, which is as good, but not the same bits.
    module.load_state_dict({name: tensor + 0.0 for name, tensor in found.tensors.items()})
    tensors = widen(network, end, module)
    changed = {key for name in wanted.layers for key in (network.layer(name).weight, network.layer(name).bias)}
    tensors = {key: tensors[key] if key in changed else tensor for key, tensor in end.tensors.items()}
    return replace(end, tensors=tensors, sparse=wanted.layers)
