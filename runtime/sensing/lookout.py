"""Looks, again and again: reads what is watched and the meter, and sees when a lease or a hold ends."""

from __future__ import annotations

from collections.abc import Callable

from runtime.deciding.steering import Steering
from runtime.deciding.watch import Watch
from runtime.device.event_log import EventLog
from runtime.device.switches import Switches
from runtime.sensing.energy import EnergyAccount
from runtime.sensing.power import Meter


class Lookout:
    """Reads for a steering; ``run`` it on a thread of its own, or call ``poll``.

    Args:
        watch: Triggers and rules of safety.
        meter: What measures power; None where there is nothing.
        account: What power is counted in.
        switches: The network's switches, whose lock guards all of it.
        steering: Is told what was seen.
        events: Where to tell what goes wrong.
        clock: Seconds since the device was opened.
        poll_s: Seconds between two readings.
        awake: Seconds that the machine was not asleep, which power was drawn for.
    """

    def __init__(
        self,
        watch: Watch,
        meter: Meter | None,
        account: EnergyAccount,
        switches: Switches,
        steering: Steering,
        events: EventLog,
        clock: Callable[[], float],
        poll_s: float,
        awake: Callable[[], float],
    ) -> None:
        self._watch = watch
        self._meter = meter
        self._account = account
        self._switches = switches
        self._steering = steering
        self._events = events
        self._clock = clock
        self._poll_s = poll_s
        self._awake = awake

    def poll(self) -> None:
        """Read everything once, and act on it. Sources are read before the lock is taken: a command may be slow."""
        readings = self._watch.read()
        now_s, awake_s = self._clock(), self._awake()
        sample = None if self._meter is None else self._meter.sample(awake_s)
        source = "" if self._meter is None else self._meter.source
        with self._switches.changed:
            self._account.tick(awake_s, self._switches.rested(), sample, source)
            self._steering.take(self._watch.take(readings, now_s))

    def run(self) -> None:
        """Read period after period until the device is closed, and look again whenever something ends by itself."""
        due_s = self._clock()
        while True:
            try:
                if self._clock() >= due_s:
                    due_s = self._clock() + self._poll_s
                    self.poll()
                else:
                    self._steering.take(())
            except Exception as error:  # noqa: BLE001  # safety must go on being watched, whatever a sensor does
                self._events.add("fault", {"detail": f"{type(error).__name__}: {error}"})
            if not self._wait(due_s):
                return

    def _wait(self, due_s: float) -> bool:
        """Wait until the next reading is due or something ends; False once the device is closed."""
        with self._switches.changed:
            while not self._switches.closed:
                ends_s = self._steering.next_s()
                left_s = (due_s if ends_s is None else min(due_s, ends_s)) - self._clock()
                if left_s <= 0:
                    return True
                self._switches.changed.wait(left_s)
            return False
