"""A network that answers and switches: a bundle put to work on a device."""

from __future__ import annotations

import os
from types import TracebackType

import numpy as np

from device_profiles import Profile, loader
from runtime import bundle as bundles
from runtime.bank import InPlaceBank, ShadowBank
from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.engine import CompactRunner, Engine, LiveRunner, Runner
from runtime.errors import BundleError
from runtime.fit import Policy, choose_policy
from runtime.graphs import compact_session, live_session
from runtime.operation import Operation
from runtime.route import Leg, route
from runtime.rows import Floats, RowTable
from runtime.table import Phase


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
        self._profile = profile

    def route(self, begin: str, end: str) -> tuple[Leg, ...]:
        """Legs between two modes: the fewest, then the fewest bytes."""
        self.bundle.mode(end)
        return route(self.bundle.transitions, self.table, begin, end)

    def live(self, mode: str) -> LiveRunner:
        """Fresh live network that stands at a mode."""
        session = live_session(self.bundle, self._profile.threads)
        make = InPlaceBank if self.policy == "in-place" else ShadowBank
        return LiveRunner(session, make(self.table, self.bundle.states[mode], session.bind))

    def compact(self, mode: str) -> CompactRunner:
        """A mode's smaller network."""
        return CompactRunner(compact_session(self.bundle, mode, self._profile.threads))

    def rest(self, mode: str, live: LiveRunner) -> Runner:
        """The compact network of a mode if the profile wants it, else the live one."""
        return self.compact(mode) if self._profile.bank.snap else live

    def canary(self, runner: Runner) -> str:
        """Why the runner may not be trusted, or nothing: it must answer every canary sample right."""
        samples = self.bundle.canary
        right = int((np.argmax(runner.run(samples.inputs), axis=1) == samples.labels).sum())
        return "" if right == len(samples) else f"canary: found {right} right answers, expected {len(samples)}"


class Net:
    """A network that changes its power mode while it answers. Use ``geoshift.open`` to make one.

    Args:
        bundle: A checked bundle.
        profile: Device to run as.
        policy: Bank policy that replaces the profile's.
    """

    def __init__(self, bundle: Bundle, profile: Profile, policy: str | None = None) -> None:
        chosen = choose_policy(bundle, profile, policy)
        self._plan = DeployedPlan(bundle, profile, chosen)
        dense = bundle.manifest.modes[0].name
        live = None if profile.bank.snap else self._plan.live(dense)
        runner = live or self._plan.compact(dense)
        if reason := self._plan.canary(runner):
            raise BundleError(f"{bundle.path}: mode {dense}: {reason}; run `geoshift verify` on this machine")
        self._engine = Engine(runner, exclusive=chosen == "in-place", queue_limit=profile.queue_limit)
        self._controller = Controller(self._plan, self._engine, dense, profile.writes, live)
        self.bundle = bundle
        self.profile = profile
        self.policy = chosen

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

    def __enter__(self) -> Net:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(
    path: str | os.PathLike[str], profile: str | os.PathLike[str] | None = None, *, policy: str | None = None
) -> Net:
    """Read a bundle and put it to work.

    Args:
        path: The bundle's directory.
        profile: Name of a built-in device profile or a YAML file; without it, the one the plan was made for.
        policy: ``auto``, ``in-place`` or ``shadow``, in place of the profile's.

    Raises:
        BundleError: The bundle is refused or does not fit the device.
        ProfileError: There is no such profile, or it is not valid.
    """
    bundle = bundles.read(path)
    return Net(bundle, bundle.profile if profile is None else loader.load(profile), policy)
