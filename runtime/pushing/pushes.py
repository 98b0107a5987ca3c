"""Plans that are pushed to a device: they come in, are checked, loaded and asked their canary, and replace the old one.

Decision 0012 says why in this order. One push at a time. Its files come in on the callers' threads; what follows a
commit runs on a thread of its own.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from runtime.device.event_log import EventLog
from runtime.device.succession import Succession
from runtime.device.tally import Tally
from runtime.device.views import PushOutcome, PushView
from runtime.errors import Closed, Conflict, GapNeeded, NoRoom, NoThread, StagingError, UnknownPush
from runtime.memory.state_directory import StateDirectory
from runtime.plan.bundle import Head
from runtime.plan.trust import Trust
from runtime.pushing.acceptance import check_room, check_successor, gap_s, read_head
from runtime.pushing.incoming import Incoming
from runtime.pushing.push import Push, at_work
from runtime.pushing.push_phase import PushEvent, PushPhase, after
from runtime.pushing.switch_over import SwitchOver
from runtime.walking.table import Phase

STALE_S: Final = 120.0
"""An upload that nothing came of for so long may be given up by the next one: parts come every few seconds."""


class Pushes:
    """All pushes of one device; the last one is remembered until the next.

    Args:
        seat: Whose place a pushed plan takes.
        trust: Pinned keys.
        events: Where to tell what happens.
        tally: Where to count what ends.
        clock: Seconds since the device was opened.
        hidden: Takes out of a text what no caller may read.
    """

    def __init__(
        self,
        seat: Succession,
        trust: Trust | None,
        events: EventLog,
        tally: Tally,
        clock: Callable[[], float],
        hidden: Callable[[str], str],
    ) -> None:
        self._seat = seat
        self._trust = trust
        self._events = events
        self._tally = tally
        self._clock = clock
        self._hidden = hidden
        self._changed = threading.Condition(threading.RLock())
        self._push: Push | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._switch_over = SwitchOver(seat, trust, clock)

    @property
    def under_way(self) -> str | None:
        """Id of the bundle that is pushed now."""
        push = self._push
        return None if push is None or push.outcome is not None else push.head.id

    def begin(self, manifest: bytes, signature: bytes | None, *, who: str) -> PushView:
        """Begin a push, or go on with one that broke off.

        Args:
            manifest: Content of its plan.json.
            signature: Content of its plan.sig.
            who: Who pushes.

        Returns:
            The push; one that is over if the bundle is at work already.

        Raises:
            PushRefused: The plan is not for this device.
            Conflict: Another push, or a walk, is under way, or the device has no state directory.
            NoRoom: The disk has no room for it.
            StagingError: The disk does not take it.
            JournalError: An earlier failure of the disk lasts.
            Closed: The device was closed, or failed.
        """
        with self._changed:
            self._check_open()
            home = self._home()
            head = self._checked(manifest, signature, home)
            if (known := self._push) is not None and known.outcome is None:
                if known.head.id == head.id:
                    return known.view(self._clock())
                self._give_way(known)
            present = self._seat.net
            if head.id == present.bundle.id:
                return at_work(head, present, who)
            self._seat.check()
            self._switch_over.affirm(home)
            home.bundles.tidy(present.bundle.id)
            check_room(head, present, home)
            now_s = self._clock()
            push = Push(head, Incoming(head, home.bundles), present.bundle.id, who, gap_s(head, present), now_s, now_s)
            self._push = push
            self._tell(push)
            return push.view(self._clock())

    def take(self, id: str, name: str, offset: int, data: bytes) -> PushView:
        """Take a part of a file.

        Args:
            id: Bundle.
            name: File, as the manifest lists it.
            offset: Place of the part.
            data: The part.

        Raises:
            UnknownPush: No such bundle is being pushed, or it has no such file.
            PushRefused: The part does not fit; the push goes on.
            IllegalEvent: All files came in and the push went on.
            NoRoom: The disk is full; the push is over.
            StagingError: The disk does not take it; the push is over.
        """
        with self._changed:
            push = self._find(id)
            after(push.phase, PushEvent.PART)
            push.touched_s = self._clock()
            try:
                push.incoming.take(name, offset, data)
            except (NoRoom, StagingError) as error:
                push.incoming.discard()
                push.phase = after(push.phase, PushEvent.FAULT)
                self._end(push, PushEvent.END, "rolled-back", str(error))
                raise
            return push.view(self._clock())

    def commit(self, id: str, *, allow_gap: bool) -> PushView:
        """All came in: let the plan take the place of the one at work. Returns at once.

        Args:
            id: Bundle.
            allow_gap: Whether the device may stop answering for a while, if it has to.

        Raises:
            UnknownPush: No such bundle is being pushed.
            PushRefused: Files are missing.
            GapNeeded: It would have to, and may not.
            Conflict: A walk is on its way.
            IllegalEvent: The push went on already.
            NoThread: The system has no thread to spare.
            Closed: The device was closed, or failed.
        """
        with self._changed:
            self._check_open()
            push = self._find(id)
            phase = after(push.phase, PushEvent.COMMIT)
            push.touched_s = self._clock()
            push.incoming.check_whole()
            if push.gap_s is not None and not allow_gap:
                raise GapNeeded(
                    f"memory.weights_bytes: found no room for two plans, so the device would not answer for about "
                    f"{push.gap_s:.1f} s, judged by its last load; allow that with --allow-gap (allow_gap: true)"
                )
            self._seat.reserve()
            self._thread = threading.Thread(target=self._run, args=(push,), name="geoshift-push", daemon=True)
            before, push.phase = push.phase, phase
            try:
                self._thread.start()
            except RuntimeError as error:
                push.phase, self._thread = before, None
                self._seat.end()
                raise NoThread(f"push: {error}; nothing was changed, call again later") from error
            self._tell(push)
            return push.view(self._clock())

    def abandon(self, id: str) -> PushView:
        """Give an upload up; what came in is removed.

        Raises:
            UnknownPush: No such bundle is being pushed.
            IllegalEvent: It is not an upload any more.
        """
        with self._changed:
            push = self._find(id)
            if push.outcome is None:
                after(push.phase, PushEvent.ABANDON)
                self._abandon(push, "abandoned by a caller")
            return push.view(self._clock())

    def view(self, id: str) -> PushView:
        """The push of a bundle, under way or the last one.

        Raises:
            UnknownPush: There is none.
        """
        with self._changed:
            return self._find(id).view(self._clock())

    def last(self) -> PushView | None:
        """The push under way, else the last one; None if there was none since the device was opened."""
        with self._changed:
            return None if self._push is None else self._push.view(self._clock())

    def wait(self, id: str, timeout_s: float) -> PushView:
        """Wait for the end of a push, and give it as it stands then, or after ``timeout_s``.

        Raises:
            UnknownPush: There is none.
        """
        with self._changed:
            push = self._find(id)
            self._changed.wait_for(lambda: push.outcome is not None, min(timeout_s, threading.TIMEOUT_MAX))
            return push.view(self._clock())

    def close(self) -> None:
        """Give an upload up, and let a switch-over come to an end that a restart can go on from."""
        with self._changed:
            self._closing = True
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._changed:
            if self._push is not None and self._push.outcome is None:
                self._abandon(self._push, "the device was closed")

    # Before anything is received, with the lock held

    def _check_open(self) -> None:
        if self._closing or self._seat.net.phase is Phase.FAILED:
            raise Closed(f"push: the device is {'closed' if self._closing else 'failed'}; open it again")

    def _home(self) -> StateDirectory:
        home = self._seat.net.home
        if home is None:
            raise Conflict("push: found no state directory to keep a plan in, expected one; serve with --state")
        return home

    def _checked(self, manifest: bytes, signature: bytes | None, home: StateDirectory) -> Head:
        """Everything that can be told from manifest and signature."""
        release, net = home.journal.release, self._seat.net
        trust = None if self._trust is None else dataclasses.replace(self._trust, release=release)
        head = read_head(manifest, signature, trust)
        check_successor(head.manifest, net.bundle.manifest, net.profile, net.wanted_policy, release)
        return head

    def _give_way(self, known: Push) -> None:
        """Let a new push begin in place of an upload that nobody goes on with."""
        silent_s = self._clock() - known.touched_s
        if known.phase is not PushPhase.RECEIVING or silent_s < STALE_S:
            raise Conflict(
                f"push: found one of bundle {known.head.id[:16]} by {known.who} under way ({known.phase.value}), "
                f"expected none; wait for its end, or abandon it. One that is silent for {STALE_S:.0f} s gives way"
            )
        self._abandon(known, f"nothing came for {silent_s:.0f} s, and {STALE_S:.0f} s are the most while another waits")

    # After a commit, on the thread of its own

    def _run(self, push: Push) -> None:
        """Switch over, and say how it ended."""
        end = self._switch_over.run(
            push.incoming, push.replaces, gap=push.gap_s is not None, go=partial(self._go, push)
        )
        # First, so that who hears of the end finds the device as it is from now on.
        self._seat.end()
        with self._changed:
            self._thread = None
            push.gap_was_s, push.mode = end.gap_was_s, end.mode
            self._end(push, PushEvent.RECORD if end.outcome == "committed" else PushEvent.END, end.outcome, end.reason)

    def _go(self, push: Push, event: PushEvent) -> None:
        with self._changed:
            if self._closing and event is not PushEvent.FAULT:
                raise Closed("push: the device was closed")
            push.phase = after(push.phase, event)
            self._tell(push)

    # What is told, with the lock held

    def _abandon(self, push: Push, reason: str) -> None:
        push.incoming.discard()
        self._end(push, PushEvent.ABANDON, "abandoned", reason)

    def _end(self, push: Push, event: PushEvent, outcome: PushOutcome, reason: str) -> None:
        push.phase = after(push.phase, event)
        push.outcome, push.reason, push.ended_s = outcome, self._hidden(reason), self._clock()
        self._tally.pushed(outcome)
        self._tell(push)

    def _tell(self, push: Push) -> None:
        data = msgspec.to_builtins(push.view(self._clock()))
        del data["missing"]
        self._events.add("push", data)
        self._changed.notify_all()

    def _find(self, id: str) -> Push:
        if self._push is None or self._push.head.id != id:
            raise UnknownPush(
                f"push: found none of bundle {id[:16]!r}, expected one that was begun since the last start"
            )
        return self._push
