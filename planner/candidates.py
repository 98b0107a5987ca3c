"""Candidate paths between two modes, how each fared, and the choice among them.

Functional length alone misleads: a long path through good networks beats a short one through a bad network. So first
the bound that the device profile guards, then the cost that the profile's trade-off names (bytes, if nothing else), and
a dearer path must earn it. Where accuracy is the trade-off, lengths decide among paths that are otherwise equally good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq

from device_profiles import Profile
from device_profiles.errors import GeoshiftError
from planner.path_search import Record
from planner.variation import Variation
from runtime.plan import costs
from runtime.plan.costs import TradeOff
from runtime.plan.evaluation import Answers
from runtime.plan.manifest import CostEntry
from runtime.walking.strategies import Compiled

QUANTILE = 1.6449
"""Of the normal distribution, for one-sided bounds of 95 %."""

AS_NEAR = 1.01
"""Worst states are as near to the dense network's outputs as each other within this factor: most are those of an end,
which all paths share, and differ in the last bits."""
AS_SHORT = 1.05
"""Paths are as short as each other within this factor: a way measured at a few states is not known better."""


class NoSafePath(GeoshiftError):
    """Every candidate breaks the bound that the device profile guards."""


class UnknownCost(GeoshiftError):
    """The device profile names a trade-off that it has no figures for. Give the figure, or choose another one."""


@dataclass(frozen=True)
class Candidate:
    """A path and how it fared on the selection split.

    Attributes:
        name: Strategy and its parameter.
        strategy: Name of the strategy.
        path: Its writes, and the rows it needs beside the plan's own.
        bytes_written: Bytes of all writes.
        length: Functional length over the measured states.
        worst: Lowest accuracy over the measured states, torn ones in both directions included.
        bound: Lowest of the states' lower confidence bounds, each paired against the dense network.
        divergence: Largest distance of the outputs from the dense network's over the same states.
        complete: Whether all its states were measured; if not, it was given up at one that rules it out, and ``worst``,
            ``bound``, ``divergence`` and ``length`` are over the states up to that one.
        record: How it was found, where geometry found it.
        fisher_length: Length over the measured states in the softmax Fisher metric.
        variation: What was varied about it, for geodesics and one-pass writes in another order.
        cost: What walking it would cost on the device; None where no device is known.
    """

    name: str
    strategy: str
    path: Compiled
    bytes_written: int
    length: float
    worst: float
    bound: float
    divergence: float
    complete: bool = True
    record: Record | None = None
    fisher_length: float | None = None
    variation: Variation | None = None
    cost: CostEntry | None = None


@dataclass(frozen=True)
class Choice:
    """The path of a transition and what it was chosen from.

    Attributes:
        chosen: The path to deploy.
        candidates: All that were walked.
        feasible: Those within the guard.
        skipped: Names of those that were not walked, because none of them could have been chosen.
        too_dear: Names of those that were not walked, because the budget did not allow it.
        trade_off: What was minimised among the feasible ones.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    feasible: tuple[Candidate, ...]
    skipped: tuple[str, ...] = ()
    too_dear: tuple[str, ...] = ()
    trade_off: TradeOff = "bytes"


def check_trade_off(profile: Profile) -> None:
    """Check that the profile has the figures of the cost that it wants minimised.

    Raises:
        UnknownCost: It lacks one; the text names the field.
    """
    if lacking := costs.missing(profile):
        raise UnknownCost(
            f"profile {profile.name!r}: trade_off: found {profile.trade_off!r} without {lacking}, expected that "
            "figure, without which no path's cost is known: add it with its provenance, or choose another trade_off"
        )


def choose(
    candidates: Sequence[Candidate],
    dense: Answers,
    max_drop: float,
    what: str,
    skipped: Sequence[str] = (),
    too_dear: Sequence[str] = (),
    trade_off: TradeOff = "bytes",
) -> Choice:
    """The path to deploy.

    Feasible are those whose confidence bound stays within ``max_drop`` of the dense network. Of these the cheapest one
    is taken, which by default is the one that writes the fewest bytes; among equals the one with the best worst state,
    then the fewest bytes, the smallest divergence, and the other costs. A dearer one replaces it only when its lower
    bound lies above what the cheaper one reached in its worst state.

    With ``accuracy``, whatever it costs, those stand that no lower bound lies above: counts of wrong answers cannot
    tell their worst states apart. Of these, those are taken whose outputs stray least from the dense network's; of
    these, those whose answers travel the shortest way (the paper's rule, in the softmax Fisher metric); and of those
    that are as short, give or take ``AS_SHORT``, the one that writes the fewest bytes.

    Args:
        candidates: All of them.
        dense: The dense network's answers on the selection split.
        max_drop: Largest accepted drop of accuracy, as a fraction.
        what: Names the transition in the error.
        skipped: Names of candidates that were not walked, since none could have been chosen.
        too_dear: Names of candidates that were not walked for want of budget.
        trade_off: The cost to minimise; other than for bytes and accuracy, candidates must know theirs.

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
            + (f"; {', '.join(too_dear)} were left out, raise --budget to walk them" if too_dear else "")
        )
    chosen = steadiest(feasible) if trade_off == "accuracy" else cheapest(feasible, trade_off)
    return Choice(chosen, tuple(candidates), tuple(feasible), tuple(skipped), tuple(too_dear), trade_off)


def cheapest(feasible: Sequence[Candidate], trade_off: TradeOff) -> Candidate:
    """The one that costs least, or the dearer one that earned it."""
    chosen, *others = sorted(feasible, key=lambda one: _rank(one, trade_off))
    for other in others:
        if price(other, trade_off) > price(chosen, trade_off) and other.bound > chosen.worst:
            chosen = other
    return chosen


def steadiest(feasible: Sequence[Candidate]) -> Candidate:
    """The one of which least is to be feared, whatever it costs: see ``choose``."""
    floor = max(one.bound for one in feasible)
    standing = [one for one in feasible if one.worst >= floor]
    least = min(one.divergence for one in standing)
    near = [one for one in standing if one.divergence <= AS_NEAR * least]
    shortest = min(travelled(one) for one in near)
    return min((one for one in near if travelled(one) <= AS_SHORT * shortest), key=lambda one: _rank(one, "bytes"))


def travelled(one: Candidate) -> float:
    """Fisher length of a path, or its functional length where that is all that is known."""
    return one.length if one.fisher_length is None else one.fisher_length


def price(candidate: Candidate, trade_off: TradeOff) -> float:
    """What a candidate costs by a trade-off; bytes for one that says nothing of costs."""
    cost = candidate.cost
    return candidate.bytes_written if cost is None else costs.price(cost, trade_off)


def _rank(one: Candidate, trade_off: TradeOff) -> tuple[float, ...]:
    """What candidates are sorted by, the best first."""
    rest = () if one.cost is None else (one.cost.seconds, one.cost.cell_writes)
    return (price(one, trade_off), -one.worst, one.bytes_written, one.divergence, *rest)


def is_feasible(candidate: Candidate, dense: Answers, max_drop: float) -> bool:
    """Whether a candidate's worst state is within the guard, with confidence."""
    # The tolerance is for the subtraction above, not for the accuracy: a drop equal to the guard is accepted.
    return candidate.complete and candidate.bound >= dense.accuracy - max_drop - 1e-9


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


def fisher_length(path: Sequence[Answers]) -> float:
    """How far the answers travel along measured states in the softmax Fisher metric, see ``planner.fisher``."""
    return functional_length([rooted(one) for one in path])


def rooted(answers: Answers) -> Answers:
    """The same answers as 2√p, in which distance is Fisher's."""
    logits = answers.outputs.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Answers((2 * np.exp(logits / 2)).astype(np.float32), answers.right)
