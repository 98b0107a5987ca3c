"""Divides the writes of a stage into blocks, one after the other, until more samples can be proved right.

A stage in which many rows may be half-way at once reaches many states; half of its rows reach the square root of as
many. What is given up is freedom of order: rows may change places within a block, and no longer across blocks. Rows
are put in steady order first (`planner.steady`), so that the states between the blocks lie near the straight line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from planner.certificate import Bools, Certificate, Effort, certify
from planner.cost import CostMeter
from planner.network import Network
from planner.steady import stages_at, steadied
from runtime.plan.samples import Samples
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable, State

MOST = 16
"""Stages that a transition may be divided into; see benchmarks/certificate.py for what each doubling gains."""
IDLE = 4
"""Divisions in a row that gain nothing, after which no other is tried. On LeNet-300-100 there were two at most."""
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
    enough: float = 1.0,
    stops: Sequence[int] = (),
) -> Divided:
    """Divide the stages that lose the most samples, in two, again and again.

    Only samples that are not proved right in the whole stages are asked again: the states of a part are states of the
    whole, so that what is proved stays so.

    Args:
        network: The dense network.
        table: Row versions.
        start: State that the transition begins at.
        chunks: Its writes.
        samples: Inputs to choose on; those that the certificate speaks of must be others.
        cost: Counts what is spent.
        most: Stages at most.
        effort: How hard to try to prove a sample right.
        enough: Share of the samples that are right at the ends of all stages; where as many are proved, nothing is
            divided.
        stops: Where blocks end already.

    Returns:
        The chunk list and where to stop. The list is the given one where enough samples are proved, or where no
        division helps.
    """
    edges = sorted({*(begin for begin, _ in stages_at(chunks)), *stops})
    ranges = list(pairwise([*edges, len(chunks)]))
    whole = certify(network, table, start, chunks, samples, cost=cost, effort=effort, stops=stops)
    count = int(whole.torn.sum())
    lost = np.flatnonzero(whole.ends & ~whole.torn)
    if not len(lost) or count >= enough * int(whole.ends.sum()):
        return Divided(chunks, tuple(stops), (count,))
    rest = Samples(samples.inputs[lost], samples.labels[lost])
    known: dict[tuple[int, int], Certificate] = {}
    steady = chunks

    def ask(begin: int, end: int) -> Certificate:
        if (begin, end) not in known:
            known[begin, end] = certify(
                network, table, steady.state_at(start, begin), _part(steady, begin, end), rest, cost=cost, effort=effort
            )
        return known[begin, end]

    def losses(begin: int, end: int) -> int:
        found = ask(begin, end)
        return int((found.ends & ~found.torn).sum())

    def proved(parts: list[tuple[int, int]]) -> int:
        found: Bools = np.all([ask(*part).torn for part in parts], axis=0)
        return count + int(found.sum())

    # What is proved of a stage holds for any order in it, and is known before there is one.
    few = torch.from_numpy(samples.take(EFFECTS).inputs)
    for begin, end in [part for part in ranges if losses(*part)]:
        steady = steadied(network, table, start, steady, begin, end, few, cost)
    shares = [proved(ranges)]
    divisible = set(ranges)
    best, idle = ranges, 0
    while len(ranges) < most:
        worst = {part: losses(*part) for part in ranges if part in divisible and part[1] - part[0] > 1}
        if not worst or max(worst.values()) == 0 or idle == IDLE:
            break
        begin, end = max(worst, key=lambda part: worst[part])
        middle = (begin + end) // 2
        place = ranges.index((begin, end))
        tried = [*ranges[:place], (begin, middle), (middle, end), *ranges[place + 1 :]]
        more = proved(tried)
        divisible.discard((begin, end))
        idle = 0 if more > max(shares) else idle + 1
        if more >= shares[-1]:
            # A division that gains nothing may open the way to one that does: what counts is the worst half.
            divisible |= {(begin, middle), (middle, end)}
            ranges = tried
            shares.append(more)
            if more > max(shares[:-1]):
                best = ranges
    # What was divided after the last gain is left whole: freedom of order is worth having.
    added = len(best) - len(edges)
    if not added:
        return Divided(chunks, tuple(stops), (count,))
    inner = {begin for begin, _ in best} - {begin for begin, _ in stages_at(chunks)}
    return Divided(steady, tuple(sorted(inner)), tuple(shares[: 1 + added]))


def _part(chunks: ChunkList, begin: int, end: int) -> ChunkList:
    return replace(chunks, **{name: getattr(chunks, name)[begin:end].copy() for name in ("layer", "row", "old", "new")})
