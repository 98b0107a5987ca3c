"""A network that answers and switches: a bundle put to work on a device."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from device_profiles import Profile, loader
from runtime.device.choice import choose
from runtime.errors import BundleError
from runtime.memory.journal import Standing
from runtime.memory.recovery import Resume, onward
from runtime.memory.restoring import Restorer
from runtime.memory.start import Start, start
from runtime.memory.state_directory import StateDirectory
from runtime.memory.weight_memory import PersistentBank
from runtime.plan import bundle as bundles
from runtime.plan.bundle import Bundle
from runtime.plan.costs import check_writes, wanted_policy
from runtime.plan.fit import Policy, affords_comfort, choose_policy
from runtime.plan.graphs import compact_session, live_session
from runtime.plan.trust import Trust, pin
from runtime.walking.bank import Bank, InPlaceBank, ShadowBank
from runtime.walking.behind import may_end
from runtime.walking.controller import Controller
from runtime.walking.engine import CompactRunner, Engine, LiveRunner, Runner
from runtime.walking.operation import Operation
from runtime.walking.route import Leg, route
from runtime.walking.rows import Floats, RowTable, State
from runtime.walking.session import Session, Weights
from runtime.walking.table import Phase

KEPT_BYTES: Final = 8 << 20
"""Graphs of a small network are kept once they are made, up to so many bytes of weights in all: a switch then makes no
session, each of which takes milliseconds and leaves 200 bytes in ONNX Runtime for good."""


class DeployedPlan:
    """Runners and routes of one bundle under one profile.

    Args:
        bundle: A checked bundle.
        profile: Device to run as.
        policy: Bank policy.
    """

    def __init__(self, bundle: Bundle, profile: Profile, policy: Policy) -> None:
        self.bundle = bundle
        self.policy = policy
        self.table: RowTable = bundle.table
        self.restorer: Restorer | None = None
        """Brings persistent weight memory to a mode; needed with policy ``persistent``."""
        self._profile = profile
        self._sessions: dict[str | None, Session] | None = {} if _have_room(bundle, profile) else None

    def route(self, begin: str, end: str) -> tuple[Leg, ...]:
        """Legs between two modes: the fewest, then the fewest bytes."""
        self.bundle.mode(end)
        return route(self.bundle.transitions, self.table, begin, end)

    def live(self, mode: str) -> LiveRunner:
        """Live network that stands at a mode: fresh, or in persistent memory that is restored to it."""
        return self.live_at(mode, self.bundle.states[mode])

    def live_at(self, mode: str, state: State) -> LiveRunner:
        """Live network that stands at a state.

        Args:
            mode: Mode of the state, or the one that was left.
            state: Versions of all rows.
        """
        session = self._session(
            None,
            lambda: live_session(
                self.bundle, self._profile.threads, self._profile, aliased=self.policy == "persistent"
            ),
        )
        verify = self._profile.writes.verify
        most_writes = None if verify is None else verify.most_writes
        bank: Bank[Weights]
        if self.policy == "persistent":
            assert self.restorer is not None, "persistent memory is opened before a session"
            bank = PersistentBank(self.restorer.stand(mode, state), session.bind, most_writes)
        else:
            make = InPlaceBank if self.policy == "in-place" else ShadowBank
            bank = make(self.table, state, session.bind, most_writes)
        return LiveRunner(session, bank)

    def compact(self, mode: str) -> CompactRunner:
        """A mode's smaller network."""
        return CompactRunner(self._session(mode, lambda: compact_session(self.bundle, mode, self._profile.threads)))

    def _session(self, mode: str | None, make: Callable[[], Session]) -> Session:
        """The session of a mode's graph, or of the live one; made only once where there is room to keep them all."""
        if self._sessions is None:
            return make()
        if mode not in self._sessions:
            self._sessions[mode] = make()
        return self._sessions[mode]

    def rest(self, mode: str, live: LiveRunner) -> Runner:
        """The compact network of a mode if the profile wants it, else the live one."""
        return self.compact(mode) if self._profile.bank.snap else live

    def canary(self, runner: Runner) -> str:
        """Why the runner may not be trusted at a mode, or nothing: it must answer every canary sample right."""
        samples = self.bundle.canary
        right = self._right(runner)
        return "" if right == len(samples) else f"canary: found {right} right answers, expected {len(samples)}"

    def guard(self, runner: Runner, leg: Leg) -> str:
        """Why the runner may not be trusted on the way, or nothing.

        Of the canary samples, which every mode answers right, it may get as large a share wrong as the worst state of
        the path did of the held-out set.
        """
        ends = {leg.begin, leg.end}
        accuracy = min(one.entry.min_accuracy for one in self.bundle.transitions if set(one.ends) == ends)
        right, least = self._right(runner), math.floor(accuracy * len(self.bundle.canary))
        return "" if right >= least else f"guard: found {right} right answers, expected at least {least}"

    def _right(self, runner: Runner) -> int:
        """Right answers to the canary samples.

        Asked one by one: together they would take 30 times the activations of a caller's question, on VGG-11 17 MB
        more for good than the device needs at rest.
        """
        samples = self.bundle.canary
        answers = []
        for at in range(len(samples)):
            may_end()
            answers.append(np.argmax(runner.run(samples.inputs[at : at + 1])))
        return int((np.array(answers) == samples.labels).sum())


def _have_room(bundle: Bundle, profile: Profile) -> bool:
    """Whether the sessions of all graphs may be kept beside everything else that the device holds."""
    every = bundle.manifest.model.dense_bytes * (len(bundle.states) + 1)
    return every <= KEPT_BYTES and affords_comfort(bundle.manifest, profile)


class Net:
    """A network that changes its power mode while it answers. Use ``geoshift.open`` to make one.

    Args:
        bundle: A checked bundle.
        profile: Device to run as.
        policy: Bank policy that replaces the profile's.
        home: State directory; the network closes it. Without one, nothing is remembered.
        resume: Where a walk goes that a restart cut short: ``back``, ``forward``, or to the nearer end.
        migrate: Whether another bundle's state directory is taken over.
        successor: Mode to begin in beside another network, whose place this one may take later. Until ``settle`` is
            called nothing is recorded and the state directory stays the caller's.

    Attributes:
        bundle: The plan.
        profile: The device.
        policy: Bank policy.
        wanted_policy: The one that was asked for.
        home: State directory.
        load_s: Seconds that reading and loading took.
        why: Why it is not of the bundle that was given; empty if it is.
        recovery: The operation that brings a walk to its end which a restart cut short; None if there was none.

    Raises:
        BundleError: The plan does not fit the device, or its canary is wrong.
        StateError: The state directory does not fit the plan.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: Profile,
        policy: str | None = None,
        *,
        home: StateDirectory | None = None,
        resume: Resume | None = None,
        migrate: bool = False,
        successor: str | None = None,
    ) -> None:
        begun_s = time.perf_counter()
        self.home = home
        self.bundle = bundle
        self.profile = profile
        self.wanted_policy = policy
        self.recovery: Operation | None = None
        self.why = ""
        self._settles = successor is None
        try:
            origin = f"{bundle.path} on {profile.name}"
            check_writes(bundle.table.layers, profile, origin)
            self.policy = choose_policy(bundle, profile, wanted_policy(profile, policy, origin))
            self._plan = DeployedPlan(bundle, profile, self.policy)
            migrate = migrate or successor is not None
            begin = start(bundle, self.policy, self._plan.route, home, migrate=migrate, mode=successor)
            self._memory = begin.memory
            self._open(begin, resume)
        except BaseException:
            if self._settles:
                self._leave()
            raise
        self.load_s = time.perf_counter() - begun_s

    def _open(self, begin: Start, resume: Resume | None) -> None:
        """Answer from the state that is found, and go on from it if it is on the way."""
        place, mode = begin.place, begin.place.mode
        self._plan.restorer = begin.restorer
        self._recorder = begin.recorder
        further = onward(place, resume, self._plan.route, self._plan.table)
        live = None if self.profile.bank.snap and further is None else self._plan.live_at(mode, place.state)
        runner = live or self._plan.compact(mode)
        self._engine = Engine(runner, exclusive=self.policy != "shadow", queue_limit=self.profile.queue_limit)
        self._controller = Controller(
            self._plan,
            self._engine,
            mode,
            self.profile.writes,
            live,
            self._recorder,
            release=self.bundle.manifest.release,
            guard_every=self.profile.guard.canary_every_increments,
        )
        # On the way, the canary is asked when a mode is reached.
        if self._settles and further is None:
            self.check()
            self._recorder.adopt(self.bundle.manifest.release)
        if self._settles:
            self.tidy()
        if further is not None:
            self.recovery = self._controller.go_on(*further)

    def check(self) -> None:
        """Ask what answers now the canary samples, at rest in a mode.

        Raises:
            BundleError: One was answered wrong.
        """
        if reason := self._plan.canary(self._engine.runner):
            raise BundleError(f"{self.bundle.path}: mode {self.mode}: {reason}; run `geoshift verify` on this machine")

    def settle(self) -> None:
        """A successor whose canary was right: from now on the state directory is its own, over a power cut too.

        Raises:
            JournalError: It cannot be recorded.
        """
        self._recorder.adopt(self.bundle.manifest.release)
        self._settles = True

    def tidy(self) -> None:
        """Remove from the state directory what other bundles left there."""
        if self.home is not None:
            self.home.tidy(None if self._memory is None else self._memory.path)
            self.home.bundles.tidy(self.bundle.id)

    def retire(self) -> None:
        """Take no more calls, answers under way excepted; the state directory stays as it is, for a successor."""
        self._controller.close()
        self._engine.close()
        self.home = None

    def _leave(self) -> None:
        if self.home is not None:
            self.home.close()

    def infer(self, x: Floats) -> Floats:
        """Outputs for a batch of preprocessed inputs; may be called from any thread, during a switch too.

        Args:
            x: float32 [N, ...] as ``bundle.manifest.model.input_shape`` says.

        Returns:
            Fresh array [N, outputs], all of it from one state.

        Raises:
            InputError: Wrong shape or type; nothing was computed.
            QueueFull: Too many callers at once.
            Closed: The network was closed.
        """
        return self._engine.infer(x)

    def switch(self, mode: str) -> Operation:
        """Begin to walk to a mode and return at once.

        Raises:
            UnknownMode: The plan has no such mode.
            Busy: Another switch is under way.
            Closed: The network was closed, or failed.
            NoThread: The system has no thread to spare.
        """
        return self._controller.switch(mode)

    @property
    def mode(self) -> str:
        """Mode reached last; during a switch the one it left."""
        return self._controller.mode

    @property
    def phase(self) -> Phase:
        """What the network is doing about its mode."""
        return self._controller.phase

    @property
    def standing(self) -> Standing:
        """What is remembered, counters and release included: since opened, or with a state directory for life."""
        return self._recorder.standing

    @property
    def modes(self) -> tuple[str, ...]:
        """Names of all modes, the dense one first."""
        return tuple(self.bundle.states)

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights which answer now take, copies included."""
        return self._engine.weight_bytes

    def close(self) -> None:
        """Stop a walk where it stands and take no more calls; answers under way are still given."""
        self._controller.close()
        self._engine.close()
        if self._settles:
            self._leave()

    def __enter__(self) -> Net:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(
    path: str | os.PathLike[str],
    profile: str | os.PathLike[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    policy: str | None = None,
    state: str | os.PathLike[str] | None = None,
    resume: Resume | None = None,
    migrate: bool = False,
    pinned: Sequence[str | os.PathLike[str]] = (),
) -> Net:
    """Read a bundle and put it to work.

    Args:
        path: The bundle's directory.
        profile: Name of a built-in device profile or a YAML file; without it, the one the plan was made for.
        overrides: Texts PATH=VALUE that replace single values of the profile, ``writes.stall_budget_ms=2`` say.
        policy: ``auto``, ``in-place``, ``shadow`` or ``persistent``, in place of the profile's.
        state: Directory for what must outlive a power cut; made if it is not there.
        resume: Where a walk goes that a restart cut short: ``back`` or ``forward``; without it, to the nearer end.
        migrate: Take over a state directory of another bundle: begin in this one's dense mode, keep the counters.
        pinned: Files of public keys. With any, one of them must have signed the bundle, and its release may not be
            lower than the highest that the state directory remembers as committed.

    Raises:
        BundleError: The bundle is refused or does not fit the device.
        KeyFileError: A pinned key cannot be read.
        ProfileError: There is no such profile, or it is not valid.
        StateError: The state directory is damaged, in use, or another bundle's.
        JournalError: The state directory cannot be written.
    """
    begun_s = time.perf_counter()
    trust = pin(pinned)
    told = bundles.glance(path, trust)
    if profile is None:
        device = loader.from_builtins(told.manifest.profile, f"{path}: profile", overrides)
    else:
        device = loader.load(profile, overrides)
    if state is None:
        net = Net(bundles.read(path, trust), device, policy, resume=resume)
    else:
        net = _open_at(Path(path), device, policy, StateDirectory(state), trust, resume, migrate=migrate)
    net.load_s = time.perf_counter() - begun_s
    return net


def _open_at(
    path: Path,
    profile: Profile,
    policy: str | None,
    home: StateDirectory,
    trust: Trust | None,
    resume: Resume | None,
    *,
    migrate: bool,
) -> Net:
    """Open the bundle that a state directory is of; the directory is let go if that fails."""
    try:
        choice = choose(path, home, trust, migrate=migrate)
        known = None if trust is None else replace(trust, release=home.journal.release)
        bundle = bundles.read(choice.path, known)
    except BaseException:
        home.close()
        raise
    net = Net(bundle, profile, policy, home=home, resume=resume, migrate=migrate)
    net.why = choice.why
    return net
