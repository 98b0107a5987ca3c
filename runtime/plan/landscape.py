"""Paths over the loss: a transition's candidates on a plane of weight space, as a file of the bundle.

The types are the schema; ``docs/bundle.md`` says in words what they must hold. No device needs it; reports draw it.
"""

from __future__ import annotations

import math
from itertools import chain, pairwise
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from runtime.errors import BundleError
from runtime.plan.manifest import Count, NonNegative, TransitionEntry

MAX_LANDSCAPE_BYTES: Final = 256 << 10
"""A picture of 15 × 15 points and eight paths has 12 KB."""
MOST_SIDE: Final = 64
MOST_PATHS: Final = 32
MOST_POINTS: Final = 64


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all records share: frozen, named fields, nothing unknown."""


class LandscapePoint(_Record, frozen=True, kw_only=True):
    """A state of a path, where it lies nearest to on the plane, and how the network itself fares in it."""

    position: Count
    """Chunks of the path written so far."""
    x: float
    y: float
    away: NonNegative
    """Distance of the state from the plane."""
    loss: NonNegative
    """Cross-entropy in the state, not in the plane below it."""
    correct: Count


class LandscapePath(_Record, frozen=True, kw_only=True):
    """A candidate."""

    name: str
    points: Annotated[tuple[LandscapePoint, ...], Meta(min_length=2, max_length=MOST_POINTS)]


Axis = Annotated[tuple[float, ...], Meta(min_length=2, max_length=MOST_SIDE)]


class Landscape(_Record, frozen=True, kw_only=True):
    """Loss on a plane, and paths above it. Lengths are Euclidean, over the rows that any of the paths writes."""

    samples: Annotated[int, Meta(ge=1)]
    """The first so many of ``eval.npz``."""
    spanned_by: str
    """The candidate whose state spans the plane with the two ends."""
    x: Axis
    """Along the line from the mode left, at 0, to the mode reached."""
    y: Axis
    """Across it, towards the third state."""
    loss: tuple[tuple[NonNegative, ...], ...]
    """Cross-entropy, one row for each of ``y``."""
    correct: tuple[tuple[Count, ...], ...]
    """Right answers at the same places."""
    paths: Annotated[tuple[LandscapePath, ...], Meta(min_length=1, max_length=MOST_PATHS)]


def decode(raw: bytes, entry: TransitionEntry, samples: int, origin: str) -> Landscape:
    """Read a landscape.

    Args:
        raw: The file.
        entry: The transition that it belongs to.
        samples: How many samples ``eval.npz`` has.
        origin: Names it in errors.

    Raises:
        BundleError: It is too large, is not JSON, breaks a rule of the types above, or does not fit the transition.
    """
    if len(raw) > MAX_LANDSCAPE_BYTES:
        raise BundleError(f"{origin}: found {len(raw)} bytes, expected at most {MAX_LANDSCAPE_BYTES}")
    try:
        found = msgspec.json.decode(raw, type=Landscape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{origin}: {error}; copy the bundle again, or plan again") from error
    _check_grid(found, samples, origin)
    _check_paths(found, entry, origin)
    return found


def encode(landscape: Landscape) -> bytes:
    """Write a landscape, the same for the same content."""
    return msgspec.json.encode(landscape, order="deterministic") + b"\n"


def _check_grid(found: Landscape, samples: int, origin: str) -> None:
    if found.samples > samples:
        raise BundleError(f"{origin}: samples: found {found.samples}, expected at most the {samples} of eval.npz")
    for name, axis in (("x", found.x), ("y", found.y)):
        if not all(map(math.isfinite, axis)) or any(one >= other for one, other in pairwise(axis)):
            raise BundleError(f"{origin}: {name}: found numbers that do not rise, expected an axis")
    sides = len(found.y), len(found.x)
    for name, rows in (("loss", found.loss), ("correct", found.correct)):
        if len(rows) != sides[0] or any(len(row) != sides[1] for row in rows):
            raise BundleError(f"{origin}: {name}: found another shape, expected [{sides[0]}, {sides[1]}] as the axes")
    points = [point for path in found.paths for point in path.points]
    numbers = [*chain(*found.loss), *(value for one in points for value in (one.x, one.y, one.away, one.loss))]
    if not all(map(math.isfinite, numbers)):
        raise BundleError(f"{origin}: found a number that is not finite, expected finite ones")
    most = max([*chain(*found.correct), *(point.correct for point in points)])
    if most > found.samples:
        raise BundleError(f"{origin}: correct: found {most} right answers, expected at most one for each sample")


def _check_paths(found: Landscape, entry: TransitionEntry, origin: str) -> None:
    names = [path.name for path in found.paths]
    known = {one.name for one in entry.candidates}
    if strange := sorted({found.spanned_by, *names} - known):
        raise BundleError(f"{origin}: found path {strange[0]!r}, expected candidates of {entry.from_} → {entry.to}")
    if len(set(names)) != len(names):
        raise BundleError(f"{origin}: found a path twice, expected each once")
    for path in found.paths:
        at = [point.position for point in path.points]
        if at[0] != 0 or any(one >= other for one, other in pairwise(at)):
            raise BundleError(f"{origin}: path {path.name!r}: found positions {at}, expected them to rise from 0")
    for chosen in (one for one in entry.candidates if one.chosen):
        for path in found.paths:
            if path.name == chosen.name and path.points[-1].position != entry.chunks:
                raise BundleError(
                    f"{origin}: path {path.name!r}: found its end at chunk {path.points[-1].position}, "
                    f"expected {entry.chunks}"
                )
