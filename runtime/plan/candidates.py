"""The paths that a transition was chosen from, as a plan tells of them: which of them nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from operator import le
from typing import Final

from runtime.plan import costs
from runtime.plan.costs import TradeOff
from runtime.plan.manifest import CandidateEntry

COSTS: Final[tuple[TradeOff, ...]] = ("bytes", "seconds", "energy", "wear")


def front(candidates: Sequence[CandidateEntry], trade_off: TradeOff = "bytes") -> tuple[bool, ...]:
    """Which candidates lie on the Pareto front of cost and worst state, among the feasible ones.

    On it are those to which no other feasible one is better in one respect and as good in the other. Of several that
    are equal in both, all are on it or none.

    Args:
        candidates: Of one transition.
        trade_off: The cost; bytes for ``accuracy``, which is none.
    """
    feasible = [one for one in candidates if one.feasible]
    return tuple(one.feasible and not any(_beats(other, one, trade_off) for other in feasible) for one in candidates)


def front_of_all(candidates: Sequence[CandidateEntry]) -> tuple[bool, ...]:
    """Which candidates lie on the front of all costs that are known and the worst state together.

    On it are those to which no other feasible one is better in one of bytes, seconds, energy, wear and worst state and
    as good in all others. A cost that the profile has no figure for is left out.

    Args:
        candidates: Of one transition.
    """
    feasible = [one for one in candidates if one.feasible]
    known = [kind for kind in COSTS if all(_knows(one, kind) for one in feasible)]
    places = [(*(price(one, kind) for kind in known), -one.worst_accuracy) for one in feasible]

    def beaten(place: tuple[float, ...]) -> bool:
        return any(other != place and all(map(le, other, place)) for other in places)

    on = iter([not beaten(place) for place in places])
    return tuple(one.feasible and next(on) for one in candidates)


def _knows(candidate: CandidateEntry, kind: TradeOff) -> bool:
    cost = candidate.cost
    if cost is None:
        return kind == "bytes"
    return {"energy": cost.joules, "wear": cost.wear}.get(kind, 0.0) is not None


def price(candidate: CandidateEntry, trade_off: TradeOff) -> float:
    """What a candidate costs by a trade-off; the bytes of its rows in plans that do not say more."""
    return candidate.bytes_written if candidate.cost is None else costs.price(candidate.cost, trade_off)


def _beats(one: CandidateEntry, other: CandidateEntry, trade_off: TradeOff) -> bool:
    cheaper = price(one, trade_off) - price(other, trade_off)
    better = other.worst_accuracy - one.worst_accuracy
    return max(cheaper, better) <= 0 and min(cheaper, better) < 0


def lengths(candidate: CandidateEntry) -> tuple[float | None, float | None]:
    """Fisher length over the measured states, and over relaxed waypoints as the search saw it; None where unknown."""
    search = candidate.search
    relaxed = search.fisher_length if search is not None and search.energy_after is not None else None
    return candidate.fisher_length, relaxed
