"""The life of a push as data: an event that the table does not list raises, and changes nothing."""

from __future__ import annotations

from enum import Enum
from typing import Final

from runtime.errors import IllegalEvent


class PushPhase(Enum):
    """What a push is doing."""

    RECEIVING = "receiving"
    """Files come in."""
    STAGING = "staging"
    """All came in; they get their place on the disk."""
    LOADING = "loading"
    """The plan is read from there, checked, and loaded."""
    CHECKING = "checking"
    """The new network is asked its canary samples."""
    COMMITTING = "committing"
    """They were answered right; the journal is written."""
    ROLLING_BACK = "rolling-back"
    """Something failed; the old network goes on, or is loaded again."""
    OVER = "over"


class PushEvent(Enum):
    """What happens to a push."""

    PART = "part"
    ABANDON = "abandon"
    COMMIT = "commit"
    ADMIT = "admit"
    LOAD = "load"
    ACCEPT = "accept"
    RECORD = "record"
    FAULT = "fault"
    END = "end"


TABLE: Final[dict[tuple[PushPhase, PushEvent], PushPhase]] = {
    (PushPhase.RECEIVING, PushEvent.PART): PushPhase.RECEIVING,
    (PushPhase.RECEIVING, PushEvent.ABANDON): PushPhase.OVER,
    (PushPhase.RECEIVING, PushEvent.FAULT): PushPhase.ROLLING_BACK,
    (PushPhase.RECEIVING, PushEvent.COMMIT): PushPhase.STAGING,
    (PushPhase.STAGING, PushEvent.ADMIT): PushPhase.LOADING,
    (PushPhase.STAGING, PushEvent.FAULT): PushPhase.ROLLING_BACK,
    (PushPhase.LOADING, PushEvent.LOAD): PushPhase.CHECKING,
    (PushPhase.LOADING, PushEvent.FAULT): PushPhase.ROLLING_BACK,
    (PushPhase.CHECKING, PushEvent.ACCEPT): PushPhase.COMMITTING,
    (PushPhase.CHECKING, PushEvent.FAULT): PushPhase.ROLLING_BACK,
    (PushPhase.COMMITTING, PushEvent.RECORD): PushPhase.OVER,
    (PushPhase.COMMITTING, PushEvent.FAULT): PushPhase.ROLLING_BACK,
    (PushPhase.ROLLING_BACK, PushEvent.END): PushPhase.OVER,
}


def after(phase: PushPhase, event: PushEvent) -> PushPhase:
    """The phase that an event leads to.

    Raises:
        IllegalEvent: The table does not list it.
    """
    try:
        return TABLE[phase, event]
    except KeyError:
        raise IllegalEvent(f"{event.value}: found a push that is {phase.value}, which does not allow it") from None
