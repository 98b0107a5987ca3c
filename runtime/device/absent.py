"""Stands in for a network while there is none in memory: one plan is gone, the next one is not there yet."""

from __future__ import annotations

import dataclasses
from typing import NoReturn

from runtime.device.network import Network
from runtime.errors import Busy, Replacing
from runtime.plan.bundle import Bundle
from runtime.plan.bundle_files import MANIFEST
from runtime.plan.samples import Samples
from runtime.walking.operation import Operation
from runtime.walking.rows import Floats, RowTable
from runtime.walking.table import Phase


class Absent:
    """Knows what the network before it was, and holds none of its weights.

    Args:
        before: That network.

    Attributes:
        phase: ``IDLE``, or ``FAILED`` once no network can be loaded any more.
    """

    def __init__(self, before: Network) -> None:
        self.bundle = _emptied(before.bundle)
        self.profile = before.profile
        self.policy = before.policy
        self.recovery: Operation | None = None
        self.load_s = before.load_s
        self.wanted_policy = before.wanted_policy
        self.home = before.home
        self.mode = before.mode
        self.standing = before.standing
        self.phase = Phase.IDLE
        self.weight_bytes = 0

    def infer(self, x: Floats) -> Floats:
        """Nothing answers."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise Replacing(
            "infer: found no network in memory, since one plan takes another's place and there is no room for two; "
            "call again in a few seconds"
        )

    def switch(self, mode: str) -> Operation:
        """Nothing walks."""
        raise Busy(f"switch to {mode}: found a push under way, expected none; wait for its end")

    def fail(self) -> None:
        """No network can be loaded any more: the device is to be started again."""
        self.phase = Phase.FAILED

    def tidy(self) -> None:
        """Nothing to keep, and nothing to remove: what is on the disk may be needed."""

    def retire(self) -> None:
        """Nothing to let go."""

    def close(self) -> None:
        """Let the state directory go."""
        if self.home is not None:
            self.home.close()


def _emptied(bundle: Bundle) -> Bundle:
    """A bundle's manifest without its weights."""
    none = Samples(bundle.canary.inputs[:0].copy(), bundle.canary.labels[:0].copy())
    return dataclasses.replace(
        bundle,
        graph=b"", compact={}, tensors={}, table=RowTable((), {}, {}), states={}, transitions=(), canary=none,
        evaluation=none, files={MANIFEST: bundle.files[MANIFEST]},
    )  # fmt: skip
