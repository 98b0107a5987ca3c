"""A device that decides about its mode, on a virtual clock: the real triggers, holds, arbiter and steering."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from device_profiles import Profile
from runtime.deciding.arbiter import Wish
from runtime.deciding.asked import Asked
from runtime.deciding.holds import Hold
from runtime.deciding.remembered import Remembered
from runtime.deciding.steering import Steering
from runtime.deciding.watch import Watch
from runtime.device.event_log import EventLog
from runtime.device.operations import Entry
from runtime.device.succession import default_mode, macs_of
from runtime.device.switches import Switches
from runtime.device.tally import Tally
from runtime.errors import Conflict, IllegalEvent
from runtime.memory.journal import Standing
from runtime.memory.recorder import NOWHERE
from runtime.memory.state_directory import StateDirectory
from runtime.plan.bundle import Bundle
from runtime.plan.fit import Policy
from runtime.sensing.energy import by_power
from runtime.simulation.arrivals import Clock, Sensors
from runtime.simulation.mover import Mover
from runtime.simulation.trace import RELATIVE, ByHand, Held, Trace, TraceError
from runtime.walking.operation import Operation
from runtime.walking.rows import Floats
from runtime.walking.table import Phase

WHO = "the trace"


def resolve(name: str, order: tuple[str, ...], dense: str) -> str:
    """The mode that a trace means.

    Args:
        name: A mode of the plan, or ``lowest``, ``middle`` or ``dense``.
        order: The plan's modes, that of lowest power first.
        dense: The dense one.

    Raises:
        TraceError: The plan has no such mode.
    """
    if name in order:
        return name
    known = {"lowest": order[0], "middle": order[(len(order) - 1) // 2], "dense": dense}
    if name not in known:
        raise TraceError(
            f"mode: found {name!r}, expected one of the plan's modes {', '.join(order)}, or {', '.join(RELATIVE)}; "
            "correct the trace"
        )
    return known[name]


def with_triggers(profile: Profile, trace: Trace, bundle: Bundle) -> tuple[Profile, str]:
    """The profile with the triggers that count, and whose they are: ``profile``, ``trace`` or ``nobody``.

    Raises:
        TraceError: A trigger of the trace asks for a mode that the plan does not have.
    """
    if profile.triggers or profile.safety:
        return profile, "profile"
    order, dense = by_power(macs_of(bundle.manifest)), bundle.manifest.modes[0].name
    triggers = tuple(msgspec.structs.replace(one, mode=resolve(one.mode, order, dense)) for one in trace.triggers)
    return msgspec.structs.replace(profile, triggers=triggers), "trace" if triggers else "nobody"


class _Network:
    """A mover as steering sees a network."""

    def __init__(self, bundle: Bundle, profile: Profile, policy: Policy, mover: Mover) -> None:
        self.bundle = bundle
        self.profile = profile
        self.policy = policy
        self.recovery: Operation | None = None
        self.load_s = 0.0
        self.wanted_policy: str | None = None
        self.home: StateDirectory | None = None
        self._mover = mover

    @property
    def mode(self) -> str:
        return self._mover.mode

    @property
    def phase(self) -> Phase:
        return self._mover.phase

    @property
    def standing(self) -> Standing:
        return NOWHERE

    @property
    def weight_bytes(self) -> int:
        return self._mover.runner().weight_bytes

    def infer(self, x: Floats) -> Floats:
        return self._mover.runner().run(x)

    def switch(self, mode: str) -> Operation:
        return self._mover.switch(mode)

    def tidy(self) -> None:
        """Nothing is kept."""

    def retire(self) -> None:
        """Nothing is served."""

    def close(self) -> None:
        """Nothing is open."""


class VirtualDevice:
    """Decides about the mode of one network.

    Args:
        bundle: The plan.
        profile: The device; its triggers and safety rules are watched.
        policy: How its weights are held.
        trace: What its sensors say.
        mover: The network.
        clock: Virtual seconds.

    Attributes:
        conflicts: Requests for a mode that were refused, and why, with their time.
    """

    def __init__(
        self, bundle: Bundle, profile: Profile, policy: Policy, trace: Trace, mover: Mover, clock: Clock
    ) -> None:
        self.conflicts: list[tuple[float, str]] = []
        macs = macs_of(bundle.manifest)
        self._order, self._dense = by_power(macs), bundle.manifest.modes[0].name
        self._clock = clock
        self._mover = mover
        net = _Network(bundle, profile, policy, mover)
        events = EventLog(clock, kept=1)
        self._watch = Watch(profile, Sensors(trace, clock).read)
        self._polls = bool(profile.triggers or profile.safety)
        remembered = Remembered(None, tuple(macs), lambda why: None)
        asked = Asked(self._order, default_mode(bundle.manifest, profile), self._watch, events, clock, remembered)
        self._switches = Switches(net, events, Tally(), clock, lambda mode: False)
        self._steering = Steering(net, asked, self._switches, events, clock)
        self._open: list[Entry] = []
        self._holds = 0

    @property
    def polls(self) -> bool:
        """Whether there is anything to read again and again."""
        return self._polls

    def poll(self) -> None:
        """Read what is watched, and act on it."""
        self._steering.take(self._watch.take(self._watch.read(), self._clock.now_s) if self._polls else ())
        self._settle()

    def next_s(self) -> float | None:
        """When something ends by itself."""
        return self._steering.next_s()

    def ask(self, wish: ByHand) -> None:
        """A user asks for a mode, or gives control back."""
        now_s = self._clock.now_s
        if wish.mode == "auto":
            self._try(lambda: self._steering.auto(WHO))
            return
        mode = resolve(wish.mode, self._order, self._dense)
        until_s = None if wish.lease_s is None else now_s + wish.lease_s
        current = self._switches.current
        if current is not None and current.rank == "manual":
            self._try(lambda: self._steering.retarget(current.id, mode, WHO))
        else:
            self._try(lambda: self._steering.switch(Wish(mode, WHO, "by hand", until_s)))

    def hold(self, held: Held) -> None:
        """A program holds a mode."""
        now_s = self._clock.now_s
        self._holds += 1
        mode = resolve(held.mode, self._order, self._dense)
        hold = Hold(f"hold-{self._holds}", mode, WHO, "", now_s, now_s + held.lease_s)
        self._try(lambda: self._steering.hold(hold))

    def settle(self) -> None:
        """Tell steering of switches that have ended."""
        self._settle()

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (Conflict, IllegalEvent) as error:
            self.conflicts.append((self._clock.now_s, str(error)))
        self._settle()

    def _settle(self) -> None:
        """What ended is told, which may begin something new; until nothing more ends."""
        while True:
            current = self._switches.current
            if current is not None and current not in self._open:
                self._open.append(current)
            ended = [one for one in self._open if one.operation is not None and one.operation.result is not None]
            if not ended:
                return
            for entry in ended:
                self._open.remove(entry)
                if entry.final is None:
                    assert entry.operation is not None
                    assert entry.operation.result is not None
                    result = entry.operation.result
                    self._steering.finish(entry, result.outcome.value, result.reason, result)
