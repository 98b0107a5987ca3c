"""Who decides about the mode, and what that means for a walk under way: pure functions of what is asked for.

Safety sets a ceiling: the network goes no higher than its mode, whatever the others say. Below it the highest rank that
asks for anything decides: manual, then holds, then triggers, then the profile. Where several of one rank ask, the mode
of lowest power wins. Modes are compared by their multiply-accumulates, which the plan knows for certain; a meter's
figure would change with the load, and the decision with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from runtime.device.views import RANKS, Rank


@dataclass(frozen=True)
class Wish:
    """Somebody asks for a mode.

    Attributes:
        mode: Mode asked for.
        source: Who asks.
        reason: Why, in words.
        until_s: When the wish ends, on the device's clock; None for no end.
    """

    mode: str
    source: str
    reason: str
    until_s: float | None = None

    def stands(self, now_s: float) -> bool:
        """Whether the wish has not ended yet."""
        return self.until_s is None or now_s < self.until_s


@dataclass(frozen=True)
class Situation:
    """All that is asked for at one moment.

    Attributes:
        order: All modes, that of lowest power first.
        default: The profile's wish.
        safety: Rules of safety that are active.
        manual: What a user asked for, or None.
        holds: Holds.
        triggers: Triggers that are active.
    """

    order: tuple[str, ...]
    default: Wish
    safety: tuple[Wish, ...] = ()
    manual: Wish | None = None
    holds: tuple[Wish, ...] = ()
    triggers: tuple[Wish, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Who decides, and for which mode."""

    mode: str
    rank: Rank
    source: str
    reason: str
    until_s: float | None = None

    @property
    def key(self) -> tuple[str, Rank, str]:
        """What makes it another decision: mode, rank or source."""
        return self.mode, self.rank, self.source


def higher(one: Rank, other: Rank) -> bool:
    """Whether ``one`` decides over ``other``."""
    return RANKS.index(one) < RANKS.index(other)


def decide(situation: Situation, now_s: float) -> Decision:
    """Who decides at a moment, and for which mode.

    Args:
        situation: What is asked for; wishes that have ended are left out.
        now_s: The moment, on a clock that never jumps.
    """
    order, default = situation.order, situation.default
    manual = () if situation.manual is None else (situation.manual,)
    below = (
        _lowest("manual", manual, order, now_s)
        or _lowest("hold", situation.holds, order, now_s)
        or _lowest("trigger", situation.triggers, order, now_s)
        or Decision(default.mode, "default", default.source, default.reason)
    )
    ceiling = _lowest("safety", situation.safety, order, now_s)
    if ceiling is None or order.index(below.mode) <= order.index(ceiling.mode):
        return below
    return ceiling


def next_end_s(situation: Situation, now_s: float) -> float | None:
    """When the next wish ends by itself, or None if none does."""
    wishes: Iterable[Wish | None] = (*situation.safety, situation.manual, *situation.holds, *situation.triggers)
    ends = [wish.until_s for wish in wishes if wish is not None and wish.until_s is not None and wish.until_s > now_s]
    return min(ends, default=None)


def _lowest(rank: Rank, wishes: tuple[Wish, ...], order: tuple[str, ...], now_s: float) -> Decision | None:
    standing = [wish for wish in wishes if wish.stands(now_s)]
    if not standing:
        return None
    # Of equal ones the first, so that a decision keeps its source while others come and go.
    wish = min(standing, key=lambda one: order.index(one.mode))
    return Decision(wish.mode, rank, wish.source, wish.reason, wish.until_s)


@dataclass(frozen=True)
class Walk:
    """A walk under way.

    Attributes:
        target: Mode it should reach.
        rank: Rank that backs it.
        free: Whether it can still be turned: it is walking or paused, or was cancelled and is on its way back.
        paused: Whether it stands still until somebody lets it go on, so that it has no end to wait for.
    """

    target: str
    rank: Rank
    free: bool
    paused: bool = False


class Step(Enum):
    """What a decision means for the network now."""

    STAY = "stay"
    """It stands at the mode, or is on its way there."""
    BEGIN = "begin"
    """Begin to walk there."""
    TURN = "turn"
    """Turn the walk under way."""
    BACK = "back"
    """Let the walk go on, with the rank of the decision behind it."""
    WAIT = "wait"
    """Look again once the walk under way has ended."""


def step(decision: Decision, at: str, walk: Walk | None) -> Step:
    """What a decision means for a network that stands at a mode or walks.

    Args:
        decision: Who decides.
        at: Mode reached last.
        walk: The walk under way, or None.
    """
    if walk is None:
        return Step.STAY if decision.mode == at else Step.BEGIN
    if decision.mode == walk.target:
        # A pause is the last word of the rank that backs the walk, and ends with it.
        passes = higher(decision.rank, walk.rank) or (walk.paused and decision.rank != walk.rank)
        return Step.BACK if passes else Step.STAY
    # What began a paused walk decides no more, and its end may never come.
    return Step.TURN if walk.paused or (walk.free and higher(decision.rank, walk.rank)) else Step.WAIT
