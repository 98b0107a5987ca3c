"""Divides the writes of a stage into blocks, one after the other, until more samples can be proved right.

A stage in which many rows may be half-way at once reaches many states; half of its rows reach the square root of as
many. What is given up is freedom of order: rows may change places within a block, and no longer across blocks. Rows
are put in an order in which the outputs move steadily from the old to the new ones, so that the states between the
blocks lie near the straight line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from planner.certificate import Bools, Certificate, Effort, certify, stages_of
from planner.cost import CostMeter
from planner.network import Network
from planner.reachable import Writes
from planner.tail import Tail
from runtime.chunks import ChunkList
from runtime.rows import RowTable, State
from runtime.samples import Samples

MOST = 16
"""Stages that a transition may be divided into; see benchmarks/certificate.py for what each doubling gains."""
EFFECTS = 64
"""Samples on which the effect of each row is measured for the order."""


@dataclass(frozen=True)
class Divided:
    """A chunk list whose stages were divided.

    Attributes:
        chunks: The writes, in the order of blocks.
        stops: Positions at which a block ends within what was one stage, for `certify`.
        proved: Samples proved right with a torn row, before the first division and after each.
    """

    chunks: ChunkList
    stops: tuple[int, ...]
    proved: tuple[int, ...]


def divide(
    network: Network,
    table: RowTable,
    start: State,
    chunks: ChunkList,
    samples: Samples,
    *,
    cost: CostMeter,
    most: int = MOST,
    effort: Effort = "linear",
) -> Divided:
    """Divide the stages that lose the most samples, in two, again and again.

    Args:
        network: The dense network.
        table: Row versions.
        start: State that the transition begins at.
        chunks: Its writes.
        samples: Inputs to choose on; those that the certificate speaks of must be others.
        cost: Counts what is spent.
        most: Stages at most.
        effort: How hard to try to prove a sample right.

    Returns:
        The chunk list and where to stop. The list is the given one where all samples that are right at the ends of its
        stages are proved, or where no division helps.
    """
    steady = reordered(network, table, start, chunks, samples, cost)
    edges = sorted({0, *(begin for begin, _ in _stages(steady))})
    ranges = [(begin, end) for begin, end in zip(edges, [*edges[1:], len(steady)], strict=True)]
    known: dict[tuple[int, int], Certificate] = {}

    def ask(begin: int, end: int) -> Certificate:
        if (begin, end) not in known:
            part = _part(steady, begin, end)
            known[begin, end] = certify(
                network, table, steady.state_at(start, begin), part, samples, cost=cost, effort=effort
            )
        return known[begin, end]

    def proved(parts: list[tuple[int, int]]) -> Bools:
        found: Bools = np.all([ask(*part).torn for part in parts], axis=0) if parts else np.ones(len(samples), bool)
        return found

    shares = [int(proved(ranges).sum())]
    divisible = set(ranges)
    best = ranges
    while len(ranges) < most:
        losses = {
            part: int((ask(*part).ends & ~ask(*part).torn).sum())
            for part in ranges
            if part in divisible and part[1] - part[0] > 1
        }
        if not losses or max(losses.values()) == 0:
            break
        begin, end = max(losses, key=lambda part: losses[part])
        middle = (begin + end) // 2
        place = ranges.index((begin, end))
        tried = [*ranges[:place], (begin, middle), (middle, end), *ranges[place + 1 :]]
        count = int(proved(tried).sum())
        divisible.discard((begin, end))
        if count >= shares[-1]:
            # A division that gains nothing may open the way to one that does: what counts is the worst half.
            divisible |= {(begin, middle), (middle, end)}
            ranges = tried
            shares.append(count)
            if count > max(shares[:-1]):
                best = ranges
    stops = tuple(begin for begin, _ in best if begin not in set(edges))
    # What was divided after the last gain is left whole: freedom of order is worth having.
    return Divided(steady if stops else chunks, stops, tuple(shares[: 1 + len(stops)]))


def reordered(
    network: Network, table: RowTable, start: State, chunks: ChunkList, samples: Samples, cost: CostMeter
) -> ChunkList:
    """The same writes, the rows of each stage in an order in which the outputs move steadily.

    Each next row is the one after which the sum of the rows' own effects lies nearest to its share of the whole.
    """
    few = samples.take(EFFECTS)
    orders = [
        begin + _steady(_effects(network, writes, few, cost))
        for (begin, _), writes in zip(_stages(chunks), stages_of(network, table, start, chunks), strict=True)
    ]
    order = np.concatenate(orders) if orders else np.arange(0)
    return replace(
        chunks,
        **{name: np.ascontiguousarray(getattr(chunks, name)[order]) for name in ("layer", "row", "old", "new")},
    )


def _effects(network: Network, writes: Writes, samples: Samples, cost: CostMeter) -> Tensor:
    """By how much each row alone moves the outputs, [R, N · outputs]."""
    tail = Tail(network, writes.layer, writes.before, torch.from_numpy(samples.inputs).double())
    old = tail.values[tail.node]
    weight, bias = writes.after[f"{writes.layer}.weight"], writes.after.get(f"{writes.layer}.bias")
    effects: list[Tensor] = []
    with torch.no_grad():
        new = tail.linear(tail.node, weight, bias, tail.reads)
        for row in writes.rows.tolist():
            state = old.clone()
            state[:, row] = new[:, row]
            effects.append((tail.run(state) - tail.values[tail.output]).flatten())
    cost.forward(len(samples) * (2 + len(effects)))
    return torch.stack(effects)


def _steady(effects: Tensor) -> np.ndarray:
    """Order of rows, greedily."""
    count = len(effects)
    whole = effects.sum(0)
    left, done = list(range(count)), torch.zeros_like(whole)
    order: list[int] = []
    for place in range(count):
        aim = whole * ((place + 1) / count)
        best = int(((done + effects[left] - aim) ** 2).sum(1).argmin())
        done = done + effects[left[best]]
        order.append(left.pop(best))
    return np.array(order, np.int64)


def _stages(chunks: ChunkList) -> list[tuple[int, int]]:
    """Begin and end of each stage."""
    ends = np.cumsum([len(run.rows) for run in chunks.runs(0, len(chunks))], dtype=np.int64).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def _part(chunks: ChunkList, begin: int, end: int) -> ChunkList:
    return replace(chunks, **{name: getattr(chunks, name)[begin:end].copy() for name in ("layer", "row", "old", "new")})
