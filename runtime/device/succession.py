"""Who answers for a device, and how another network takes that place."""

from __future__ import annotations

import gc

from device_profiles import Profile
from runtime.deciding.asked import Asked
from runtime.deciding.steering import Steering
from runtime.device.absent import Absent
from runtime.device.network import Network
from runtime.device.switches import Switches
from runtime.plan.manifest import Manifest
from runtime.sensing.energy import EnergyAccount, by_power


def default_mode(manifest: Manifest, profile: Profile) -> str:
    """Mode wanted while nobody asks for another."""
    return profile.default_mode or manifest.modes[0].name


def macs_of(manifest: Manifest) -> dict[str, int]:
    """Mode to its multiply-accumulates, in the plan's order."""
    return {mode.name: mode.macs for mode in manifest.modes}


class Succession:
    """The place of the network at work. One exchange at a time.

    Args:
        net: Who has it first.
        switches: Its switches, whose lock guards the exchange.
        steering: Who decides about it.
        asked: What is asked of it.
        account: What its power is counted in.

    Attributes:
        net: Who has it now. Reading it is enough to be answered by one and the same network.
    """

    def __init__(
        self, net: Network, switches: Switches, steering: Steering, asked: Asked, account: EnergyAccount
    ) -> None:
        self.net = net
        self._switches = switches
        self._steering = steering
        self._asked = asked
        self._account = account

    def check(self) -> None:
        """See that an exchange could begin.

        Raises:
            Conflict: A walk is on its way.
            Closed: The device was closed, or failed.
        """
        self._steering.check_at_rest("push")

    def reserve(self) -> None:
        """From now on only safety begins a walk; ``end`` follows.

        Raises:
            Conflict: A walk is on its way.
            Closed: The device was closed, or failed.
        """
        self._steering.reserve()

    def mode_for(self, manifest: Manifest) -> str:
        """Mode in which another plan is to begin: the present one if it has that, else the default."""
        mode = self.net.mode
        return mode if mode in macs_of(manifest) else default_mode(manifest, self.net.profile)

    def freeze(self) -> None:
        """From now on nobody begins a walk.

        Raises:
            Conflict: Safety began one.
            Closed: The device was closed.
        """
        self._steering.freeze()

    def leave(self) -> Absent:
        """Let the network go, when the calls under way have their answers; nobody answers from now on."""
        with self._switches.changed:
            before, absent = self.net, Absent(self.net)
            self.net = absent
            self._steering.take_over(absent)
        before.retire()
        del before
        # Now, and not whenever Python sees fit: the next plan needs the memory.
        gc.collect()
        return absent

    def put(self, net: Network) -> None:
        """Have another network answer all calls that come from now on; those under way end on the one before."""
        macs = macs_of(net.bundle.manifest)
        with self._switches.changed:
            before, self.net = self.net, net
            self._account.turn_to(macs)
            self._asked.turn_to(by_power(macs), default_mode(net.bundle.manifest, net.profile))
            self._steering.take_over(net)
        before.retire()

    def end(self) -> None:
        """The exchange is over, whichever way: what is wanted now decides."""
        self._steering.relinquish()
