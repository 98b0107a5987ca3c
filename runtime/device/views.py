"""What a device says of itself: the frozen records that its service, its client and its page share.

Times are seconds since the device was opened, on a clock that never jumps: a board may have none that knows the date.
A figure that nobody can know is null, and each known one says where it comes from.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

Rank = Literal["safety", "manual", "hold", "trigger", "default"]
"""Who may decide, the highest first."""
RANKS: Final[tuple[Rank, ...]] = ("safety", "manual", "hold", "trigger", "default")

PhaseName = Literal["idle", "walking", "paused", "verifying", "rolling-back", "failed"]
"""Values of ``runtime.walking.table.Phase``."""
OutcomeName = Literal["committed", "cancelled", "rolled-back", "retargeted", "failed"]
"""Values of ``runtime.walking.operation.Outcome``."""
Basis = Literal["measured", "plan", "estimated"]
"""measured: by this device, now; plan: evidence that came with the bundle; estimated: by the profile's model."""
PushPhaseName = Literal["receiving", "staging", "loading", "checking", "committing", "rolling-back", "over"]
"""Values of ``runtime.pushing.push_phase.PushPhase``."""
PushOutcome = Literal["committed", "rolled-back", "failed", "abandoned"]
EventKind = Literal["operation", "decision", "manual", "hold", "trigger", "safety", "power", "push", "fault", "closed"]


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """What all records share: frozen, named fields. A reader skips fields it does not know."""


class Provenance(_View, frozen=True, kw_only=True):
    """Where a figure comes from."""

    basis: Basis
    source: str
    """The meter's file, the plan, or the model with what is measured, from a data sheet or assumed in it."""
    assumed: bool = False
    """Whether the profile says that a figure which this one rests on is assumed."""

    @property
    def words(self) -> str:
        """The basis for people, and whether an assumed figure is in it."""
        return f"{self.basis}, assumed" if self.assumed else self.basis


class ModeView(_View, frozen=True, kw_only=True):
    """A power mode and what it is known to cost."""

    name: str
    description: str
    accuracy: float
    """0 to 1, on the plan's held-out test set."""
    macs: int
    """Multiply-accumulates of one inference."""
    weight_bytes: int
    """Weights of the mode's compact graph."""
    power_w: float | None
    """Of the device while it stands in this mode, at the load it has seen there; null where nobody knows."""
    energy_j_per_inference: float | None
    """What one more inference costs: the power of an idle device is not in it, where that is known."""
    latency_ms: float | None
    """Median of the last calls with one sample that were answered in this mode."""
    provenance: dict[str, Provenance]
    """Field name to origin, for each of accuracy, macs, weight_bytes, power_w, energy_j_per_inference and latency_ms
    that is not null."""


class DecisionView(_View, frozen=True, kw_only=True):
    """Who decides about the mode at this moment, and why."""

    mode: str
    """Mode that is wanted; the device walks there unless it stands there."""
    rank: Rank
    source: str
    """Who: a user, a hold's id, a trigger's name, a rule of safety, or ``profile``."""
    reason: str
    expires_in_s: float | None = None
    """Until a lease or a hold with a time limit ends; null for no end."""


class OperationView(_View, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A switch, under way or over."""

    id: str
    from_: str
    to: str
    who: str
    """Who asked for it: a user, or the source of a decision."""
    rank: Rank
    phase: PhaseName
    """What it is doing; ``idle`` or ``failed`` once it is over."""
    progress: float
    """Share of its path that is behind, 0 to 1; falls again while walking back."""
    outcome: OutcomeName | None
    """Null while it is under way."""
    reason: str
    """Why it ended so; empty while under way, and when it committed without trouble."""
    seconds: float
    """Duration, so far or in all."""
    bytes_written: int | None
    """There and back; null while it is under way."""
    longest_stall_ms: float | None
    """Longest time that an increment kept callers out; null while it is under way."""
    created_s: float
    retries: int = 0
    """Rows that read back wrong and were written again."""
    pauses: int = 0
    """Declared pauses that increments were written in, on a device that cannot compute meanwhile."""


class HoldView(_View, frozen=True, kw_only=True):
    """Somebody's wish for a mode, beside those of others; the lowest power among them decides."""

    id: str
    mode: str
    who: str
    reason: str
    created_s: float
    expires_in_s: float | None
    """Null for a hold without an end."""


class TriggerView(_View, frozen=True, kw_only=True):
    """A trigger of the profile and what it sees."""

    name: str
    mode: str
    """Mode it asks for while active."""
    source: str
    """What it reads, in words."""
    active: bool
    reading: float | str | None
    """Last reading, in the unit of its source; null before the first one and while it cannot be read."""
    pending: bool
    """Whether a threshold is crossed and the dwell time runs."""
    changed_s: float | None
    """When it last became active or inactive."""
    error: str
    """Why it cannot be read; empty if it can."""
    safety: bool = False
    """Whether it is a rule of safety, which nobody can overrule."""


class PowerView(_View, frozen=True, kw_only=True):
    """Power of the device now."""

    power_w: float | None
    energy_j_per_inference: float | None
    """In the present mode."""
    energy_j: float | None
    """Since the device was opened."""
    provenance: dict[str, Provenance]
    """Field name to origin, for each of the three that is not null."""


class Counters(_View, frozen=True, kw_only=True):
    """What the device has done. With a state directory, writes count over the device's life, else since it opened."""

    answers: int
    """Calls of inference that were answered, however many samples each had, since opened."""
    refused: int
    """Calls of inference that found the queue full, since opened."""
    transitions: int
    """Switches that reached their mode, by whomever."""
    increments: int
    bytes_written: int
    row_writes: dict[str, int]
    """Rows written, by layer: what wears."""
    outcomes: dict[OutcomeName, int]
    """Operations that ended so, since opened."""
    pushes: dict[PushOutcome, int]
    """Pushes that ended so, since opened."""
    retries: int = 0
    """Rows that read back wrong and were written again; among ``row_writes`` and ``bytes_written``."""


class PushView(_View, frozen=True, kw_only=True):
    """A plan that is pushed, under way or over."""

    id: str
    """SHA-256 of its plan.json, in hexadecimal: what the status calls the bundle once it is at work."""
    release: int
    replaces: str
    """Id of the bundle that was at work when the push began."""
    who: str
    phase: PushPhaseName
    outcome: PushOutcome | None
    """Null while it is under way. ``rolled-back``: the old plan is at work, as before; ``failed``: none is."""
    reason: str
    """Why it ended so; empty while under way, and when it committed without trouble."""
    received_bytes: int
    total_bytes: int
    missing: dict[str, int]
    """Files that are yet to come, and how many bytes of each are there."""
    gap_s: float | None
    """Seconds, about, for which the device will not answer, since its memory has no room for two plans; null if it
    has. A commit must allow it."""
    gap_was_s: float | None
    """Seconds for which it did not answer; null if it always did, so far."""
    mode: str | None
    """Mode that the new plan began in; null before."""
    seconds: float
    """Since it began, or in all."""


class Status(_View, frozen=True, kw_only=True):
    """The device at one moment."""

    device: str
    """Stable id of the device."""
    mode: str
    """Mode reached last; during a walk the one it left."""
    phase: PhaseName
    target: str | None
    """Mode it walks to; null at rest."""
    progress: float
    """Of the walk; 1 at rest."""
    operation: str | None
    """Id of the operation under way."""
    decision: DecisionView
    holds: tuple[HoldView, ...]
    triggers: tuple[TriggerView, ...]
    power: PowerView
    uptime_s: float
    bundle: str
    """SHA-256 of plan.json, in hexadecimal."""
    release: int
    """Release of the bundle that is at work."""
    policy: str
    weight_bytes: int
    """Memory that the weights which answer now take, copies included."""
    counters: Counters
    push: str | None = None
    """Id of the bundle that is being pushed; null if none is."""
    endurance_left: float | None = None
    """Share of the writes that the most written row stands, by the profile, and that are left; null where the profile
    knows no endurance."""
    provenance: dict[str, Provenance] = {}
    """Field name to origin: that of ``endurance_left`` where it is not null."""


class Event(_View, frozen=True, kw_only=True):
    """Something that happened. Ids rise by one; the log keeps the last thousand.

    What ``data`` holds, by ``kind``: ``operation``: an OperationView, at its start, as it goes on, and at its end;
    ``decision``: a DecisionView; ``manual``: ``who``, ``mode`` and ``state`` (asked, given-back, ended) of what is
    asked for by hand; ``hold``: a HoldView and ``state`` (placed, released, expired, cancelled);
    ``trigger`` and ``safety``: a TriggerView; ``power``: ``command``, ``stage`` (before, after, undo), ``ok`` and
    ``detail`` of a command of the operating system; ``push``: a PushView without ``missing``, at its start, at each
    phase and at its end; ``fault``: ``detail``; ``closed``: nothing.
    """

    id: int
    kind: EventKind
    at_s: float
    data: dict[str, Any]
