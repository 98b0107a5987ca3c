"""What a network answers in the states that every strategy is asked in, and what each way of writing costs.

States are the same for all: whole ones at equal distances in bytes, some between two layers, and torn ones at shares of
the way and of the chunk that are drawn once, there and back. An answer is kept by its state, so orders that pass
through the same states share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from runtime.plan.bundle import Bundle, Transition
from runtime.plan.evaluation import Evaluator, spread_positions
from runtime.simulation.simulator import PLANNED, compile_strategy, ends_of
from runtime.walking.bank import Increment, InPlaceBank
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable, State
from runtime.walking.session import Weights

Classes = NDArray[np.int64]
"""Class that each sample is given, shape [samples]."""
IN_PLACE: Final = ("naive", "zero-first", "linear", "ordered", "ramp", "geodesic", PLANNED)
"""Ways from one compensated end point to the next that overwrite the only copy."""
PLAIN: Final = "plain"
"""Overwrites in storage order on the way to the end point that makes up for nothing."""
AT_ONCE: Final = ("flip", "reload", "plain flip")
"""Ways that no caller sees a mixed state of."""
BETWEEN: Final = 5
TEAR_SEED: Final = 1000


@dataclass(frozen=True)
class Way:
    """A transition written by one strategy.

    Attributes:
        table: Knows every version that is written.
        start: State before.
        end: State after.
        chunks: The writes.
    """

    table: RowTable
    start: State
    end: State
    chunks: ChunkList

    @property
    def written(self) -> NDArray[np.int64]:
        """Bytes written before each position, shape [chunks + 1]."""
        return np.concatenate([[0], self.chunks.chunk_bytes(self.table).cumsum()])

    @property
    def bytes(self) -> int:
        """Bytes of all writes."""
        return int(self.written[-1])

    def position(self, share: float) -> int:
        """Chunks that are written once a share of the bytes is."""
        return int(np.searchsorted(self.written, share * self.bytes, side="right")) - 1

    def back(self) -> Way:
        """The way back."""
        return Way(self.table, self.end, self.start, self.chunks.reversed())


def way(bundle: Bundle, move: Transition, name: str) -> Way | None:
    """A transition by one strategy; None where the plan holds none."""
    if name == "geodesic" and not (move.entry.strategy == name or name in move.entry.alternatives):
        return None
    start, end = ends_of(bundle, move, name)
    return Way(*_swap(compile_strategy(bundle, move, name, start, end), start, end))


def _swap(compiled: tuple[RowTable, ChunkList], start: State, end: State) -> tuple[RowTable, State, State, ChunkList]:
    table, chunks = compiled
    return table, start, end, chunks


@dataclass(frozen=True)
class Seen:
    """Answers of one way.

    Attributes:
        shares: Share of the bytes that is written in each whole state at equal distances, shape [states].
        along: Classes in these, shape [states, samples].
        others: Kind ("between" or "torn"), share, and classes of the other states.
    """

    shares: NDArray[np.float64]
    along: NDArray[np.int64]
    others: tuple[tuple[str, float, Classes], ...]


class Witness:
    """Asks a plan's live network in any state, and each state once.

    Args:
        bundle: The plan.
        evaluator: Asks its live graph.
        whole: Whole states at equal distances, both ends among them.
        torn: Torn states in each direction.
    """

    def __init__(self, bundle: Bundle, evaluator: Evaluator, whole: int, torn: int) -> None:
        self._bundle = bundle
        self._evaluator = evaluator
        self._whole = whole
        self._torn = torn
        self._known: dict[tuple[object, ...], Classes] = {}

    def at(self, state: State) -> Classes:
        """Classes in a state of the plan's own rows."""
        key = self._key("", state)
        if key not in self._known:
            self._known[key] = self._evaluator.at(self._bundle.table, state).outputs.argmax(axis=1)
        return self._known[key]

    def along(self, name: str, one: Way) -> Seen:
        """Classes in the states of a way; ``name`` tells rows apart that ways made of their own."""
        positions = spread_positions(one.chunks, one.table, self._whole)
        edges = (np.flatnonzero(np.diff(one.chunks.layer)) + 1).tolist()
        picked = {edges[int(i)] for i in np.linspace(0, len(edges) - 1, min(BETWEEN, len(edges)))}
        between = sorted(picked - set(positions))
        keys = {at: self._key(name, one.chunks.state_at(one.start, at)) for at in (*positions, *between)}
        missing = sorted({key: at for at, key in keys.items() if key not in self._known}.values())
        found = self._evaluator.along(one.table, one.start, one.chunks, missing)
        for at, answers in zip(missing, found, strict=True):
            self._known[keys[at]] = answers.outputs.argmax(axis=1)
        shares = one.written / max(1, one.bytes)
        others = [("between", float(shares[at]), self._known[keys[at]]) for at in between]
        for there, walked in ((True, one), (False, one.back())):
            for share, classes in self._tears(walked, seed=TEAR_SEED + there):
                others.append(("torn", share if there else 1 - share, classes))
        return Seen(shares[positions], np.stack([self._known[keys[at]] for at in positions]), tuple(others))

    def _tears(self, one: Way, seed: int) -> list[tuple[float, Classes]]:
        """Share written, and classes, with a chunk half written: shares of way and chunk are those of the seed."""
        generator = np.random.default_rng(seed)
        shares, parts = np.sort(generator.random(self._torn)), generator.random(self._torn)
        if not len(one.chunks):
            return []
        positions = [min(one.position(share), len(one.chunks) - 1) for share in shares]
        widths = [one.table.layer(one.chunks.layers[one.chunks.layer[at]]).width for at in positions]
        tears = [(at, int(part * width)) for at, part, width in zip(positions, parts, widths, strict=True)]
        answers = self._evaluator.torn(one.table, one.start, one.chunks, tears)
        return [(float(s), found.outputs.argmax(axis=1)) for s, found in zip(shares, answers, strict=True)]

    def _key(self, name: str, state: State) -> tuple[object, ...]:
        """What tells states apart: rows that a way made of its own are known by its name."""
        own = any((state[layer].max(initial=0) >= self._bundle.table.versions(layer)) for layer in state)
        return (name if own else "", *(state[layer].tobytes() for layer in sorted(state)))


def loss(labels: NDArray[np.integer[Any]], dense: Classes, classes: Classes) -> tuple[float, float]:
    """Points lost against the dense network on the same samples, and the half-width of the 95 % interval."""
    change = (dense == labels).astype(float) - (classes == labels)
    return 100 * float(change.mean()), 196 * float(change.std(ddof=1)) / len(change) ** 0.5


def costs(bundle: Bundle, move: Transition, name: str, one: Way | None, least: int) -> dict[str, float]:
    """Bytes, weight memory, stored rows, and the time relative to that of writing each changed row once.

    Args:
        bundle: The plan.
        move: The transition.
        name: Strategy.
        one: Its writes; None for those that write no chunks.
        least: Bytes of the rows that change.
    """
    dense = bundle.manifest.model.dense_bytes
    if one is not None:
        extra = sum(pool.nbytes for pool in one.table.pool.values()) - sum(
            pool.nbytes for pool in bundle.table.pool.values()
        )
        return _costs(one.bytes, dense, extra, least)
    if name == "reload":
        written = bundle.mode(move.ends[1]).weight_bytes
        return _costs(written, bundle.mode(move.ends[0]).weight_bytes + written, 0, least)
    changed = replaced_bytes(bundle, *ends_of(bundle, move, PLAIN if name.startswith(PLAIN) else name))
    return _costs(changed, dense + changed, 0, least)


def _costs(written: int, peak: int, extra: int, least: int) -> dict[str, float]:
    return {"bytes": written, "peak_bytes": peak, "extra_rows_bytes": extra, "times": written / max(1, least)}


def replaced_bytes(bundle: Bundle, start: State, end: State) -> int:
    """Bytes of the tensors of which a row changes."""
    return sum(
        layer.row_bytes * layer.units
        for layer in bundle.table.layers
        if not np.array_equal(start[layer.name], end[layer.name])
    )


def changed_bytes(bundle: Bundle, start: State, end: State) -> int:
    """Bytes of the rows that change."""
    return sum(layer.row_bytes * int((start[layer.name] != end[layer.name]).sum()) for layer in bundle.table.layers)


def measured(
    witness: Witness, bundle: Bundle, move: Transition, labels: NDArray[np.integer[Any]]
) -> tuple[dict[str, Any], Mapping[str, Seen]]:
    """All strategies on one transition: figures for the results, and the answers that requests are made of."""
    start, end = ends_of(bundle, move, "")
    dense, least = witness.at(bundle.table.dense()), changed_bytes(bundle, start, end)
    seen: dict[str, Seen] = {}
    figures: dict[str, Any] = {}
    for name in (*IN_PLACE, PLAIN):
        if (one := way(bundle, move, name)) is None:
            continue
        found = seen[name] = witness.along(name, one)
        states = [("whole", float(share), classes) for share, classes in zip(found.shares, found.along, strict=True)]
        figures[name] = {
            "states": [[kind, round(share, 4), *_rounded(loss(labels, dense, classes))]
                       for kind, share, classes in (*states, *found.others)],
            **costs(bundle, move, name, one, least),
        }  # fmt: skip
    for name in AT_ONCE:
        ends = ends_of(bundle, move, PLAIN if name.startswith(PLAIN) else name)
        figures[name] = {
            "states": [["whole", share, *_rounded(loss(labels, dense, witness.at(state)))]
                       for share, state in zip((0.0, 1.0), ends, strict=True)],
            **costs(bundle, move, name, None, least),
        }  # fmt: skip
    return figures, seen


def _rounded(figures: tuple[float, float]) -> list[float]:
    return [round(figure, 3) for figure in figures]


def increments_of(one: Way, count: int) -> list[Increment]:
    """A way's writes in about so many increments of equal bytes, each of a chunk at least."""
    positions = spread_positions(one.chunks, one.table, count + 1)
    return [Increment.gather(one.table, one.chunks, begin, end) for begin, end in pairwise(positions)]


def bank_of(evaluator: Evaluator, one: Way) -> InPlaceBank[Weights]:
    """Weights that stand where a way begins."""
    return InPlaceBank(one.table, one.start, evaluator.session.bind)
