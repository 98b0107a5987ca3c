"""Tell the local network that a device is here and how it is: hints, no secrets, and nothing to be believed.

One thread does all of it, after the device is ready and beside its work. Where the network does not let it, a warning
is logged and it is tried again; the device itself never notices.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from runtime.discovery import addresses, mdns
from runtime.discovery.addresses import ChangeWatch
from runtime.discovery.device_record import Hints, Record, labels, txt
from runtime.discovery.mdns import Responder
from runtime.errors import NameTaken, NoMulticast

RETRY_S: Final = 60.0
"""A network that comes up is noticed at once; this is for what nothing tells of, such as a port that becomes free."""
INSIST_S: Final = 60.0
"""Least time between two announcements of what is known already, as when a cable is plugged in or a name disputed."""
MOST_NAMES: Final = 20
CLOSE_S: Final = 5.0
"""Saying goodbye takes a quarter of a second; a register that is under way, two."""

__all__ = ["Announcement", "Announcer", "Hints", "Shown"]

log = logging.getLogger("geoshift.announce")


class Announcement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device announces itself, as a configuration file says it."""

    enabled: bool = True
    interfaces: tuple[str, ...] = ()
    """Names of network interfaces; without any, all but loopback."""
    name: str | None = None
    """Name that people see; without one, the host's."""
    min_interval_s: Annotated[float, Meta(ge=1)] = 2.0
    """Least time between two updates. RFC 6762, section 6, asks for a second; a walk takes longer than two."""


class Shown(Struct, frozen=True, kw_only=True):
    """What became of the announcement, for people who look for a device in vain."""

    state: Literal["off", "starting", "announced", "failed", "withdrawn"]
    name: str = ""
    addresses: tuple[str, ...] = ()
    reason: str = ""


class Announcer:
    """Announces one device until it is closed. All methods return at once, ``close`` and ``settled`` soon.

    Args:
        port: TCP port of the service.
        hints: What to say at first.
        how: Off switch, interfaces, name.
        listening: Address that the service listens at; addresses that do not lead there are not told.
        clock: Monotonic seconds.
    """

    def __init__(
        self, port: int, hints: Hints, how: Announcement | None = None, *, listening: str = "::",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._port, self._hints, self._how, self._clock = port, hints, how or Announcement(), clock
        self._listening = listening
        self._changed = threading.Condition()
        self._shown = Shown(state="off")
        self._thread: threading.Thread | None = None
        self._watch: ChangeWatch | None = None
        self._closing = False
        self._responder: Responder | None = None
        self._number = 1
        self._insists = self._gives_way = False
        self._next_s = 0.0
        self._insisted_s = -INSIST_S

    @property
    def shown(self) -> Shown:
        """What became of it so far."""
        with self._changed:
            return self._shown

    def start(self) -> None:
        """Begin, in the background. Call it when the device is ready: loading zeroconf takes a board some time."""
        if not self._how.enabled:
            log.info("not announced on the network: switched off")
            return
        with self._changed:
            if self._thread is not None or self._closing:
                return
            try:
                self._watch = ChangeWatch()
                self._thread = threading.Thread(target=self._run, args=(self._watch,), name="announce", daemon=True)
                self._shown = Shown(state="starting")
                self._thread.start()
            except (OSError, RuntimeError) as error:
                if self._watch is not None:
                    self._watch.close()
                self._thread, self._watch = None, None
                self._show(Shown(state="failed", reason=str(error)))
                log.warning("not announced on the network: %s", error)

    def update(self, hints: Hints) -> None:
        """Say something else from now on; what comes too fast is left out, and the last is always said."""
        with self._changed:
            self._hints = hints
            self._wake()

    def settled(self, timeout_s: float) -> Shown:
        """Wait until it is announced, or cannot be."""
        with self._changed:
            self._changed.wait_for(lambda: self._shown.state != "starting", timeout_s)
            return self._shown

    def close(self) -> None:
        """Withdraw what was announced."""
        with self._changed:
            self._closing = True
            self._wake()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_S)
            if thread.is_alive():
                log.warning("not withdrawn from the network within %g s; others forget it in %d s", CLOSE_S, mdns.TTL_S)

    def __enter__(self) -> Announcer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What follows runs on the thread of its own, but for _rivalled.

    def _run(self, watch: ChangeWatch) -> None:
        moved = False
        try:
            while not self._closing:
                moved = watch.wait(self._step(moved))
        finally:
            self._withdraw()
            with self._changed:
                if self._shown.state != "failed" or self._closing:
                    self._show(Shown(state="withdrawn"))
                self._watch = None
            watch.close()

    def _step(self, moved: bool) -> float | None:
        """Bring what is announced up to date.

        Args:
            moved: Whether the addresses may have changed.

        Returns:
            Seconds until there is more to do; None if that depends on others.
        """
        if moved:
            self._insist()
        with self._changed:
            gives_way, self._gives_way = self._gives_way, False
        if gives_way:
            self._number += 1
            self._withdraw()
        try:
            record = self._record()
            due_s = self._due_s(record)
            if due_s is None or due_s > 0:
                return due_s
            with self._changed:
                self._insists = False
            if (responder := self._responder) is None:
                self._register(record)
            elif record == responder.record:
                self._insisted_s = self._clock()
                responder.say(record)
            elif responder.reaches(record):
                responder.say(record)
            else:
                self._withdraw()
                self._register(record)
        except NoMulticast as error:
            self._withdraw()
            self._failed(str(error))
            return RETRY_S
        self._next_s = self._clock() + self._how.min_interval_s
        self._announced()
        return None

    def _due_s(self, record: Record) -> float | None:
        """Seconds until a record may be said; None if it was, and nobody wants to hear it again."""
        if self._responder is None:
            return 0.0
        if record != self._responder.record:
            return self._next_s - self._clock()
        return max(self._next_s, self._insisted_s + INSIST_S) - self._clock() if self._insists else None

    def _record(self) -> Record:
        """What should be announced now."""
        found = addresses.choose(addresses.present(), self._how.interfaces, self._listening)
        with self._changed:
            hints = self._hints
        label, host = labels(self._how.name or socket.gethostname().partition(".")[0], hints.id, self._number)
        return Record(label, host, self._port, txt(hints), found)

    def _register(self, record: Record) -> None:
        """Announce under the first name that is free."""
        self._responder = Responder(record.addresses, self._rivalled)
        for _ in range(MOST_NAMES):
            try:
                self._responder.register(record)
            except NameTaken as error:
                log.warning("%s; the next number is tried", error)
                self._number += 1
                record = self._record()
            else:
                return
        raise NoMulticast(f"network: found the first {MOST_NAMES} names taken, expected a free one; choose another")

    def _announced(self) -> None:
        record = self._responder.record if self._responder is not None else None
        if record is None:
            return
        shown = Shown(state="announced", name=record.label, addresses=tuple(one.ip for one in record.addresses))
        if shown != self.shown:
            log.info("announced as %s at %s, port %d", shown.name, ", ".join(shown.addresses), self._port)
            with self._changed:
                self._show(shown)

    def _failed(self, reason: str) -> None:
        shown = Shown(state="failed", reason=reason)
        if shown != self.shown:
            log.warning("not announced on the network: %s", reason)
            with self._changed:
                self._show(shown)

    def _withdraw(self) -> None:
        responder, self._responder = self._responder, None
        if responder is None:
            return
        try:
            responder.close()
        except NoMulticast as error:
            log.info("no goodbye: %s", error)

    def _rivalled(self, gives_way: bool) -> None:
        """Another device claims the name: take another one, or say once more whose it is."""
        with self._changed:
            if gives_way:
                self._gives_way = True
            else:
                self._insist()
            self._wake()

    def _insist(self) -> None:
        """Say it once more although nothing changed; a network that keeps asking for that has to wait."""
        with self._changed:
            self._insists = True

    def _wake(self) -> None:
        if self._watch is not None:
            with suppress(OSError):
                self._watch.wake()

    def _show(self, shown: Shown) -> None:
        self._shown = shown
        self._changed.notify_all()
