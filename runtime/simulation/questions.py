"""What a device asks itself to know that its weights may be trusted: the canary at a mode, the guard on the way.

The questions and what counts as an answer are those of ``runtime.walking.net``. On a device they are asked beside the
callers, on a thread of low priority (``runtime.walking.behind``). Here, as on a board of one core: they get the time
that callers leave, and while callers keep the core busy a seventieth of what those get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from runtime.plan.bundle import Bundle
from runtime.simulation.latency import LIVE
from runtime.simulation.line import Line
from runtime.simulation.paths import Place
from runtime.walking.behind import SLOWER
from runtime.walking.engine import Runner
from runtime.walking.net import DeployedPlan
from runtime.walking.route import Leg

_DONE_S: Final = 1e-6


class Questions:
    """What is asked of one network, and what that takes.

    Args:
        plan: Knows the questions.
        latency_s: Mode, and ``live``, to the seconds of one answer.
        macs: Mode to the multiply-accumulates of one answer.
        verdicts: Verdicts that are known already, by question and state; new ones are put there.
        family: What else a state on the way is called by.
        every: Increments between two questions of the guard; 0 for none.
        snap: Whether a mode is answered from its compact graph, which is asked, too.
        trusting: Whether every answer will do; the time is taken all the same.
    """

    def __init__(
        self,
        plan: DeployedPlan,
        latency_s: Mapping[str, float],
        macs: Mapping[str, int],
        verdicts: dict[tuple[str, Place], str],
        family: str,
        *,
        every: int,
        snap: bool,
        trusting: bool,
    ) -> None:
        self.every = every
        self._plan, self._latency_s, self._macs = plan, latency_s, macs
        self._verdicts, self._family, self._snap, self._trusting = verdicts, family, snap, trusting

    @property
    def bundle(self) -> Bundle:
        """The plan that is asked about."""
        return self._plan.bundle

    def canary(self, place: Place, runner: Runner) -> str:
        """Why a mode may not be trusted, or nothing."""
        return self._verdict("canary", place, lambda: self._plan.canary(runner))

    def guard(self, place: Place, runner: Runner, leg: Leg) -> str:
        """Why a state on the way along a leg may not be trusted, or nothing."""
        # At a mode all strategies stand alike, but it is judged by the leg that led there.
        whose = self._family if place[0] != place[1] else " to ".join(sorted((leg.begin, leg.end)))
        return self._verdict(f"guard of {whose}", place, lambda: self._plan.guard(runner, leg))

    def canary_cost(self, mode: str) -> tuple[float, int]:
        """Seconds and multiply-accumulates of the canary at a mode, if nobody else wants the core."""
        seconds, macs = self.guard_cost()
        if self._snap:
            count = len(self.bundle.canary)
            seconds, macs = seconds + count * self._latency_s[mode], macs + count * self._macs[mode]
        return seconds, macs

    def guard_cost(self) -> tuple[float, int]:
        """The same of the guard on the way, where the dense graph answers."""
        count = len(self.bundle.canary)
        return count * self._latency_s[LIVE], count * self._macs[self.bundle.manifest.modes[0].name]

    def _verdict(self, question: str, place: Place, ask: Callable[[], str]) -> str:
        if self._trusting:
            return ""
        if (question, place) not in self._verdicts:
            self._verdicts[question, place] = ask()
        return self._verdicts[question, place]


class Asking:
    """Questions that are being asked beside the callers.

    Args:
        line: The callers.
        now_s: When the first one is asked.
        seconds: What all of them take if nobody else wants the core.

    Attributes:
        due_s: When they are answered, if nobody comes any more.
    """

    def __init__(self, line: Line, now_s: float, seconds: float) -> None:
        self._line, self._left_s = line, seconds
        self._seen_s, self._spent_s = now_s, line.spent_s(now_s)
        self.due_s = now_s + seconds

    def done(self, now_s: float) -> bool:
        """Whether they are answered; all who came before must be in line."""
        spent_s = self._line.spent_s(now_s)
        self._left_s -= now_s - self._seen_s - (spent_s - self._spent_s) / SLOWER
        self._seen_s, self._spent_s = now_s, spent_s
        self.due_s = now_s + max(self._left_s, 0.0)
        return self._left_s <= _DONE_S
