"""Certificates: which samples are answered right in every state of a transition, whatever the order of its writes.

A chunk list is divided into stages, each of which writes rows of one layer, every row once. `docs/certificate.md` has
the theorem: if a sample's margin is bounded above zero over all states of every stage, its answer is right in each
state of the transition, in any order of rows within a stage, in either direction, and with one row torn at any place.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Tensor

from planner.adversary import Search, find_wrong, margin
from planner.bounds import LINEAR, Bounds, Rule
from planner.cost import CostMeter
from planner.network import Network
from planner.reachable import Tear, Writes, reachable
from planner.rounding import output_error
from planner.tail import CannotBound, Tail
from runtime.plan.manifest import CertificateEntry
from runtime.plan.samples import Samples
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable, State

Bools = NDArray[np.bool_]
Effort = Literal["none", "interval", "linear", "tight"]
"""No proof, a search alone; intervals alone; backward linear bounds where they fail; these with tightened intervals
behind."""
CONFIDENCE = 0.95
BATCH_NUMBERS = 2**24
"""Largest number of activations or slopes of one node at once, 128 MiB in float64."""
NOT_TRIED = "no proof was tried; plan with --certify for one"
MAX_STAGES = 256
"""A chunk list with more stages, such as a line of many points through many layers, is not bounded."""


@dataclass(frozen=True)
class Stage:
    """One stage of a transition and how it stood after it.

    Attributes:
        layer: The layer that it writes.
        begin: Chunks written before it.
        rows: How many rows it writes.
        whole: Samples proved right up to its end, with whole rows.
        torn: The same with one row torn.
    """

    layer: str
    begin: int
    rows: int
    whole: int
    torn: int


@dataclass(frozen=True)
class Certificate:
    """What is proved of a transition on given samples.

    Attributes:
        stages: Its stages.
        ends: Whether the answer is right before and after every stage, bool [N]; no proof can reach beyond that.
        whole: Whether the answer is proved right in every state of whole rows, bool [N].
        torn: Whether it is proved right in every state, one torn row included, bool [N].
        survived_whole: Whether no state of whole rows with a wrong answer was found, bool [N]; None without a search.
        survived_torn: The same with one torn row.
        seconds: Time it took.
        why_not: Why nothing was bounded; empty if it was. The search needs no bound.
    """

    stages: tuple[Stage, ...]
    ends: Bools
    whole: Bools
    torn: Bools
    survived_whole: Bools | None
    survived_torn: Bools | None
    seconds: float
    why_not: str = ""

    def entry(self) -> CertificateEntry:
        """What the manifest says."""
        count = len(self.ends)
        return CertificateEntry(
            samples=count,
            stages=tuple(stage.begin for stage in self.stages),
            ends_right=int(self.ends.sum()),
            proved_whole=int(self.whole.sum()),
            proved_torn=int(self.torn.sum()),
            bound_whole=population_bound(int(self.whole.sum()), count),
            bound_torn=population_bound(int(self.torn.sum()), count),
            survived_whole=None if self.survived_whole is None else int(self.survived_whole.sum()),
            survived_torn=None if self.survived_torn is None else int(self.survived_torn.sum()),
            why_not=self.why_not,
        )


def population_bound(proved: int, samples: int, confidence: float = CONFIDENCE) -> float:
    """Lower confidence bound of the share of all inputs that are answered right in every state.

    Clopper and Pearson's exact one-sided bound: the smallest share under which as many proved samples of those drawn
    are not less likely than 1 − confidence. The samples must be drawn at random, and nothing chosen on them.

    Reference:
        Clopper & Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934), 404-413.
    """
    return float(beta.ppf(1 - confidence, proved, samples - proved + 1)) if proved else 0.0


def certify(
    network: Network,
    table: RowTable,
    start: State,
    chunks: ChunkList,
    samples: Samples,
    *,
    cost: CostMeter,
    effort: Effort = "linear",
    search: Search | None = None,
    tear: Tear = "place",
    stops: Collection[int] = (),
) -> Certificate:
    """Prove samples right in every state of a transition, and search for wrong states where that fails.

    Args:
        network: The dense network.
        table: Row versions.
        start: State that the transition begins at.
        chunks: Its writes.
        samples: Inputs that nothing was chosen on, and labels.
        cost: Counts what is spent; a pass through a part of the network as one through all of it.
        effort: How hard to try to prove anything.
        search: How to search for wrong states; None for no search.
        tear: How a row may be torn.
        stops: Positions in the list at which a stage is to end, beside those where one has to.

    Returns:
        The certificate; where no bound is known, one that proves nothing and says why, with what a search found.
    """
    begun = time.monotonic()
    count = len(samples)
    alive = {name: np.ones(count, np.bool_) for name in ("ends", "whole", "torn", "survived_whole", "survived_torn")}
    stages: list[Stage] = []
    why_not = NOT_TRIED if effort == "none" else ""
    try:
        for writes in stages_of(network, table, start, chunks, stops):
            for batch in _batches(network, count):
                _strike(alive, "ends", batch, _right_at_ends(network, writes, samples, batch, cost))
                if not why_not:
                    try:
                        _prove(network, writes, samples, batch, alive, cost, effort, tear)
                    except CannotBound as error:
                        why_not = str(error)
                if why_not:
                    alive["whole"][:] = alive["torn"][:] = False
                if search is not None:
                    _search(network, writes, samples, batch, alive, cost, search, tear)
            begin = sum(stage.rows for stage in stages)
            proved = int(alive["whole"].sum()), int(alive["torn"].sum())
            stages.append(Stage(writes.layer, begin, len(writes.rows), *proved))
        if not stages:
            raise CannotBound("this transition writes nothing, so that there is no state between its ends")
    except CannotBound as error:  # not even a search can be made
        nothing = np.zeros(count, np.bool_)
        return Certificate((), nothing, nothing, nothing, None, None, time.monotonic() - begun, str(error))
    if why_not:
        stages = [replace(stage, whole=0, torn=0) for stage in stages]
    searched = search is not None
    return Certificate(
        tuple(stages), alive["ends"], alive["whole"], alive["torn"],
        alive["survived_whole"] if searched else None, alive["survived_torn"] if searched else None,
        time.monotonic() - begun, why_not,
    )  # fmt: skip


def stages_of(
    network: Network, table: RowTable, start: State, chunks: ChunkList, stops: Collection[int] = ()
) -> Iterator[Writes]:
    """The stages of a chunk list: longest runs of chunks that write one layer, no row twice, and pass no stop.

    Raises:
        CannotBound: There are more than `MAX_STAGES`.
    """
    edges = [0, *sorted({stop for stop in stops if 0 < stop < len(chunks)}), len(chunks)]
    runs = [run for begin, end in pairwise(edges) for run in chunks.runs(begin, end)]
    if len(runs) > MAX_STAGES:
        raise CannotBound(f"found {len(runs)} stages, expected at most {MAX_STAGES}; choose a path of fewer writes")
    fixed = {name: tensor.double() for name, tensor in network.module.state_dict().items()}
    state = {name: versions.copy() for name, versions in start.items()}
    before = fixed | _doubles(table.tensors(state))
    for run in runs:
        state[run.layer][run.rows] = run.versions
        after = fixed | _doubles(table.tensors(state))
        yield Writes(run.layer, torch.from_numpy(run.rows.astype(np.int64)), before, after)
        before = after


def _doubles(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(tensor).double() for name, tensor in tensors.items()}


def _batches(network: Network, count: int) -> Iterator[NDArray[np.int64]]:
    """Indices of samples that are bounded at once."""
    largest = max(node.meta["tensor_meta"].shape[1:].numel() for node in network.graph.graph.nodes
                  if hasattr(node.meta.get("tensor_meta"), "shape"))  # fmt: skip
    outputs = network.layers[-1].units
    size = max(1, BATCH_NUMBERS // (largest * outputs))
    for begin in range(0, count, size):
        yield np.arange(begin, min(begin + size, count))


def _prove(
    network: Network,
    writes: Writes,
    samples: Samples,
    batch: NDArray[np.int64],
    alive: dict[str, Bools],
    cost: CostMeter,
    effort: Effort,
    tear: Tear,
) -> None:
    """Bound one stage on a batch; samples that fail are struck off ``alive``."""
    attempts: tuple[tuple[Rule, ...], ...] = (("interval",),) if effort == "interval" else (("interval",), *LINEAR)
    alive["torn"] &= alive["ends"]
    alive["whole"] &= alive["ends"]
    for torn, name in ((True, "torn"), (False, "whole")):
        open_ = batch[alive[name][batch]]
        if not torn:
            # What holds with a torn row holds without one.
            open_ = open_[~alive["torn"][open_]]
        hopeless: list[NDArray[np.int64]] = []
        for attempt in attempts:
            if len(open_):
                tighten = effort == "tight" and attempt != ("interval",)
                proved, near = _proved(network, writes, samples, open_, cost, torn, attempt, tighten, tear)
                # Another slope does not save a bound that has lost the margin twice over. Intervals alone say little.
                stays = ~proved & (near | (attempt == ("interval",)))
                hopeless.append(open_[~proved & ~stays])
                open_ = open_[stays]
        alive[name][np.concatenate([open_, *hopeless])] = False


def _search(
    network: Network,
    writes: Writes,
    samples: Samples,
    batch: NDArray[np.int64],
    alive: dict[str, Bools],
    cost: CostMeter,
    search: Search,
    tear: Tear,
) -> None:
    """Strike samples off ``alive`` for which a wrong state of a stage is found."""
    for torn, name in ((False, "survived_whole"), (True, "survived_torn")):
        alive[name][batch] &= alive["ends"][batch]
        if torn:
            alive[name][batch] &= alive["survived_whole"][batch]
        # A search among states that are proved right would be in vain; a test does it all the same.
        open_ = batch[alive[name][batch] & ~alive["torn" if torn else "whole"][batch]]
        if len(open_):
            inputs, labels = _tensors(samples, open_)
            tail = Tail(network, writes.layer, writes.before, inputs, bounded=False)
            alive[name][open_] = ~find_wrong(tail, writes, labels, torn=torn, search=search, cost=cost, tear=tear)


def _right_at_ends(
    network: Network, writes: Writes, samples: Samples, batch: NDArray[np.int64], cost: CostMeter
) -> Bools:
    """Whether samples are answered right before and after a stage."""
    inputs, labels = _tensors(samples, batch)
    tail = Tail(network, writes.layer, writes.before, inputs, bounded=False)
    after = tail.linear(tail.node, *_own(tail, writes.after), tail.reads)
    cost.forward(2 * len(batch))
    with torch.no_grad():
        found: Bools = ((tail.values[tail.output].argmax(1) == labels) & (tail.run(after).argmax(1) == labels)).numpy()
    return found


def _own(tail: Tail, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    return weights[f"{tail.layer}.weight"], weights.get(f"{tail.layer}.bias")


def _proved(
    network: Network,
    writes: Writes,
    samples: Samples,
    chosen: NDArray[np.int64],
    cost: CostMeter,
    torn: bool,
    rules: tuple[Rule, ...],
    tighten: bool,
    tear: Tear,
) -> tuple[Bools, Bools]:
    """Whether each sample's margin is bounded above what rounding can take, and whether the bound is near to that."""
    inputs, labels = _tensors(samples, chosen)
    tail = Tail(network, writes.layer, writes.before, inputs)
    bounds = Bounds(tail, reachable(tail, writes, tear), writes.rows, torn=torn, tighten=tighten)
    error = output_error(tail, bounds, writes)
    margins = torch.stack([bounds.margins(labels, rule) for rule in rules]).amax(0)
    # Up to four passes through the layer, one through the network, one for rounding; the rest are counted.
    cost.forward(int(np.ceil(len(chosen) * (6 + bounds.passes))))
    enough: Bools = (margins > error + error.gather(1, labels[:, None])).all(1).numpy()
    near: Bools = (margins.amin(1) > -margin(tail.values[tail.output], labels)).numpy()
    return enough, near


def _strike(alive: dict[str, Bools], name: str, batch: NDArray[np.int64], stays: Bools) -> None:
    alive[name][batch] &= stays


def _tensors(samples: Samples, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(samples.inputs[chosen]).double(), torch.from_numpy(samples.labels[chosen])
