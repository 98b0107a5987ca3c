"""The paths that a transition was chosen from, as a plan tells of them: which of them nothing beats."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.manifest import CandidateEntry


def front(candidates: Sequence[CandidateEntry]) -> tuple[bool, ...]:
    """Which candidates lie on the Pareto front of bytes written and worst state, among the feasible ones.

    On it are those to which no other feasible one is better in one respect and as good in the other. Of several that
    are equal in both, all are on it or none.
    """
    feasible = [one for one in candidates if one.feasible]
    return tuple(one.feasible and not any(_beats(other, one) for other in feasible) for one in candidates)


def _beats(one: CandidateEntry, other: CandidateEntry) -> bool:
    cheaper, better = one.bytes_written - other.bytes_written, other.worst_accuracy - one.worst_accuracy
    return max(cheaper, better) <= 0 and min(cheaper, better) < 0


def lengths(candidate: CandidateEntry) -> tuple[float | None, float | None]:
    """Fisher length over the measured states, and over relaxed waypoints as the search saw it; None where unknown."""
    search = candidate.search
    relaxed = search.fisher_length if search is not None and search.energy_after is not None else None
    return candidate.fisher_length, relaxed
