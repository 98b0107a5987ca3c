"""What a mode may take on a device, turned into multiply-accumulates that may be left.

A mode says so as a share of the dense network's, as watts at a stated load, or as milliseconds. The last two are linear
in multiply-accumulates by the profile's model: watts = idle_w + joules_per_mac x inferences_per_second x macs, and
milliseconds = overhead_ms + 1000 x macs / macs_per_second. ``runtime.plan.costs`` says by the same model what came of
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from device_profiles.energy import Energy
from device_profiles.errors import GeoshiftError
from device_profiles.figure import Figure
from device_profiles.schema import Mode, Profile
from planner.allocation import AllocationError, compact_macs
from planner.network import Network

Allocate = Callable[[float, Mapping[str, int]], Mapping[str, int]]
"""From a share of multiply-accumulates that may be left, and how many units are gone, to how many units are to be gone,
both by layer name; see ``planner.allocation.allocate``."""


class TargetError(GeoshiftError):
    """A mode's target cannot be had on the device. Ask for what the text names, or use another device."""


def has_target(mode: Mode) -> bool:
    """Whether a mode says what it may take, and not only which units it lacks."""
    return not (mode.macs is None and mode.watts is None and mode.latency_ms is None)


def towards(
    profile: Profile,
    network: Network,
    name: str,
    mode: Mode,
    gone: Mapping[str, int],
    allocate: Allocate,
) -> Mapping[str, int]:
    """How many units of each layer are to be gone, so that all targets of a mode are met.

    Args:
        profile: The device.
        network: The network.
        name: Name of the mode.
        mode: What it asks for.
        gone: Units that are removed already, by layer.
        allocate: Divides a share of multiply-accumulates among the layers.

    Raises:
        TargetError: A target cannot be had, asks for nothing, or a figure of the device is missing.
        AllocationError: As few multiply-accumulates cannot be had.
    """
    where = f"profile {profile.name!r}, mode {name!r}"
    found: list[tuple[float, _Scale | None]] = [] if mode.macs is None else [(mode.macs, None)]
    dense, now = compact_macs(network, {}), compact_macs(network, gone)
    for target, scale in ((mode.watts, _watts), (mode.latency_ms, _latency)):
        if target is not None:
            measure = scale(profile, where)
            found.append((_share_of(measure, target, dense, now, where), measure))
    share, strictest = min(found, key=lambda one: one[0])
    try:
        return allocate(share, gone)
    except AllocationError as error:
        if strictest is None or error.least is None:
            raise
        raise TargetError(
            f"{where}: {strictest.field}: found {strictest.of(share * dense):.4g}, expected at least "
            f"{strictest.nearest(error.least * dense)}, which {error.least:.4g} of the dense network's "
            "multiply-accumulates take, the fewest that can be left: ask for that, or use another device"
        ) from error


@dataclass(frozen=True)
class _Scale:
    """What multiply-accumulates come to on a device: a part that they do not change, and so much each.

    Attributes:
        field: Field of the mode that the target stands in.
        base: The fixed part.
        each: What one multiply-accumulate adds.
        why: What the fixed part is.
    """

    field: str
    base: float
    each: float
    why: str

    def of(self, macs: float) -> float:
        """What so many multiply-accumulates come to."""
        return self.base + self.each * macs

    def nearest(self, macs: float) -> str:
        """The same in words, rounded up, so that asking for it succeeds."""
        exact = Decimal(repr(self.of(macs)))
        return f"{exact.quantize(Decimal(1).scaleb(exact.adjusted() - 3), rounding=ROUND_CEILING).normalize():f}"


def _watts(profile: Profile, where: str) -> _Scale:
    energy = profile.energy or Energy()
    idle_w = _needed(energy.idle_w, "energy.idle_w", f"{where}: watts")
    per_mac = _needed(energy.joules_per_mac, "energy.joules_per_mac", f"{where}: watts")
    rate = _needed(energy.inferences_per_second, "energy.inferences_per_second", f"{where}: watts")
    return _Scale("watts", idle_w, per_mac * rate, "energy.idle_w")


def _latency(profile: Profile, where: str) -> _Scale:
    rate = _needed(profile.target.macs_per_second, "target.macs_per_second", f"{where}: latency_ms")
    overhead = profile.target.overhead_ms
    return _Scale("latency_ms", 0.0 if overhead is None else overhead.value, 1e3 / rate, "target.overhead_ms")


def _needed(figure: Figure | float | None, path: str, what: str) -> float:
    """A figure by which a target is turned into multiply-accumulates."""
    value = figure.value if isinstance(figure, Figure) else figure
    if value is None or (value <= 0 and path != "energy.idle_w"):
        found = "none" if value is None else f"{value:g}"
        raise TargetError(
            f"{what}: {path}: found {found}, expected a figure, by which the target is turned into "
            "multiply-accumulates: add it to the profile, with where it comes from, or give macs instead"
        )
    return value


def _share_of(scale: _Scale, target: float, dense: int, now: int, where: str) -> float:
    """A target as a share of the dense network's multiply-accumulates."""
    if target <= scale.base:
        raise TargetError(
            f"{where}: {scale.field}: found {target:g}, expected more than {scale.base:g} ({scale.why}), which no "
            "removal of units saves: ask for more, or use another device"
        )
    if target >= scale.of(now):
        raise TargetError(
            f"{where}: {scale.field}: found {target:g}, expected less than {scale.of(now):.4g}, which this mode takes "
            "without a unit removed for it: ask for less, or drop the target"
        )
    return (target - scale.base) / scale.each / dense
