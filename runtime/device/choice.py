"""Which of two bundles a device starts with: the one that it is told, or one that was pushed to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import BundleError, StateError
from runtime.memory.state_directory import StateDirectory
from runtime.plan import bundle as bundles
from runtime.plan.bundle import Head
from runtime.plan.trust import Trust


@dataclass(frozen=True)
class Choice:
    """A bundle to start with.

    Attributes:
        path: Its directory.
        told: Head of the bundle that the device was told, whose profile is in force where no other is given.
        why: Why it is not the one that was told; empty if it is.
    """

    path: Path
    told: Head
    why: str = ""


def choose(told: Path, home: StateDirectory | None, trust: Trust | None, *, migrate: bool) -> Choice:
    """The bundle to start with.

    A pushed bundle is at work once the journal names it. It stays so over restarts, whatever stands on the command
    line, unless that is a newer release or is to take the state directory over.

    Args:
        told: Bundle on the command line.
        home: State directory.
        trust: Pinned keys.
        migrate: Whether the one that was told is to take the directory over.

    Raises:
        BundleError: One of the two is refused.
        StateError: The one that was told is newer, and was not said to take over.
    """
    head = bundles.glance(told, trust)
    known = None if home is None else home.journal.standing
    if home is None or known is None or migrate or known.bundle == head.id or not home.bundles.has(known.bundle):
        return Choice(told, head)
    place = home.bundles.path(known.bundle)
    try:
        pushed = bundles.glance(place, trust)
    except BundleError as error:
        raise BundleError(f"{error}; or start {told} anew with --migrate") from error
    if pushed.id != known.bundle:
        raise BundleError(
            f"{place}: found bundle {pushed.id[:16]}, expected {known.bundle[:16]}; the disk may be failing: start "
            f"{told} anew with --migrate, then push again"
        )
    mine, others = head.manifest.release, pushed.manifest.release
    if mine > others:
        raise StateError(
            f"{home.path}: found the pushed bundle {pushed.id[:16]}, release {others}, at work, expected that {told}, "
            f"release {mine}, was pushed too; push it, or take the directory over with --migrate"
        )
    return Choice(
        place, head,
        f"it was pushed and committed here: release {others}, that of {told} is {mine}; --migrate goes back to this",
    )  # fmt: skip
