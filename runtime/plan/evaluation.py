"""Evidence: what the network answers in a state, asked of ONNX Runtime as on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.plan.samples import Samples
from runtime.walking.bank import Increment, InPlaceBank
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import Floats, RowTable, State
from runtime.walking.session import Session, Weights

BATCH = 125
"""Samples a run: it bounds the memory of activations. On LeNet-5, 50 to 1,000 took the same time within a tenth; on
VGG-11, walking with 500 took 1.5 GB more than everything before it."""


@dataclass(frozen=True)
class Answers:
    """Outputs for a fixed set of samples in one state.

    Attributes:
        outputs: float32 [N, outputs].
        right: Whether each answer is right, bool [N].
    """

    outputs: Floats
    right: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.mean())

    def distance(self, other: Answers) -> float:
        """Root mean squared distance of the outputs, (mean over samples of |f - f'|²)^½."""
        return float(np.sqrt(((self.outputs - other.outputs).astype(np.float64) ** 2).sum(axis=1).mean()))


class Evaluator:
    """Asks one network, in any state of one row table, for its answers to fixed samples.

    Args:
        session: Live network.
        samples: Inputs and labels.
        count: Called with the number of samples of every pass.
    """

    def __init__(self, session: Session, samples: Samples, count: Callable[[int], None] | None = None) -> None:
        self.session = session
        self.samples = samples
        self._count = count

    def answers(self, weights: Weights) -> Answers:
        """Answers on bound weights."""
        if self._count is not None:
            self._count(len(self.samples))
        inputs = self.samples.inputs
        parts = [self.session.run(inputs[i : i + BATCH], weights) for i in range(0, len(inputs), BATCH)]
        outputs = np.concatenate(parts)
        return Answers(outputs, np.argmax(outputs, axis=1) == self.samples.labels)

    def at(self, table: RowTable, state: State) -> Answers:
        """Answers in one state."""
        with InPlaceBank(table, state, self.session.bind).read() as weights:
            return self.answers(weights)

    def along(self, table: RowTable, start: State, chunks: ChunkList, positions: list[int]) -> Iterator[Answers]:
        """Answers at ascending positions of a path, walked as a device walks it."""
        bank: InPlaceBank[Weights] = InPlaceBank(table, start, self.session.bind)
        done = 0
        for position in positions:
            bank.write(Increment.gather(table, chunks, done, position))
            done = position
            with bank.read() as weights:
                yield self.answers(weights)

    def torn(self, table: RowTable, start: State, chunks: ChunkList, tears: list[tuple[int, int]]) -> Iterator[Answers]:
        """Answers with a chunk half written, for ascending (position, numbers written) pairs."""
        bank: InPlaceBank[Weights] = InPlaceBank(table, start, self.session.bind)
        done = 0
        for position, elements in tears:
            bank.write(Increment.gather(table, chunks, done, position))
            bank.write(Increment((chunks.torn(table, position, elements),)))
            done = position  # the next increment begins with the torn chunk and so repairs it
            with bank.read() as weights:
                yield self.answers(weights)


def random_tears(table: RowTable, chunks: ChunkList, count: int, seed: int) -> list[tuple[int, int]]:
    """Random (position, numbers written) pairs in walking order, each within a chunk; none for an empty list."""
    if not len(chunks):
        return []
    generator = np.random.default_rng(seed)
    positions = np.sort(generator.integers(0, len(chunks), count))
    widths = [table.layer(chunks.layers[chunks.layer[position]]).width for position in positions]
    return [
        (int(position), int(generator.integers(0, width))) for position, width in zip(positions, widths, strict=True)
    ]


def spread_positions(chunks: ChunkList, table: RowTable, count: int) -> list[int]:
    """Up to ``count`` positions about equally far apart in bytes, both ends among them."""
    cumulative = np.concatenate([[0], chunks.chunk_bytes(table).cumsum()])
    marks = np.linspace(0, cumulative[-1], count)
    return sorted({int(np.searchsorted(cumulative, mark)) for mark in marks})
