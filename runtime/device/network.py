"""What a device needs of whatever answers for it."""

from __future__ import annotations

from typing import Protocol

from device_profiles import Profile
from runtime.memory.journal import Standing
from runtime.memory.state_directory import StateDirectory
from runtime.plan.bundle import Bundle
from runtime.plan.fit import Policy
from runtime.walking.operation import Operation
from runtime.walking.rows import Floats
from runtime.walking.table import Phase


class Network(Protocol):
    """A network that answers and switches, or what stands in for one; see ``runtime.walking.net.Net``.

    Attributes:
        bundle: The plan.
        profile: The device.
        policy: Bank policy.
        recovery: Operation that brings a walk to its end which a restart cut short.
        load_s: Seconds that reading and loading took.
        wanted_policy: Policy that was asked for in place of the profile's.
        home: State directory.
    """

    bundle: Bundle
    profile: Profile
    policy: Policy
    recovery: Operation | None
    load_s: float
    wanted_policy: str | None
    home: StateDirectory | None

    @property
    def mode(self) -> str:
        """Mode reached last."""
        ...

    @property
    def phase(self) -> Phase:
        """What it is doing about its mode."""
        ...

    @property
    def standing(self) -> Standing:
        """What is remembered."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights which answer now take."""
        ...

    def infer(self, x: Floats) -> Floats:
        """Outputs for a batch of inputs."""
        ...

    def switch(self, mode: str) -> Operation:
        """Begin to walk to a mode."""
        ...

    def tidy(self) -> None:
        """Remove from the state directory what other bundles left there."""
        ...

    def retire(self) -> None:
        """Take no more calls, answers under way excepted; the state directory stays as it is."""
        ...

    def close(self) -> None:
        """Take no more calls, and let the state directory go."""
        ...
