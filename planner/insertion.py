"""Waypoints inserted into a path where something hides between two of them: outputs that bend, or lost accuracy.

By itself an insertion changes no state of the path. It gives a relaxation a waypoint where one is needed: what hides
between waypoints costs it nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from planner.geodesic import Metric, functional_length
from planner.relaxation import respace

Seen = TypeVar("Seen")

DIP = 0.5
"""Deviation of a leg's middle, as a share of the leg, from which a waypoint is inserted."""


@dataclass(frozen=True)
class Judge:
    """What a network is worth at a point, beside what the metric says.

    Attributes:
        accuracy: Share of right answers at a point, on samples that nothing is fitted on; any other figure that a guard
            is set on will do, such as a lower bound of it.
        tolerated: By how much the middle of a leg may lie below the lower of its ends.
    """

    accuracy: Callable[[Tensor], float]
    tolerated: float


def at_bends(metric: Metric, points: Sequence[Tensor], *, most: int, share: float = DIP) -> tuple[Tensor, ...]:
    """A path with the middle of a leg inserted wherever the network leaves the chord between its ends.

    The deviation of a leg is |f(middle) − (f(a) + f(b))/2| over |f(b) − f(a)|: 0 where outputs go straight, large where
    a barrier hides between waypoints. The largest deviations are seen to first.

    Args:
        metric: Pullback metric.
        points: Waypoints, at least two.
        most: Legs that the result may have.
        share: Deviation from which a waypoint is inserted.
    """

    def deviation(first: Tensor, middle: Tensor, last: Tensor) -> float:
        chord = functional_length([first, last])
        return functional_length([middle, (first + last) / 2]) / chord if chord else 0.0

    return _inserted(points, metric.outputs, deviation, share, most)


def at_dips(points: Sequence[Tensor], judge: Judge, *, most: int) -> tuple[Tensor, ...]:
    """A path with the middle of a leg inserted wherever the accuracy there is lower than at both of its ends.

    The deepest dips are seen to first.

    Args:
        points: Waypoints, at least two.
        judge: Says how accurate the network is, and which dip is tolerated.
        most: Legs that the result may have.
    """
    return _inserted(points, judge.accuracy, _depth, judge.tolerated, most)


def spaced_with_middles(
    metric: Metric, points: Sequence[Tensor], *, epsilon: float, legs: int, judge: Judge | None
) -> tuple[Tensor, ...]:
    """A path in legs of equal length, and its own middle between two points where the accuracy dips between them."""
    spaced = respace(metric, points, epsilon=epsilon, legs=legs)
    if judge is None:
        return spaced
    seen = [judge.accuracy(point) for point in spaced]
    dips = [
        _depth(seen[leg], judge.accuracy(_middle(spaced, leg)), seen[leg + 1]) > judge.tolerated for leg in range(legs)
    ]
    if not any(dips):
        return spaced
    middles = respace(metric, points, epsilon=epsilon, legs=2 * legs)[1::2]
    inner = [(middle, point) if dip else (point,) for dip, middle, point in zip(dips, middles, spaced[1:], strict=True)]
    return (spaced[0], *(point for leg in inner for point in leg))


def _inserted(
    points: Sequence[Tensor],
    look: Callable[[Tensor], Seen],
    how_far: Callable[[Seen, Seen, Seen], float],
    tolerated: float,
    most: int,
) -> tuple[Tensor, ...]:
    """A path with middles of legs inserted, that of the leg which is furthest off first.

    Args:
        points: Waypoints, at least two.
        look: What is seen at a point.
        how_far: How far a leg is off, by what is seen at its begin, middle and end.
        tolerated: What is not more than this is left alone.
        most: Legs that the result may have.
    """
    here, seen = list(points), [look(point) for point in points]

    def leg_at(leg: int) -> tuple[Tensor, Seen, float]:
        middle = _middle(here, leg)
        there = look(middle)
        return middle, there, how_far(seen[leg], there, seen[leg + 1])

    legs = [leg_at(leg) for leg in range(len(here) - 1)]
    while len(legs) < most:
        worst = max(range(len(legs)), key=lambda leg: legs[leg][2])
        middle, there, off = legs[worst]
        if not off > tolerated:
            break
        here.insert(worst + 1, middle)
        seen.insert(worst + 1, there)
        legs[worst : worst + 1] = [leg_at(leg) for leg in (worst, worst + 1)]
    return tuple(here)


def _depth(first: float, middle: float, last: float) -> float:
    """By how much the middle of a leg lies below the lower of its ends."""
    return min(first, last) - middle


def _middle(points: Sequence[Tensor], leg: int) -> Tensor:
    return torch.lerp(points[leg], points[leg + 1], 0.5)
