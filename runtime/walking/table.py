"""The life of a switch as data: which event leads from which state to which.

Everything not listed is illegal, raises, and changes nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from runtime.errors import IllegalEvent


class Phase(Enum):
    """What the controller is doing."""

    IDLE = "idle"
    """At a mode."""
    WALKING = "walking"
    """Writing increments towards the mode asked for."""
    PAUSED = "paused"
    """Standing on a state of the path."""
    VERIFYING = "verifying"
    """All is written; the canary decides whether the mode counts as reached."""
    ROLLING_BACK = "rolling-back"
    """Writing increments back to the mode that was left."""
    FAILED = "failed"
    """A write failed and could not be undone; the network must be opened again."""


class Event(Enum):
    """What can happen to a switch."""

    SWITCH = "switch"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETARGET = "retarget"
    ARRIVE = "arrive"
    ACCEPT = "accept"
    REJECT = "reject"
    RETURN = "return"
    FAULT = "fault"


TABLE: Final[dict[tuple[Phase, Event], Phase]] = {
    (Phase.IDLE, Event.SWITCH): Phase.WALKING,
    (Phase.WALKING, Event.PAUSE): Phase.PAUSED,
    (Phase.WALKING, Event.CANCEL): Phase.ROLLING_BACK,
    (Phase.WALKING, Event.RETARGET): Phase.WALKING,
    (Phase.WALKING, Event.ARRIVE): Phase.VERIFYING,
    (Phase.WALKING, Event.REJECT): Phase.ROLLING_BACK,
    (Phase.WALKING, Event.FAULT): Phase.ROLLING_BACK,
    (Phase.PAUSED, Event.RESUME): Phase.WALKING,
    (Phase.PAUSED, Event.CANCEL): Phase.ROLLING_BACK,
    (Phase.PAUSED, Event.RETARGET): Phase.WALKING,
    (Phase.PAUSED, Event.REJECT): Phase.ROLLING_BACK,
    (Phase.PAUSED, Event.FAULT): Phase.ROLLING_BACK,
    (Phase.VERIFYING, Event.ACCEPT): Phase.IDLE,
    (Phase.VERIFYING, Event.REJECT): Phase.ROLLING_BACK,
    (Phase.VERIFYING, Event.FAULT): Phase.ROLLING_BACK,
    (Phase.ROLLING_BACK, Event.RETARGET): Phase.WALKING,
    (Phase.ROLLING_BACK, Event.RETURN): Phase.IDLE,
    (Phase.ROLLING_BACK, Event.FAULT): Phase.FAILED,
}


def after(phase: Phase, event: Event) -> Phase:
    """Phase that ``event`` leads to.

    Raises:
        IllegalEvent: The table does not list it.
    """
    try:
        return TABLE[phase, event]
    except KeyError:
        allowed = ", ".join(sorted(known.value for at, known in TABLE if at is phase)) or "nothing"
        raise IllegalEvent(f"{event.value}: the controller is {phase.value}, where only {allowed} is allowed") from None


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    rows = [f"    {at.value} --> {to.value}: {event.value}" for (at, event), to in TABLE.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> idle", *rows]).replace("rolling-back", "rolling_back")
