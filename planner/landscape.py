"""Paths over the loss: the paper's figure 2E for the candidates of one transition.

A plane through three networks is laid into weight space, over the rows that any of the paths writes: the mode left, the
mode reached, and the middle of a geodesic. The network is asked at the points of a grid on it, and in states of each
path. Paths leave the plane; they are drawn where they lie nearest to it, and how far away that is goes with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.candidates import Candidate, Choice
from planner.study import GEODESICS
from runtime.plan.candidates import front
from runtime.plan.costs import TradeOff
from runtime.plan.evaluation import Answers, Evaluator, spread_positions
from runtime.plan.landscape import Landscape, LandscapePath, LandscapePoint
from runtime.plan.manifest import CandidateEntry
from runtime.walking.bank import Increment, InPlaceBank
from runtime.walking.rows import Ints, RowTable, State

SIDE = 15
"""Points of the grid in each direction."""
STATES = 17
"""States of each path, both ends among them: four to a leg of a geodesic."""
MARGIN = 0.2
"""Of the paths' extent, drawn around them."""
FLAT = 0.01
"""Share of the distance between the ends below which a state is taken to lie on the line between them."""
SAMPLES = 128
LARGEST = 350_000
"""Multiply-accumulates for one sample up to which a landscape is drawn unasked. Grid and paths are about 350 states;
with 128 samples each they take up to 1.6e10 of them for a transition, seconds on one core. Digits take 0.4 s."""
LARGEST_LOSS = 1e6
"""Stands for whatever is larger or not finite."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """A plane through three points of weight space, with the first at its origin.

    Attributes:
        origin: First point, shape [n].
        across: Unit vector towards the second.
        up: Unit vector towards the third, at right angles to it.
        width: Distance of the second point.
        height: Distance of the third from the line through the others.
    """

    origin: Vector
    across: Vector
    up: Vector
    width: float
    height: float

    @classmethod
    def through(cls, origin: Vector, second: Vector, third: Vector) -> Plane | None:
        """The plane; None where the points lie on one line, or nearly, so that there are many."""
        across = second - origin
        width = float(np.linalg.norm(across))
        if width == 0.0:
            return None
        across = across / width
        up = third - origin
        up = up - (up @ across) * across
        height = float(np.linalg.norm(up))
        return None if height < FLAT * width else cls(origin, across, up / height, width, height)

    def at(self, x: float, y: float) -> Vector:
        """A point of the plane."""
        return self.origin + x * self.across + y * self.up

    def coordinates(self, point: Vector) -> tuple[float, float, float]:
        """Place on the plane that is nearest to a point, and its distance."""
        offset = point - self.origin
        x, y = float(offset @ self.across), float(offset @ self.up)
        return x, y, float(np.linalg.norm(offset - x * self.across - y * self.up))


@dataclass(frozen=True)
class _Rows:
    """The rows that any of the paths writes, as coordinates."""

    table: RowTable
    rows: Mapping[str, Ints]

    @classmethod
    def of(cls, table: RowTable, paths: Sequence[Candidate]) -> _Rows:
        written: dict[str, set[int]] = {}
        for one in paths:
            for index, row in zip(one.path.chunks.layer.tolist(), one.path.chunks.row.tolist(), strict=True):
                written.setdefault(one.path.chunks.layers[index], set()).add(row)
        return cls(table, {name: np.array(sorted(written[name]), np.int32) for name in table.names if name in written})

    def vector(self, table: RowTable, state: State) -> Vector:
        """Coordinates of a state, on a table that knows its versions."""
        parts = [table.rows(name, rows, state[name][rows]).ravel() for name, rows in self.rows.items()]
        return np.concatenate(parts).astype(np.float64)

    def increment(self, vector: Vector) -> Increment:
        """Writes that lead to coordinates."""
        writes, begin = [], 0
        for name, rows in self.rows.items():
            width = self.table.layer(name).width
            values = vector[begin : begin + len(rows) * width].reshape(-1, width).astype(np.float32)
            writes.append((name, rows, values))
            begin += len(rows) * width
        return Increment(tuple(writes))


def draw(
    evaluator: Evaluator, table: RowTable, ends: tuple[State, State], choice: Choice, entries: Sequence[CandidateEntry]
) -> Landscape | None:
    """Candidates of one transition over the loss.

    Args:
        evaluator: Asks on the samples that loss is measured on; whatever it counts is counted.
        table: Table that the candidates were compiled from.
        ends: State left and state reached.
        choice: The candidates.
        entries: The same as the manifest has them.

    Returns:
        The landscape; None where the ends are equal or every state lies on the line between them.
    """
    shown = [one for one, on in zip(choice.candidates, _shown(entries, choice.trade_off), strict=True) if on]
    rows = _Rows.of(table, shown)
    if not rows.rows:
        return None
    start, stop = (rows.vector(table, end) for end in ends)
    found = _plane(rows, table, ends[0], start, stop, shown, choice.chosen)
    if found is None:
        return None
    plane, spanned_by = found
    paths = tuple(_path(evaluator, plane, rows, table, ends[0], one) for one in shown)
    points = [point for path in paths for point in path.points]
    x, y = _axis([point.x for point in points]), _axis([*(point.y for point in points), plane.height])
    bank = InPlaceBank(table, ends[0], evaluator.session.bind)
    loss, correct = [], []
    for height in y:
        line = []
        for across in x:
            bank.write(rows.increment(plane.at(across, height)))
            with bank.read() as weights:
                line.append(evaluator.answers(weights))
        loss.append(tuple(cross_entropy(answers, evaluator.samples.labels) for answers in line))
        correct.append(tuple(int(answers.right.sum()) for answers in line))
    return Landscape(
        samples=len(evaluator.samples), spanned_by=spanned_by, x=x, y=y, loss=tuple(loss), correct=tuple(correct),
        paths=paths,
    )  # fmt: skip


def cross_entropy(answers: Answers, labels: NDArray[np.int64]) -> float:
    """Mean cross-entropy of outputs as logits, to six digits."""
    with np.errstate(over="ignore", invalid="ignore"):
        logits = answers.outputs.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[np.arange(len(labels)), labels]
        found = float((np.log(np.exp(logits).sum(axis=1)) - right).mean())
    return _digits(min(found, LARGEST_LOSS) if math.isfinite(found) else LARGEST_LOSS)


def _shown(entries: Sequence[CandidateEntry], trade_off: TradeOff) -> tuple[bool, ...]:
    """What is drawn: the front and the chosen path, and of each strategy the one with the best worst state."""
    best: dict[str, CandidateEntry] = {}
    for one in sorted(entries, key=lambda one: (not one.complete, -one.worst_accuracy, one.functional_length)):
        best.setdefault(one.strategy, one)
    return tuple(
        one.chosen or on or one is best[one.strategy]
        for one, on in zip(entries, front(entries, trade_off), strict=True)
    )


def _plane(
    rows: _Rows, table: RowTable, begin: State, start: Vector, stop: Vector, shown: Sequence[Candidate],
    chosen: Candidate,
) -> tuple[Plane, str] | None:  # fmt: skip
    """The plane through both ends and the best geodesic's middle, or else a path's state farthest from the line."""
    geodesics = [one for one in shown if one.strategy == GEODESICS]
    for one in sorted(geodesics, key=lambda one: (not one.complete, -one.worst, one.length)):
        own = one.path.table(table)
        middle = spread_positions(one.path.chunks, own, 3)[1]
        plane = Plane.through(start, stop, rows.vector(own, one.path.chunks.state_at(begin, middle)))
        if plane is not None:
            return plane, one.name
    for one in sorted(shown, key=lambda one: one is not chosen):
        planes = [Plane.through(start, stop, vector) for _, vector in _states(rows, table, begin, one)]
        if found := [plane for plane in planes if plane is not None]:
            return max(found, key=lambda plane: plane.height), one.name
    return None


def _states(rows: _Rows, table: RowTable, begin: State, one: Candidate) -> Iterator[tuple[int, Vector]]:
    """Position and coordinates of states of a path, equally far apart in bytes."""
    own = one.path.table(table)
    for position in spread_positions(one.path.chunks, own, STATES):
        yield position, rows.vector(own, one.path.chunks.state_at(begin, position))


def _path(
    evaluator: Evaluator, plane: Plane, rows: _Rows, table: RowTable, begin: State, one: Candidate
) -> LandscapePath:
    own, chunks = one.path.table(table), one.path.chunks
    states = list(_states(rows, table, begin, one))
    answers = evaluator.along(own, begin, chunks, [position for position, _ in states])
    points = []
    for (position, vector), found in zip(states, answers, strict=True):
        x, y, away = (_digits(value) for value in plane.coordinates(vector))
        points.append(
            LandscapePoint(
                position=position, x=x, y=y, away=away, loss=cross_entropy(found, evaluator.samples.labels),
                correct=int(found.right.sum()),
            )
        )  # fmt: skip
    return LandscapePath(name=one.name, points=tuple(points))


def _axis(values: Sequence[float]) -> tuple[float, ...]:
    low, high = min(values), max(values)
    edge = MARGIN * (high - low)
    return tuple(_digits(float(value)) for value in np.linspace(low - edge, high + edge, SIDE))


def _digits(value: float) -> float:
    """Six significant digits: more are not seen in a picture."""
    return float(f"{value:.6g}")
