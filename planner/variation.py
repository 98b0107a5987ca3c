"""What a study varies: how geodesics are searched, and in which order rows are written.

A parameter acts on some searches only: β and the solver on the flow and what is relaxed from it, the order of rows on
the one-pass write. A grid of variations therefore gives each search once for each set of the parameters that act on
it, and its name says these and no others. docs/geometry.md has the figures of what each of them does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, Final, Literal, NamedTuple, get_args

from device_profiles.errors import GeoshiftError

SolverName = Literal["auto", "lanczos", "dual"]
MetricName = Literal["outputs", "fisher"]
OrderName = Literal["unit", "steady"]

ORDERED: Final = "ordered"
SEARCHES: Final = ("flow", "relaxed-flow", "relaxed-line", "corrected")
"""What a search of geodesics gives, see ``planner.path_search``."""
_FLOWING: Final = ("flow", "relaxed-flow")
_ACTS: Final = {
    "beta": _FLOWING,
    "solver": _FLOWING,
    "damping": SEARCHES,
    "metric": SEARCHES,
    "probes": SEARCHES,
    "seed": SEARCHES,
    "order": (ORDERED,),
}
MOST: Final = 256
"""Variations of one study: each is searched for every transition, and a longer list is a slip."""


class VariationError(GeoshiftError):
    """A variation is not one that can be searched."""


@dataclass(frozen=True)
class Variation:
    """One choice of the parameters.

    Attributes:
        beta: β of eq. (5), over its natural scale.
        damping: ε of the relaxation and δ of the correction, over their natural scale.
        solver: Where tangents are solved for: Krylov space, the space of outputs, or whichever costs less.
        metric: What the pullback metric counts: outputs, or answers as the softmax Fisher metric does.
        probes: How many inputs the metric sees; 0 for the plan's own number.
        seed: Which inputs these are.
        order: Order of the rows of a layer in the one-pass write: by their index, or so that the outputs move steadily.
    """

    beta: float = 1.0
    damping: float = 1.0
    solver: SolverName = "auto"
    metric: MetricName = "outputs"
    probes: int = 0
    seed: int = 0
    order: OrderName = "unit"

    def __post_init__(self) -> None:
        for name in ("beta", "damping"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise VariationError(f"{name}: found {value}, expected a positive number, 1 for its natural scale")
        for name, names in (("solver", SolverName), ("metric", MetricName), ("order", OrderName)):
            if getattr(self, name) not in get_args(names):
                raise VariationError(f"{name}: found {getattr(self, name)!r}, expected {' or '.join(get_args(names))}")
        for name in ("probes", "seed"):
            if getattr(self, name) < 0:
                raise VariationError(f"{name}: found {getattr(self, name)}, expected a number of at least 0")

    def __str__(self) -> str:
        """What differs from the default, such as ``beta=0.3 seed=1``; nothing for the default itself."""
        said = ((one.name, getattr(self, one.name), one.default) for one in fields(self))
        return " ".join(f"{name}={value if isinstance(value, str) else f'{value:g}'}" for name, value, default in said
                        if value != default)  # fmt: skip

    def acting_on(self, searches: Iterable[str]) -> Variation:
        """The same with whatever acts on none of these at its default."""
        acting = set(searches)
        idle: dict[str, Any] = {one.name: one.default for one in fields(self) if not acting & {*_ACTS[one.name]}}
        return replace(self, **idle)

    def named(self, kind: str, search: str) -> str:
        """Name of what is found, such as ``geodesic relaxed-line seed=1``."""
        return " ".join(word for word in (kind, str(self.acting_on([search]))) if word)


DEFAULT: Final = Variation()


class Searched(NamedTuple):
    """A variation, and the searches that no earlier one of the grid has made with the same parameters."""

    variation: Variation
    searches: tuple[str, ...]


def distinct(grid: Sequence[Variation]) -> list[Searched]:
    """What there is to search for in a grid, nothing twice."""
    seen: set[tuple[str, Variation]] = set()
    found = []
    for variation in grid:
        keys = {search: (search, variation.acting_on([search])) for search in SEARCHES}
        if own := tuple(search for search, key in keys.items() if key not in seen):
            seen |= {keys[search] for search in own}
            found.append(Searched(variation.acting_on(own), own))
    return found


def orders(grid: Sequence[Variation]) -> list[Variation]:
    """The orders of a grid in which the one-pass write is to be tried beside that of the units."""
    return sorted({one.acting_on([ORDERED]) for one in grid} - {DEFAULT}, key=str)


def crossed(axes: Mapping[str, Sequence[Any] | None]) -> tuple[Variation, ...]:
    """Every combination of the values of some parameters; the others stay at their defaults.

    Raises:
        VariationError: There are more than ``MOST``, or a value is out of range.
    """
    given = {one.name: tuple(dict.fromkeys(axes.get(one.name) or ())) or (one.default,) for one in fields(Variation)}
    count = math.prod(map(len, given.values()))
    if count > MOST:
        raise VariationError(f"study: found {count} combinations, expected at most {MOST}; give fewer values")
    return tuple(Variation(*chosen) for chosen in product(*given.values()))


def grid(study: str, axes: Mapping[str, Sequence[Any] | None]) -> tuple[Variation, ...]:
    """The variations that were asked for: a study by its name, or every combination of given values.

    Args:
        study: A name of ``STUDIES``.
        axes: Values by parameter; None or nothing where none was given.

    Raises:
        VariationError: There is no such study, both were asked for, or a value is out of range.
    """
    if study not in STUDIES:
        raise VariationError(f"study: found {study!r}, expected {' or '.join(STUDIES)}")
    named = sorted(name for name, values in axes.items() if values)
    if not named:
        return STUDIES[study]
    if study != "small":
        raise VariationError(
            f"study: found {study!r} and values of {', '.join(named)}, expected one or the other; leave --study out"
        )
    return crossed(axes)


SMALL: Final = (DEFAULT,)
"""One search of each kind: between a dense network and one whose readers were refitted, no other had a better worst
state than chance gives."""
WIDE: Final = (
    DEFAULT,
    *(Variation(beta=beta) for beta in (0.1, 0.3, 3.0)),
    *(Variation(seed=seed) for seed in (1, 2)),
    Variation(probes=256),
    Variation(metric="fisher"),
)
"""One parameter at a time, around the default: those that changed a worst state somewhere, see docs/geometry.md.
Damping, the solver and the order of rows changed none, and have to be asked for."""
STUDIES: Final = {"small": SMALL, "wide": WIDE}
