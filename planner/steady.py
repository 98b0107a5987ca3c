"""Puts the rows of a path in an order in which the outputs move steadily, block by block, until its states hold.

Where both ends of a stage answer a sample right, so does every point of the straight line between their outputs: the
right output is the largest at both ends, hence in every mixture of the two. So rows are written in an order in which
the outputs stay near that line. What a row does depends on which others are written already; in a block of half as many
rows less so, and its rows are ordered anew by what they do there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from planner.cost import CostMeter
from planner.network import Network
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable, State

HALVINGS = 4
"""How often a stage may be halved: into 16 blocks. Each time its rows are ordered anew."""
CHECKS = 16
"""Looks at a block, at most: a limit on cost."""
LOOKED_AT = 5
"""States that a look asks for, at most: whole ones after a quarter, a half and three quarters of the block, and one
torn in each direction."""


class Verdict(Enum):
    """What a look at a block found."""

    HOLDS = "every state that was looked at is within the guard"
    BREAKS = "the state in its middle is within the guard, another one is not"
    MIDDLE = "the state in its middle is not within the guard"


Look = Callable[[ChunkList, int, int], Verdict]
"""Looks at the chunks from one position of a list up to another."""


@dataclass(frozen=True)
class Held:
    """A chunk list in blocks.

    Attributes:
        chunks: The writes, in the order of blocks.
        stops: Positions at which a block ends within a stage.
    """

    chunks: ChunkList
    stops: tuple[int, ...]


@dataclass(frozen=True)
class _Block:
    begin: int
    end: int
    ordered: int
    """How often its rows were put in steady order."""


def hold(
    network: Network, table: RowTable, start: State, chunks: ChunkList, probes: Tensor, look: Look, *, cost: CostMeter
) -> Held:
    """Reorder and halve the stages that do not hold, until all do or no more can be done.

    A stage that does not hold is put in steady order first, then halved, its halves being ordered by themselves, and so
    on. A block whose middle breaks the guard although it is in steady order ends the work: another order of its halves
    leaves that state as it is.

    Args:
        network: The dense network.
        table: Row versions.
        start: State that the path begins at.
        chunks: Its writes.
        probes: Inputs on which the effects of rows are measured; labels are not needed.
        look: Asks whether a block holds.
        cost: Counts the passes of the probes.

    Returns:
        The list and where its blocks end; whether it holds now is for its walk to say.
    """
    stages = stages_at(chunks)
    waiting = [_Block(begin, end, 0) for begin, end in reversed(stages)]
    done: list[_Block] = []
    for _ in range(CHECKS):
        if not waiting:
            break
        block = waiting.pop()
        verdict = look(chunks, block.begin, block.end)
        if verdict is Verdict.HOLDS:
            done.append(block)
            continue
        spent = verdict is Verdict.MIDDLE or block.ordered > HALVINGS
        if block.end - block.begin == 1 or (block.ordered and spent):
            waiting.append(block)
            break
        middle = (block.begin + block.end) // 2
        edges = (block.begin, middle, block.end) if block.ordered else (block.begin, block.end)
        parts = [_Block(begin, end, block.ordered + 1) for begin, end in pairwise(edges)]
        for part in parts:
            chunks = steadied(network, table, start, chunks, part.begin, part.end, probes, cost)
        waiting += reversed(parts)
    begins = {begin for begin, _ in stages}
    return Held(chunks, tuple(sorted({block.begin for block in (*done, *waiting)} - begins)))


def price(rows: int, probes: int, samples: int) -> int:
    """Forward passes that `hold` takes at most for so many rows, its looks included."""
    # Whenever a block is ordered, each of its rows written first and last, and its two ends.
    return 2 * (rows * (1 + HALVINGS) + 2 * CHECKS) * probes + LOOKED_AT * CHECKS * samples


def steady_order(effects: Tensor) -> NDArray[np.int64]:
    """Order of rows, greedily: each next one is that after which the sum of effects lies nearest to its share.

    Args:
        effects: By how much each row moves the outputs, [R, ...].
    """
    effects = effects.flatten(1)
    whole = effects.sum(0)
    left, done = list(range(len(effects))), torch.zeros_like(whole)
    order: list[int] = []
    for place in range(len(effects)):
        aim = whole * ((place + 1) / len(effects))
        best = int(((done + effects[left] - aim) ** 2).sum(1).argmin())
        done = done + effects[left[best]]
        order.append(left.pop(best))
    return np.array(order, np.int64)


def stages_at(chunks: ChunkList) -> list[tuple[int, int]]:
    """Begin and end of each stage: the longest runs that write one layer and no row twice."""
    ends = np.cumsum([len(run.rows) for run in chunks.runs(0, len(chunks))], dtype=np.int64).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def in_order(chunks: ChunkList, order: NDArray[np.int64]) -> ChunkList:
    """The same writes in another order, which must keep the writes of one row in theirs."""
    arrays = (np.ascontiguousarray(getattr(chunks, name)[order]) for name in ("layer", "row", "old", "new"))
    return ChunkList(chunks.layers, *arrays)


def steadied(
    network: Network,
    table: RowTable,
    start: State,
    chunks: ChunkList,
    begin: int,
    end: int,
    probes: Tensor,
    cost: CostMeter,
) -> ChunkList:
    """The list with the chunks ``begin`` to ``end`` in steady order; its states before and after these are the same.

    Args:
        network: The dense network.
        table: Row versions.
        start: State that the list begins at.
        chunks: The list.
        begin: First chunk to be ordered; all of them write one layer, and no row twice.
        end: The one after the last.
        probes: Inputs on which the effects of rows are measured.
        cost: Counts what is spent.
    """
    order = np.arange(len(chunks))
    order[begin:end] = begin + steady_order(_effects(network, table, start, chunks, begin, end, probes, cost))
    return in_order(chunks, order)


def _effects(
    network: Network,
    table: RowTable,
    start: State,
    chunks: ChunkList,
    begin: int,
    end: int,
    probes: Tensor,
    cost: CostMeter,
) -> Tensor:
    """By how much each row moves the outputs, as the mean of writing it first and writing it last, [R, N, m].

    Of a function that is quadratic in the rows, these add up to the whole change; those of writing it first do not.
    """
    before, after = chunks.state_at(start, begin), chunks.state_at(start, end)
    left, reached = (_outputs(network, table, state, probes) for state in (before, after))
    cost.forward(len(probes) * 2 * (1 + end - begin))
    return torch.stack([
        (_with(network, table, before, chunks, position, chunks.new, probes) - left).double()
        + (reached - _with(network, table, after, chunks, position, chunks.old, probes)).double()
        for position in range(begin, end)
    ]) / 2  # fmt: skip


def _with(
    network: Network,
    table: RowTable,
    state: State,
    chunks: ChunkList,
    position: int,
    versions: NDArray[np.int32],
    probes: Tensor,
) -> Tensor:
    """Outputs in a state in which the row of one chunk has another version."""
    name = chunks.layers[int(chunks.layer[position])]
    changed = state[name].copy()
    changed[chunks.row[position]] = versions[position]
    return _outputs(network, table, {**state, name: changed}, probes)


def _outputs(network: Network, table: RowTable, state: State, probes: Tensor) -> Tensor:
    tensors = {name: torch.from_numpy(tensor) for name, tensor in table.tensors(state).items()}
    with torch.no_grad():
        found: Tensor = functional_call(network.module, tensors, (probes,))
    return found
