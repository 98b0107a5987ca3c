"""One push: what is kept of it, and what callers see."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.device.network import Network
from runtime.device.views import PushOutcome, PushView
from runtime.plan.bundle import Head
from runtime.pushing.incoming import Incoming
from runtime.pushing.push_phase import PushPhase


@dataclass
class Push:
    """One push. ``Pushes`` alone changes it, with its lock held.

    Attributes:
        head: Manifest and signature.
        incoming: Its files.
        replaces: Id of the bundle at work.
        who: Who pushes.
        gap_s: Seconds, about, for which the device will not answer; None if it will.
        created_s: When it began.
        touched_s: When a caller was last heard of.
        phase: What it is doing.
        outcome: How it ended; None while it is under way.
        reason: Why.
        gap_was_s: Seconds for which the device did not answer; None if it did.
        mode: Mode that the new plan began in; None before.
        ended_s: When it ended.
    """

    head: Head
    incoming: Incoming
    replaces: str
    who: str
    gap_s: float | None
    created_s: float
    touched_s: float
    phase: PushPhase = PushPhase.RECEIVING
    outcome: PushOutcome | None = None
    reason: str = ""
    gap_was_s: float | None = None
    mode: str | None = None
    ended_s: float | None = None

    def view(self, now_s: float) -> PushView:
        """The push as its callers see it.

        Args:
            now_s: The time, on the device's clock.
        """
        return PushView(
            id=self.head.id,
            release=self.head.manifest.release,
            replaces=self.replaces,
            who=self.who,
            phase=self.phase.value,
            outcome=self.outcome,
            reason=self.reason,
            received_bytes=self.incoming.received_bytes,
            total_bytes=self.incoming.total_bytes,
            missing=self.incoming.missing(),
            gap_s=self.gap_s,
            gap_was_s=self.gap_was_s,
            mode=self.mode,
            seconds=(now_s if self.ended_s is None else self.ended_s) - self.created_s,
        )


def at_work(head: Head, present: Network, who: str) -> PushView:
    """The view of a push that has nothing to do, since its bundle is at work already."""
    total = sum(entry.bytes for entry in head.manifest.files.values())
    return PushView(
        id=head.id, release=head.manifest.release, replaces=head.id, who=who, phase="over", outcome="committed",
        reason="this bundle is at work already", received_bytes=total, total_bytes=total, missing={}, gap_s=None,
        gap_was_s=None, mode=present.mode, seconds=0.0,
    )  # fmt: skip
