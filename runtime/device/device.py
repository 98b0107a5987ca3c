"""A device: one network, what is asked of it, what it watches, and what it tells of itself."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from runtime.deciding.arbiter import Wish
from runtime.deciding.asked import Asked
from runtime.deciding.holds import Hold
from runtime.deciding.remembered import Remembered
from runtime.deciding.steering import Steering
from runtime.deciding.watch import Watch
from runtime.device.absent import Absent
from runtime.device.clock import since_boot_s, since_now
from runtime.device.event_log import EventLog
from runtime.device.hiding import without_place
from runtime.device.network import Network
from runtime.device.operations import Entry
from runtime.device.succession import Succession, default_mode, macs_of
from runtime.device.switches import Switches
from runtime.device.tally import Tally
from runtime.device.viewing import decision_view, endurance_origin, hold_view, mode_view, power_view
from runtime.device.views import HoldView, ModeView, OperationView, Status
from runtime.device.walker import Walker
from runtime.errors import BadDuration, Closed, OtherRelease, QueueFull
from runtime.plan.bundle import Bundle
from runtime.plan.costs import endurance_left
from runtime.plan.fit import Policy, check_profile_modes
from runtime.plan.trust import Trust
from runtime.pushing.pushes import Pushes
from runtime.sensing.energy import EnergyAccount, by_power
from runtime.sensing.lookout import Lookout
from runtime.sensing.os_power import OsPower, Tools
from runtime.sensing.power import Meter, find_meter
from runtime.sensing.sources import Sources
from runtime.walking.net import Net
from runtime.walking.rows import Floats


@dataclass(frozen=True)
class Answer:
    """What a call got.

    Attributes:
        outputs: Fresh array [N, outputs], all of it from one state.
        release: Release of the plan that answered.
    """

    outputs: Floats
    release: int


class Device:
    """A network that decides about its mode. Use ``open_device`` to make one.

    Args:
        net: The network; it is closed with the device.
        id: Stable name of the device.
        state: State directory, which the network holds; None to remember nothing.
        outside: Whether the profile was given to this device, so that its commands are run and its files read; a
            profile that came with the plan may be a stranger's.
        clock: Seconds on a clock that never jumps; None for the machine's, by which leases end while it sleeps too and
            energy is counted while it is awake.
        tools: Where programs and sysfs are.
        meter: What measures power; None looks for one.
        watches: Whether a thread reads what is watched; without it, ``poll`` is to be called.
        trust: Keys of which one must have signed a plan that is pushed.

    Attributes:
        profile: The device's profile; it stays when another plan is pushed.
        id: Stable name.
        why: Why the plan is not the one that the device was opened with; empty if it is.
        pushes: Plans that are pushed to it.

    Raises:
        BundleError: The profile names modes that the plan does not have.
    """

    def __init__(
        self,
        net: Net,
        *,
        id: str,
        state: Path | None = None,
        outside: bool = True,
        clock: Callable[[], float] | None = None,
        tools: Tools | None = None,
        meter: Meter | None = None,
        watches: bool = True,
        trust: Trust | None = None,
    ) -> None:
        self.profile, self.id, self.why = net.profile, id, net.why
        macs = macs_of(net.bundle.manifest)
        check_profile_modes(net.bundle.manifest, self.profile, str(net.bundle.path))
        default = default_mode(net.bundle.manifest, self.profile)
        tools = tools or Tools()
        self._state = state
        self._clock, self._awake = since_now(clock or since_boot_s), since_now(clock or time.monotonic)
        self._written_before = net.standing.counters.bytes_written
        self._events = EventLog(self._clock, hidden=self.hidden)
        self._account = EnergyAccount(self.profile.energy, macs, 0.0)
        self._tally = Tally()
        self._watch = Watch(self.profile, Sources(self.profile.commands, tools.root, outside=outside).read)
        listed = {
            name: (mode.before, mode.after) for name, mode in self.profile.modes.items() if mode.before or mode.after
        }
        if listed and not outside:
            self._tell_fault("commands of a profile that came with a plan are not run; give the profile to the device")
            listed = {}
        self._remembered = Remembered(state, tuple(macs), self._tell_fault)
        asked = Asked(by_power(macs), default, self._watch, self._events, self._clock, self._remembered)
        self._switches = Switches(
            net, self._events, self._tally, self._clock, lambda mode: bool(listed.get(mode, ((), ()))[0]), self.hidden
        )
        self._steering = Steering(net, asked, self._switches, self._events, self._clock)
        self._seat = Succession(net, self._switches, self._steering, asked, self._account)
        self.pushes = Pushes(self._seat, trust, self._events, self._tally, self._clock, self.hidden)
        os_power = OsPower(self.profile.commands, self._tell_command, tools)
        walker = Walker(self._switches, self._steering, listed, os_power)
        self._lookout = Lookout(
            self._watch, meter or find_meter(tools.root), self._account, self._switches, self._steering, self._events,
            self._clock, self.profile.poll_s, self._awake,
        )  # fmt: skip
        self._threads = [threading.Thread(target=walker.run, name="geoshift-switches", daemon=True)]
        if watches:
            self._threads.append(threading.Thread(target=self._lookout.run, name="geoshift-watch", daemon=True))
        for thread in self._threads:
            thread.start()
        self._remembered.start()

    @property
    def bundle(self) -> Bundle:
        """The plan at work; while one takes another's place and there is no room for two, its manifest alone."""
        return self._net.bundle

    @property
    def policy(self) -> Policy:
        """Bank policy, ``in-place``, ``shadow`` or ``persistent``."""
        return self._net.policy

    @property
    def answers(self) -> bool:
        """Whether there is a network to answer: not while one plan takes another's place without room for two."""
        return not isinstance(self._net, Absent)

    # Inference

    def infer(self, x: Floats) -> Floats:
        """Outputs for a batch of preprocessed inputs, from any thread, during a switch too.

        Args:
            x: float32 [N, ...] as ``bundle.manifest.model.input_shape`` says.

        Returns:
            Fresh array [N, outputs], all of it from one state.

        Raises:
            InputError: Wrong shape or type; nothing was computed.
            QueueFull: Too many callers at once.
            Closed: The network was closed.
            Replacing: There is none for a moment.
        """
        return self.answer(x).outputs

    def answer(self, x: Floats, release: int | None = None) -> Answer:
        """As ``infer``, with what the answer is of.

        Args:
            x: As for ``infer``.
            release: Release of the plan that must answer; None for whichever is at work.

        Raises:
            OtherRelease: Another release is at work.
        """
        while True:
            net = self._net
            found = net.bundle.manifest.release
            if release not in (None, found):
                raise OtherRelease(f"model version: found release {found} at work, expected {release}; ask that one")
            mode, begun = self._resting(), time.perf_counter()
            try:
                outputs = net.infer(x)
            except QueueFull:
                self._tally.refuse()
                raise
            except Closed:
                if net is self._net:
                    raise
                continue  # another plan took its place while this call was on its way
            seconds = time.perf_counter() - begun
            self._tally.answer()
            # An answer that a walk or a push began or ended under says nothing of one mode.
            if mode is not None and mode == self._resting() and net is self._net:
                self._account.answered(mode, len(outputs), seconds)
            return Answer(outputs, found)

    # What it is

    def status(self) -> Status:
        """The device at this moment."""
        with self._switches.changed:
            now_s, entry, net = self._clock(), self._switches.current, self._net
            writes = net.standing.counters
            total = self._account.total_j(self._awake(), writes.bytes_written - self._written_before)
            return Status(
                device=self.id,
                mode=net.mode,
                phase=net.phase.value,
                target=None if entry is None else entry.target,
                progress=1.0 if entry is None else entry.view(net.phase, now_s).progress,
                operation=None if entry is None else entry.id,
                decision=decision_view(self._steering.decision, now_s),
                holds=self.holds(),
                triggers=self._watch.views(),
                power=power_view(net.mode, self._account, total),
                uptime_s=now_s,
                bundle=self.bundle.id,
                release=self.bundle.manifest.release,
                policy=self.policy,
                weight_bytes=net.weight_bytes,
                counters=self._tally.counters(writes),
                push=self.pushes.under_way,
                endurance_left=endurance_left(self.profile, writes.cell_writes),
                provenance=endurance_origin(self.profile),
            )

    def modes(self) -> tuple[ModeView, ...]:
        """The modes of the plan, the dense one first."""
        return tuple(mode_view(entry, self._account) for entry in self.bundle.manifest.modes)

    def events(self) -> EventLog:
        """What happened."""
        return self._events

    # What is asked of it

    def switch(self, mode: str, *, who: str, lease_s: float | None = None) -> OperationView:
        """Ask for a mode by hand; it is kept until ``auto``, or until the lease ends. Holds are cancelled.

        Args:
            mode: Mode asked for.
            who: Who asks.
            lease_s: Seconds after which the others decide again; None for no end.

        Raises:
            UnknownMode: The plan has no such mode.
            Conflict: Safety forbids it, or a walk of equal or higher rank is under way.
            BadDuration: The lease is no positive number.
            Closed: The device was closed, or failed.
            NoThread: The system has no thread to spare.
        """
        until_s = self._until("lease_s", lease_s)
        return self._settled(self._steering.switch(Wish(mode, who, "by hand", until_s)))

    def auto(self, *, who: str) -> OperationView | None:
        """Give control back to holds, triggers and the profile; the switch under way then, if any.

        Raises:
            Closed: The device was closed, or failed.
        """
        entry = self._steering.auto(who)
        self._remembered.settle()
        return None if entry is None else self._view(entry)

    def hold(self, mode: str, *, who: str, reason: str, ttl_s: float | None) -> HoldView:
        """Place a hold on a mode.

        Args:
            mode: Mode asked for.
            who: Who places it.
            reason: Why.
            ttl_s: Seconds after which it ends by itself; None for no end.

        Raises:
            UnknownMode: The plan has no such mode.
            Conflict: There are too many holds.
            BadDuration: The time is no positive number.
            Closed: The device was closed, or failed.
        """
        self.bundle.mode(mode)
        until_s = self._until("ttl_s", ttl_s)
        hold = Hold(f"hold-{secrets.token_hex(4)}", mode, who, reason, self._clock(), until_s)
        self._steering.hold(hold)
        return hold_view(hold, self._clock())

    def release(self, hold_id: str) -> None:
        """Release a hold.

        Raises:
            UnknownHold: There is none with this id; it may have ended.
        """
        self._steering.release(hold_id)

    def holds(self) -> tuple[HoldView, ...]:
        """The holds."""
        now_s = self._clock()
        return tuple(hold_view(hold, now_s) for hold in self._steering.holds())

    # Its operations

    def operations(self) -> tuple[OperationView, ...]:
        """The last hundred, the oldest first."""
        with self._switches.changed:
            return tuple(self._view(entry) for entry in self._switches.operations.all())

    def operation(self, id: str) -> OperationView:
        """One of them.

        Raises:
            UnknownOperation: There is none with this id.
        """
        with self._switches.changed:
            return self._view(self._switches.operations.get(id))

    def wait(self, id: str, timeout_s: float) -> OperationView:
        """Wait for the end of one, and give it as it stands then, or after ``timeout_s``.

        Raises:
            UnknownOperation: There is none with this id.
        """
        with self._switches.changed:
            entry = self._switches.operations.get(id)
            self._switches.changed.wait_for(lambda: entry.final is not None, min(timeout_s, threading.TIMEOUT_MAX))
        # A switch that did not reach its mode has let what was asked for before it count again.
        return self._view(entry) if entry.final is None else self._settled(entry)

    def cancel(self, id: str) -> OperationView:
        """Send a walk back to where it began.

        Raises:
            UnknownOperation: There is none with this id.
            IllegalEvent: It is over, verifying, or on its way back already.
            Conflict: Safety began it, or forbids the mode that it would go back to.
        """
        return self._settled(self._steering.cancel(id))

    def pause(self, id: str) -> OperationView:
        """Let a walk stand still; it may be turned or taken back all the same.

        Raises:
            UnknownOperation: There is none with this id.
            IllegalEvent: It is not walking.
            Conflict: Safety began it.
        """
        return self._view(self._steering.signal(id, "pause"))

    def resume(self, id: str) -> OperationView:
        """Let a walk go on after a pause.

        Raises:
            UnknownOperation: There is none with this id.
            IllegalEvent: It is not paused.
            Conflict: Safety began it.
        """
        return self._view(self._steering.signal(id, "resume"))

    def retarget(self, id: str, mode: str, *, who: str | None = None) -> OperationView:
        """Turn a walk to another mode, by hand; the lease of the one that began it goes on.

        Args:
            id: The operation under way.
            mode: Mode to reach instead.
            who: Who asks; None for who asked before.

        Returns:
            The new operation; the old one ends as ``retargeted``.

        Raises:
            UnknownOperation: There is none with this id.
            UnknownMode: The plan has no such mode.
            IllegalEvent: It is over, or cannot be turned any more.
            Conflict: Safety began it, or forbids the mode.
        """
        return self._settled(self._steering.retarget(id, mode, who))

    def hidden(self, text: str) -> str:
        """A text about this device as others may read it: not where its files lie."""
        return without_place(text, self._state)

    # Its life

    def poll(self) -> None:
        """Read what is watched, and the meter, and act on it. The device's own thread does this every ``poll_s``."""
        self._lookout.poll()

    def close(self) -> None:
        """Stop a walk where it stands and take no more calls; answers under way are still given."""
        self._steering.close()
        self.pushes.close()
        self._net.close()
        for thread in self._threads:
            thread.join()
        self._remembered.close()
        if not self._events.closed:
            self._events.add("closed", {})
            self._events.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    @property
    def _net(self) -> Network:
        return self._seat.net

    def _resting(self) -> str | None:
        """Mode that the network stands at; None while it walks."""
        return None if self._switches.current is not None else self._net.mode

    def _settled(self, entry: Entry) -> OperationView:
        """An operation as it stands once what was asked for by hand is safe."""
        self._remembered.settle()
        return self._view(entry)

    def _view(self, entry: Entry) -> OperationView:
        with self._switches.changed:
            return entry.view(self._net.phase, self._clock())

    def _until(self, name: str, seconds: float | None) -> float | None:
        if seconds is None:
            return None
        if not (seconds > 0 and math.isfinite(seconds)):
            raise BadDuration(f"{name}: found {seconds!r}, expected a number of seconds above 0, or none for no end")
        return self._clock() + seconds

    def _tell_command(self, stage: str, name: str, ok: bool, detail: str) -> None:
        self._events.add("power", {"command": name, "stage": stage, "ok": ok, "detail": detail})

    def _tell_fault(self, detail: str) -> None:
        self._events.add("fault", {"detail": detail})
