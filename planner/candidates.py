"""Candidate paths between two modes, and the choice among them.

Functional length alone misleads: a long path through good networks beats a short one through a bad network. So first
the bound that the device profile guards, then bytes, and a longer path must earn its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq

from device_profiles.errors import GeoshiftError
from runtime import strategies
from runtime.chunks import ChunkList
from runtime.evaluation import Answers, Evaluator, random_tears, spread_positions
from runtime.rows import Floats, RowTable, State
from runtime.strategies import Compiled, Point

STEPS = (4, 10)
"""Points of the ramps and lines considered. On a network of 300 hidden units a ramp of 21 points was no better than
one ordered pass, so few points suffice to find out whether a network is different."""
POSITIONS = 9
TEARS = 4
QUANTILE = 1.6449
"""Of the normal distribution, for one-sided bounds of 95 %."""


class NoSafePath(GeoshiftError):
    """Every candidate breaks the bound that the device profile guards."""


@dataclass(frozen=True)
class Candidate:
    """A path and how it fared on the selection split.

    Attributes:
        name: Strategy and its parameter.
        strategy: Name of the strategy.
        table: Table that knows its rows.
        chunks: Its writes.
        rows: Rows it needs beside the plan's own, by layer.
        bytes_written: Bytes of all writes.
        length: Functional length over the measured states.
        worst: Lowest accuracy over the measured states, torn ones in both directions included.
        bound: Lowest of the states' lower confidence bounds, each paired against the dense network.
        divergence: Largest distance of the outputs from the dense network's over the same states.
    """

    name: str
    strategy: str
    table: RowTable
    chunks: ChunkList
    rows: Mapping[str, Floats]
    bytes_written: int
    length: float
    worst: float
    bound: float
    divergence: float


@dataclass(frozen=True)
class Choice:
    """The path of a transition and what it was chosen from.

    Attributes:
        chosen: The path to deploy.
        candidates: All that were walked.
        feasible: Those within the guard.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    feasible: tuple[Candidate, ...]


def compile_all(
    table: RowTable, start: State, end: State, geodesics: Mapping[str, Sequence[Point]]
) -> dict[str, Compiled]:
    """Candidate name to its chunk list; the part of the name before a space is the strategy."""
    compiled = {
        "ordered": strategies.ordered(table, start, end),
        "zero-first": strategies.zero_first(table, start, end),
        "naive": strategies.naive(table, start, end),
    }
    for steps in STEPS:
        compiled[f"ramp {steps}"] = strategies.ramp(table, start, end, steps)
        compiled[f"linear {steps}"] = strategies.linear(table, start, end, steps)
    for name, points in geodesics.items():
        compiled[f"geodesic {name}"] = strategies.waypoints(table, start, end, points)
    return compiled


def measure(
    evaluator: Evaluator,
    dense: Answers,
    table: RowTable,
    start: State,
    compiled: Mapping[str, Compiled],
    seed: int,
    step: Callable[[str], None],
) -> list[Candidate]:
    """Walk every candidate on the selection split.

    Args:
        evaluator: Asks on the selection split.
        dense: The dense network's answers there.
        table: The plan's rows.
        start: State that the paths begin at.
        compiled: Candidate name to chunk list, as ``compile_all`` returns.
        seed: Seed of the torn states.
        step: Called with each name before it is walked.
    """
    candidates: list[Candidate] = []
    for name, path in compiled.items():
        step(name)
        own = path.table(table)
        waypoints = list(evaluator.along(own, start, path.chunks, spread_positions(path.chunks, own, POSITIONS)))
        back, end = path.chunks.reversed(), path.chunks.state_at(start, len(path.chunks))
        torn = [
            answers
            for chunks, begin in ((path.chunks, start), (back, end))
            for answers in evaluator.torn(own, begin, chunks, random_tears(own, chunks, TEARS, seed))
        ]
        measured = [*waypoints, *torn]
        candidates.append(
            Candidate(
                name=name,
                strategy=name.split()[0],
                table=own,
                chunks=path.chunks,
                rows=path.rows,
                bytes_written=path.chunks.total_bytes(own),
                length=functional_length(waypoints),
                worst=min(answers.accuracy for answers in measured),
                bound=dense.accuracy - max(drop_bound(dense, answers) for answers in measured),
                divergence=max(answers.distance(dense) for answers in measured),
            )
        )
    return candidates


def choose(candidates: Sequence[Candidate], dense: Answers, max_drop: float, what: str) -> Choice:
    """The path to deploy.

    Feasible are those whose confidence bound stays within ``max_drop`` of the dense network. Of these the one that
    writes the fewest bytes is taken; among equals the one with the best worst state, then the smallest divergence. A
    longer one replaces it only when its lower bound lies above what the shorter one reached in its worst state.

    Args:
        candidates: All of them.
        dense: The dense network's answers on the selection split.
        max_drop: Largest accepted drop of accuracy, as a fraction.
        what: Names the transition in the error.

    Raises:
        NoSafePath: None is feasible.
    """
    feasible = [one for one in candidates if is_feasible(one, dense, max_drop)]
    if not feasible:
        best = max(candidates, key=lambda one: one.bound)
        raise NoSafePath(
            f"{what}: found at best {best.name}, whose worst state is right on {best.worst:.2%} of the selection split "
            f"(lower bound {best.bound:.2%}), expected a lower bound of at least {dense.accuracy - max_drop:.2%}; "
            "remove fewer units, give more selection samples (--selection), or loosen guard.max_drop_points"
        )
    chosen, *others = sorted(feasible, key=lambda one: (one.bytes_written, -one.worst, one.divergence))
    for other in others:
        if other.bytes_written > chosen.bytes_written and other.bound > chosen.worst:
            chosen = other
    return Choice(chosen, tuple(candidates), tuple(feasible))


def is_feasible(candidate: Candidate, dense: Answers, max_drop: float) -> bool:
    """Whether a candidate's worst state is within the guard, with confidence."""
    # The tolerance is for the subtraction above, not for the accuracy: a drop equal to the guard is accepted.
    return candidate.bound >= dense.accuracy - max_drop - 1e-9


def drop_bound(dense: Answers, other: Answers) -> float:
    """Upper 95 % confidence bound of the paired drop of accuracy, one-sided.

    Tango's score bound for the difference of two paired proportions: the largest drop δ that the answers lost (b) and
    gained (c) do not contradict. Unlike the normal bound it holds for few or no changed answers: with none of N, it
    is 2.7 / (N + 2.7).

    Reference:
        Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
        design", Statistics in Medicine 17 (1998), 891-908.
    """
    count = len(dense.right)
    lost = int((dense.right & ~other.right).sum())
    gained = int((~dense.right & other.right).sum())

    def excess(drop: float) -> float:
        # q: the likeliest share of gained answers if the drop were `drop`, the root of 2N q² + p q + r = 0.
        p = -lost - gained + (2 * count - lost + gained) * drop
        r = -gained * drop * (1 - drop)
        q = (math.sqrt(max(p * p - 8 * count * r, 0.0)) - p) / (4 * count)
        deviation = math.sqrt(max(count * (2 * q + drop * (1 - drop)), 0.0))
        return lost - gained - count * drop + QUANTILE * deviation

    # Just above the estimate the score is below its quantile; at the estimate itself it may be 0 / 0.
    low = (lost - gained) / count + 1e-9
    return 1.0 if low >= 1.0 else float(brentq(excess, low, 1.0, xtol=1e-9))


def functional_length(path: Sequence[Answers]) -> float:
    """How far the outputs travel along measured states."""
    return float(np.sum([one.distance(other) for one, other in pairwise(path)]))
