"""What a controller needs to know of the plan that it walks."""

from __future__ import annotations

from typing import Protocol

from runtime.walking.engine import LiveRunner, Runner
from runtime.walking.route import Leg
from runtime.walking.rows import RowTable


class Plan(Protocol):
    """Runners, routes and questions."""

    table: RowTable

    def route(self, begin: str, end: str) -> tuple[Leg, ...]:
        """Legs between two modes."""
        ...

    def live(self, mode: str) -> LiveRunner:
        """Live network that stands at a mode: fresh, or in persistent memory that is restored to it."""
        ...

    def rest(self, mode: str, live: LiveRunner) -> Runner:
        """What answers once a mode is reached: its compact network, or ``live`` itself."""
        ...

    def canary(self, runner: Runner) -> str:
        """Why the runner may not be trusted at a mode, or nothing."""
        ...

    def guard(self, runner: Runner, leg: Leg) -> str:
        """Why the runner may not be trusted on the way along a leg, or nothing; asked if the profile wants it."""
        ...
