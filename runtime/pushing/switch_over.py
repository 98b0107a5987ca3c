"""Puts a bundle that came in to work in place of the one before, or leaves everything as it was.

The new network is loaded and asked its canary before it answers anybody, and the journal names its bundle before the
old one goes. So nothing has to be taken back but in a gap, in which the old one is loaded again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_profiles import GeoshiftError
from runtime.device.absent import Absent
from runtime.device.succession import Succession
from runtime.device.views import PushOutcome
from runtime.errors import BundleError, Closed, Conflict, JournalError, PushRefused
from runtime.memory.journal import Standing
from runtime.memory.state_directory import StateDirectory
from runtime.plan import bundle as bundles
from runtime.plan.trust import Trust
from runtime.pushing.incoming import Incoming
from runtime.pushing.push_phase import PushEvent
from runtime.walking.net import Net


@dataclass(frozen=True)
class End:
    """How a switch-over ended.

    Attributes:
        outcome: In a word.
        reason: Why, where it is not committed.
        mode: Mode that the new network began in; None if it does not answer.
        gap_was_s: Seconds for which nobody answered; None if somebody always did.
    """

    outcome: PushOutcome
    reason: str = ""
    mode: str | None = None
    gap_was_s: float | None = None


@dataclass
class _Gone:
    """Since when nobody answers."""

    absent: Absent | None = None
    since_s: float = 0.0

    def seconds(self, now_s: float) -> float | None:
        """For how long; None if somebody does."""
        return None if self.absent is None else now_s - self.since_s


class SwitchOver:
    """Switches a device over, one bundle at a time.

    Args:
        seat: The place that the new network takes.
        trust: Pinned keys.
        clock: Seconds since the device was opened.
    """

    def __init__(self, seat: Succession, trust: Trust | None, clock: Callable[[], float]) -> None:
        self._seat = seat
        self._trust = trust
        self._clock = clock
        self._unsure = False
        """Whether the journal on the disk may name a bundle that is not at work, a write having failed."""

    def affirm(self, home: StateDirectory) -> None:
        """See that the journal on the disk names the bundle at work, before any other is removed.

        Raises:
            JournalError: It cannot be written.
        """
        if self._unsure and home.journal.standing is not None:
            home.journal.write(home.journal.standing)
        self._unsure = False

    def run(self, incoming: Incoming, replaces: str, *, gap: bool, go: Callable[[PushEvent], None]) -> End:
        """Switch over; the place is reserved.

        Args:
            incoming: The bundle, which is whole.
            replaces: Id of the bundle at work.
            gap: Whether the old network has to go before the new one is loaded.
            go: Told of each step. It raises Closed if the device is closed meanwhile; the fault that follows it takes.
        """
        home, before, mode = self._seat.net.home, self._seat.net.bundle.path, self._seat.net.mode
        assert home is not None, "a push began with a state directory"
        gone = _Gone()
        try:
            place = incoming.admit()
            go(PushEvent.ADMIT)
            seen = self._seat.net.standing
            if gap:
                self._check_way_back(before, replaces)
                self._seat.freeze()
                gone.since_s = self._clock()
                gone.absent = self._seat.leave()
            net = self._proven(place, incoming, home, seen, go)
        except Exception as error:  # noqa: BLE001  # a push must end with a result, whatever a bundle or a device throws
            reason, closed = _words(error), isinstance(error, Closed)
        else:
            self._seat.put(net)
            gap_was_s = gone.seconds(self._clock())
            net.tidy()
            return End("committed", mode=net.mode, gap_was_s=gap_was_s)
        # Out here, where nothing holds the weights of a new network that failed any more.
        go(PushEvent.FAULT)
        outcome: PushOutcome = "rolled-back"
        if gone.absent is not None and not closed and (trouble := self._restored(before, replaces, home, mode)):
            gone.absent.fail()
            outcome, reason = "failed", f"{reason}; then the old plan could not be loaded again: {trouble}"
        return End(outcome, self._cleared(incoming, home, reason), gap_was_s=gone.seconds(self._clock()))

    def _proven(
        self, place: Path, incoming: Incoming, home: StateDirectory, seen: Standing, go: Callable[[PushEvent], None]
    ) -> Net:
        """The new network: loaded, right about its canary, and named by the journal."""
        net = self._loaded(place, incoming.head.id, home, self._seat.mode_for(incoming.head.manifest))
        go(PushEvent.LOAD)
        net.check()
        go(PushEvent.ACCEPT)
        self._seat.freeze()
        self._record(net, seen)
        return net

    def _check_way_back(self, before: Path, replaces: str) -> None:
        """In a gap the old plan is read anew if the new one fails: it must be where it was."""
        try:
            found = bundles.glance(before).id
        except BundleError as error:
            raise PushRefused(f"the bundle at work could not be loaded again after a gap: {error}") from error
        if found != replaces:
            raise PushRefused(
                f"{before}: found bundle {found[:16]}, expected {replaces[:16]}, which is at work and must be there to "
                "be loaded again after a gap; put it back"
            )

    def _loaded(self, place: Path, id: str, home: StateDirectory, mode: str) -> Net:
        """A bundle as a network that may take the place, not answering yet."""
        begun_s = time.perf_counter()
        bundle = bundles.read(place, self._trust)
        if bundle.id != id:
            raise BundleError(f"{place}: found bundle {bundle.id[:16]}, expected {id[:16]}; the disk may be failing")
        found = Net(bundle, self._seat.net.profile, self._seat.net.wanted_policy, home=home, successor=mode)
        found.load_s = time.perf_counter() - begun_s
        return found

    def _record(self, net: Net, seen: Standing) -> None:
        """The moment that decides: one record of the journal."""
        if self._seat.net.standing != seen:
            raise Conflict("push: found a walk that a rule of safety began meanwhile, expected none; push again")
        try:
            net.settle()
        except JournalError:
            self._unsure = True
            raise

    def _restored(self, before: Path, replaces: str, home: StateDirectory, mode: str) -> str:
        """Load the old plan again; why that is not possible, or nothing."""
        try:
            old = self._loaded(before, replaces, home, mode)
            old.check()
            old.settle()
            self._seat.put(old)
        except Exception as error:  # noqa: BLE001  # nothing is left that answers: say so, and the watchdog starts it anew
            return _words(error)
        return ""

    def _cleared(self, incoming: Incoming, home: StateDirectory, reason: str) -> str:
        """Remove what came in, if that is safe; the reason, with what has to be added to it."""
        try:
            self.affirm(home)
        except JournalError as error:
            return f"{reason}; then: {error}. After a power cut either plan may be at work"
        incoming.discard()
        self._seat.net.tidy()
        return reason


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, GeoshiftError) else f"{type(error).__name__}: {error}"
