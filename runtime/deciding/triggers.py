"""The life of a trigger: from readings and the time to active or not, without looking at anything else.

Two thresholds keep a reading that flickers between them from changing anything; the dwell time keeps out one that
crosses a threshold for a moment. A reading that is not to be had changes nothing either: a sensor that breaks for a
minute must not move the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from device_profiles import Trigger
from runtime.errors import SourceError

Reading = float | str


@dataclass(frozen=True)
class TriggerState:
    """What is known of a trigger.

    Attributes:
        active: Whether it asks for its mode.
        crossed_s: Since when a reading has called for the opposite, on the device's clock; None while none does.
        changed_s: When it last became active or inactive; None if it never did.
        reading: Last reading; None before the first, and while there is none to be had.
        error: Why there is none; empty if there is.
    """

    active: bool = False
    crossed_s: float | None = None
    changed_s: float | None = None
    reading: Reading | None = None
    error: str = ""


def advance(rule: Trigger, state: TriggerState, reading: Reading, now_s: float) -> TriggerState:
    """State after a reading.

    Args:
        rule: The trigger.
        state: State before.
        reading: What its source says.
        now_s: When it was read, on a clock that never jumps.

    Raises:
        SourceError: The reading is a text where a number was expected.
    """
    value = as_wanted(rule, reading)
    seen = replace(state, reading=value, error="")
    if not crosses(rule, state.active, value):
        return replace(seen, crossed_s=None)
    crossed_s = now_s if state.crossed_s is None else state.crossed_s
    if now_s - crossed_s < rule.dwell_s:
        return replace(seen, crossed_s=crossed_s)
    return replace(seen, active=not state.active, crossed_s=None, changed_s=now_s)


def lost(state: TriggerState, error: str) -> TriggerState:
    """State after a reading that could not be had: as before, except that a dwell time begins anew."""
    return replace(state, crossed_s=None, reading=None, error=error)


def as_wanted(rule: Trigger, reading: Reading) -> Reading:
    """The reading as number or text, whichever the trigger compares.

    Raises:
        SourceError: It is a text that is no finite number.
    """
    if rule.equals is not None:
        return str(reading)
    try:
        value = float(reading)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise SourceError(
            f"trigger {rule.name}: found {str(reading)[:60]!r}, expected a number; "
            "correct what is read, or use 'equals' in the profile"
        )
    return value


def crosses(rule: Trigger, active: bool, value: Reading) -> bool:
    """Whether a reading calls for the opposite of what the trigger is."""
    if rule.equals is not None:
        return (value == rule.equals) is not active
    assert not isinstance(value, str)
    if rule.enter_below is not None:
        assert rule.leave_above is not None
        return value > rule.leave_above if active else value < rule.enter_below
    assert rule.enter_above is not None
    assert rule.leave_below is not None
    return value < rule.leave_below if active else value > rule.enter_above
