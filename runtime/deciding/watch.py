"""Keeps the state of every trigger and every rule of safety of a profile, reading after reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from device_profiles import Profile, Trigger
from runtime.deciding.arbiter import Wish
from runtime.deciding.triggers import Reading, TriggerState, advance, lost
from runtime.device.views import TriggerView
from runtime.errors import SourceError

SHOWN: Final = 100
"""Characters of a reading that are told."""


@dataclass(frozen=True)
class Edge:
    """Something that changed: a trigger became active or inactive, or cannot be read any more."""

    rule: Trigger
    state: TriggerState
    safety: bool
    lost: bool


class Watch:
    """The triggers of a profile.

    Args:
        profile: Whose.
        read: Reads the source of a trigger.
    """

    def __init__(self, profile: Profile, read: Callable[[Trigger], Reading]) -> None:
        # Safety first, so that a command that takes long does not come before it.
        self._rules = tuple((rule, True) for rule in profile.safety) + tuple((rule, False) for rule in profile.triggers)
        self._read = read
        self._states = {rule.name: TriggerState() for rule, _ in self._rules}

    def read(self) -> dict[str, Reading | SourceError]:
        """A reading, or why there is none, for every trigger. This takes as long as the slowest command."""
        readings: dict[str, Reading | SourceError] = {}
        for rule, _ in self._rules:
            try:
                readings[rule.name] = self._read(rule)
            except SourceError as error:
                readings[rule.name] = error
        return readings

    def take(self, readings: dict[str, Reading | SourceError], now_s: float) -> tuple[Edge, ...]:
        """Take readings into account.

        Args:
            readings: What ``read`` gave.
            now_s: The time, on a clock that never jumps.

        Returns:
            What changed.
        """
        edges: list[Edge] = []
        for rule, safety in self._rules:
            before = self._states[rule.name]
            reading = readings[rule.name]
            try:
                if isinstance(reading, SourceError):
                    raise reading
                state = advance(rule, before, reading, now_s)
            except SourceError as error:
                state = lost(before, str(error))
            self._states[rule.name] = state
            if state.active is not before.active or (state.error and not before.error):
                edges.append(Edge(rule, state, safety, lost=bool(state.error)))
        return tuple(edges)

    def wishes(self, *, safety: bool) -> tuple[Wish, ...]:
        """What the active ones ask for: those of safety, or the others."""
        return tuple(
            Wish(rule.mode, rule.name, _reason(rule))
            for rule, of_safety in self._rules
            if of_safety is safety and self._states[rule.name].active
        )

    def views(self) -> tuple[TriggerView, ...]:
        """All of them as callers see them, those of safety first."""
        return tuple(trigger_view(rule, self._states[rule.name], safety=safety) for rule, safety in self._rules)


def trigger_view(rule: Trigger, state: TriggerState, *, safety: bool) -> TriggerView:
    """A trigger as callers see it."""
    return TriggerView(
        name=rule.name,
        mode=rule.mode,
        source=_words(rule),
        active=state.active,
        # A file may hold more than a state, and everybody who may read the status sees this.
        reading=state.reading[:SHOWN] if isinstance(state.reading, str) else state.reading,
        pending=state.crossed_s is not None,
        changed_s=state.changed_s,
        error=state.error,
        safety=safety,
    )


def _words(rule: Trigger) -> str:
    of = rule.zone or rule.path or rule.command
    return rule.source if of is None else f"{rule.source} {of}"


def _reason(rule: Trigger) -> str:
    """Why it is active, in words that do not change with every reading."""
    if rule.equals is not None:
        return f"{_words(rule)} is {rule.equals!r}"
    if rule.enter_below is not None:
        return f"{_words(rule)} fell below {rule.enter_below:g}"
    return f"{_words(rule)} rose above {rule.enter_above:g}"
