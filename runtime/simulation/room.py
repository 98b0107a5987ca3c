"""What memory a strategy takes on a device, and whether it is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from device_profiles import Profile
from runtime.plan.bundle import Bundle
from runtime.plan.fit import Policy, needed_bytes


@dataclass(frozen=True)
class Room:
    """Whether a strategy fits.

    Attributes:
        peak_bytes: Most memory that weights take at once, the stored plan not counted.
        gap: Whether nobody can be answered while it replaces the network.
        why_not: Why it cannot be played; empty if it can.
    """

    peak_bytes: int
    gap: bool = False
    why_not: str = ""


def room_for(name: str, bundle: Bundle, profile: Profile, *, second_copy: bool, policy: Policy = "in-place") -> Room:
    """Memory of a strategy under a profile.

    Args:
        name: The strategy.
        bundle: The plan.
        profile: The device.
        second_copy: Whether a second copy of weights can be held at all.
        policy: How weights are held that are walked.
    """
    limit = profile.memory.weights_bytes
    snap = 2 * max(mode.weight_bytes for mode in bundle.manifest.modes) if profile.bank.snap else 0
    constants = sum(tensor.nbytes for tensor in bundle.constants.values())
    moved = sum(layer.row_bytes * layer.units for layer in bundle.table.layers)
    if name == "reload":
        own = [mode.weight_bytes for mode in bundle.manifest.modes]
        both = max((one + other for one in own for other in own), default=0) if len(own) == 1 else sum(sorted(own)[-2:])
        if second_copy and both <= limit:
            return Room(both)
        if max(own) > limit:
            return Room(max(own), True, f"memory.weights_bytes is {limit}; the largest mode takes {max(own)}")
        return Room(max(own), gap=True)
    copies = 2 if name == "flip" or policy == "shadow" else 1
    need = needed_bytes(bundle, profile, copies)
    if name == "flip":
        copy = max((_changed_bytes(bundle, *move.ends) for move in bundle.transitions), default=0)
        peak = constants + moved + copy + snap
        if not second_copy:
            return Room(peak, why_not="this device holds no second copy of weights")
    else:
        peak = constants + copies * moved + snap
        if copies > 1 and not second_copy:
            return Room(peak, why_not="policy shadow needs a second copy of weights, which this device does not hold")
    if need > limit:
        stored = " with the stored plan" if profile.target.runs == "live" else ""
        return Room(peak, why_not=f"memory.weights_bytes is {limit}; it takes {need}{stored}")
    return Room(peak)


def _changed_bytes(bundle: Bundle, begin: str, end: str) -> int:
    """Bytes of the tensors in which two modes differ."""
    start, stop = bundle.states[begin], bundle.states[end]
    return sum(
        layer.row_bytes * layer.units
        for layer in bundle.table.layers
        if not np.array_equal(start[layer.name], stop[layer.name])
    )
