"""What a walk costs on a device: predicted from its profile, and the rules by which the runtime then writes.

One place says how rows become bytes, bytes increments, and increments seconds. The planner chooses by it, a plan
stores it, and the controller keeps to it, so that what was predicted is what is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal

import numpy as np

from device_profiles import Profile
from device_profiles.figure import Figure, Origin
from device_profiles.schema import Writes
from runtime.errors import BundleError
from runtime.plan.manifest import CostEntry, RetryEntry, TransitionEntry
from runtime.walking.bank import Retries, increments
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import MovedLayer, RowTable

TradeOff = Literal["bytes", "seconds", "energy", "wear", "accuracy"]

FILL: Final = 0.9
"""Of the stall budget, what writing may take in a declared pause. The rest is for the timer that ends it: a sleep of a
millisecond overruns by some 60 µs on Linux."""

_SIZES = ("writes.granularity_bytes", "weights.bits")
_PAUSES = ("writes.stall_budget_ms", "writes.bytes_per_second")
_STEPS = (*_SIZES, "writes.bytes_per_increment")
_PACE = (*_STEPS, "writes.bytes_per_second", "writes.increments_per_second")
_VERIFY = "writes.verify.mean_writes"
_JOULES = "energy.joules_per_byte_written"
_WEAR = ("writes.endurance_writes", _VERIFY)
USES: Final[Mapping[str, tuple[str, ...]]] = {
    "bytes": _SIZES,
    "increments": _STEPS,
    "seconds": _PACE,
    "joules": (*_SIZES, _JOULES),
    "wear": _WEAR,
    "transitions_left": _WEAR,
    "retries": (*_PACE, _JOULES, _VERIFY),
    "power_w": ("energy.idle_w", "energy.joules_per_mac", "energy.inferences_per_second"),
    "latency_ms": ("target.macs_per_second", "target.overhead_ms"),
}
"""What is predicted, and the fields of a profile that it rests on."""
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "joules": (_JOULES,),
    "wear": _WEAR[:1],
    "transitions_left": _WEAR[:1],
    "retries": (_VERIFY,),
    "power_w": ("energy.idle_w", "energy.joules_per_mac"),
    "latency_ms": ("target.macs_per_second",),
}
"""Those of them without which there is no such prediction."""


def predict(table: RowTable, chunks: ChunkList, profile: Profile) -> CostEntry:
    """What walking a list costs; a figure that the profile lacks gives None.

    Args:
        table: Row versions; a row's bytes are those of the device.
        chunks: What is written.
        profile: The device.
    """
    writes, energy = profile.writes, profile.energy
    sizes = [size for _, _, size in split(chunks, table, writes, lambda: budget_bytes(writes))]
    written, most = sum(sizes), most_cell_writes(chunks)
    seconds = walk_seconds(sizes, writes)
    per_byte = None if energy is None or energy.joules_per_byte_written is None else energy.joules_per_byte_written
    joules = None if per_byte is None else per_byte.value * written
    mean = mean_writes(writes)
    endurance = None if writes.endurance_writes is None else writes.endurance_writes.value
    retries = None
    if writes.verify is not None:
        retries = RetryEntry(
            rows=(mean - 1) * len(chunks),
            bytes=(mean - 1) * written,
            seconds=walk_seconds([mean * size for size in sizes], writes) - seconds,
            joules=None if joules is None else (mean - 1) * joules,
        )
    known = endurance is not None and endurance > 0
    return CostEntry(
        bytes=written,
        increments=len(sizes),
        seconds=seconds,
        joules=joules,
        cell_writes=most,
        wear=2 * most * mean / endurance if endurance and known else None,
        transitions_left=int(endurance / (most * mean)) if endurance and known and most else None,
        retries=retries,
        assumed=tuple(
            name
            for name, used in provenance(profile).items()
            if name in CostEntry.__struct_fields__ and any(one.provenance == "assumed" for one in used.values())
        ),
    )


def split(
    chunks: ChunkList, table: RowTable, writes: Writes, budget: Callable[[], int], begin: int = 0
) -> Iterator[tuple[int, int, int]]:
    """The increments of a walk on a device: first chunk, the one after the last, and bytes, rounded, of each."""
    return increments(chunks, table, budget, begin, granularity=writes.granularity_bytes)


def budget_bytes(writes: Writes) -> int:
    """Bytes of one increment at most.

    Where the device must pause to be written, no more than the pause surely has room for: as often as a row may be
    written, where writes are checked.
    """
    return min(writes.bytes_per_increment, pause_bytes(writes))


def pause_bytes(writes: Writes) -> int:
    """Bytes that a declared pause has room for; without limit where none is needed, or the memory has none."""
    if not writes.quiesce_required or writes.bytes_per_second is None:
        return writes.bytes_per_increment
    most = 1 if writes.verify is None else writes.verify.most_writes
    return int(FILL * writes.stall_budget_ms / 1e3 * writes.bytes_per_second.value / most)


def write_seconds(size: float, writes: Writes) -> float:
    """Seconds that the memory is busy with so many bytes; 0 where the profile knows no limit."""
    return 0.0 if writes.bytes_per_second is None or not size else size / writes.bytes_per_second.value


def interval_s(writes: Writes) -> float:
    """Seconds from one increment to the next, at the least."""
    return 1.0 / writes.increments_per_second


def rounded(size: int, writes: Writes) -> int:
    """Bytes that the memory takes for so many in one piece: whole multiples of its smallest write."""
    return -(-size // writes.granularity_bytes) * writes.granularity_bytes


def retried_bytes(retries: Retries, table: RowTable, writes: Writes) -> int:
    """Bytes of rows that were written again, each rounded up to the device's smallest write."""
    return sum(len(rows) * rounded(table.layer(name).row_bytes, writes) for name, rows in retries)


def walk_seconds(sizes: Sequence[float], writes: Writes) -> float:
    """Seconds from the first write to the end of the last, if nothing holds the walk up.

    Args:
        sizes: Bytes of each increment.
        writes: Pace of the device. An increment begins an interval after the one before, or when the memory has taken
            that; after a declared pause the device answers for a whole interval.
    """
    if not sizes:
        return 0.0
    interval, busy = interval_s(writes), [write_seconds(size, writes) for size in sizes]
    if writes.quiesce_required:
        return math.fsum(busy) + (len(sizes) - 1) * interval
    return math.fsum(max(interval, one) for one in busy[:-1]) + busy[-1]


def mean_writes(writes: Writes) -> float:
    """Writes that a row takes on average."""
    return 1.0 if writes.verify is None else max(1.0, writes.verify.mean_writes.value)


def most_cell_writes(chunks: ChunkList) -> int:
    """Writes of the row that a list writes most."""
    if not len(chunks):
        return 0
    keys = (chunks.layer.astype(np.int64) << 32) + chunks.row
    return int(np.unique(keys, return_counts=True)[1].max())


def endurance_left(profile: Profile, cell_writes: int) -> float | None:
    """Share of a row's endurance that is left after so many writes; None where the profile knows no endurance."""
    endurance = profile.writes.endurance_writes
    if endurance is None or endurance.value <= 0:
        return None
    return max(0.0, 1.0 - cell_writes / endurance.value)


def price(cost: CostEntry, trade_off: TradeOff) -> float:
    """The cost that a trade-off names, retries included; for ``accuracy``, which is none, bytes.

    Raises:
        ValueError: It is not known; ``missing`` tells that beforehand.
    """
    again = cost.retries
    known: dict[TradeOff, float | None] = {
        "bytes": cost.bytes,
        "accuracy": cost.bytes,
        "seconds": cost.seconds + (0.0 if again is None else again.seconds),
        "energy": None if cost.joules is None else cost.joules + (again.joules or 0.0 if again is not None else 0.0),
        "wear": cost.wear,
    }
    found = known[trade_off]
    if found is None:
        raise ValueError(f"{trade_off}: not known of this path")
    return found


def rests_on_assumed(cost: CostEntry, trade_off: TradeOff) -> bool:
    """Whether an assumed figure is in the cost that a trade-off names; see ``price``."""
    field = {"energy": "joules", "accuracy": "bytes"}.get(trade_off, trade_off)
    return field in cost.assumed


def missing(profile: Profile) -> str:
    """The field without which the profile's trade-off has no figures; empty where nothing is missing."""
    if profile.trade_off == "energy" and (profile.energy is None or profile.energy.joules_per_byte_written is None):
        return _JOULES
    if profile.trade_off == "wear" and profile.writes.endurance_writes is None:
        return "writes.endurance_writes"
    return ""


def check_writes(layers: Sequence[MovedLayer], profile: Profile, origin: str) -> None:
    """Check that the device can write every row: within an increment, and within a pause where it needs one.

    Args:
        layers: All that move.
        profile: The device.
        origin: What to call the plan in errors.

    Raises:
        BundleError: One row is too large, or the memory takes nothing; the text names limit, need and remedy.
    """
    writes = profile.writes
    if writes.bytes_per_second is not None and writes.bytes_per_second.value <= 0:
        raise BundleError(f"{origin}: writes.bytes_per_second: found 0, expected more; correct the profile")
    if not layers:
        return
    largest = max(layers, key=lambda layer: layer.row_bytes)
    need = rounded(largest.row_bytes, writes)
    what = f"one row of {largest.name}, which is never written in parts"
    if need > writes.bytes_per_increment:
        raise BundleError(
            f"{origin}: writes.bytes_per_increment: found {writes.bytes_per_increment}, expected at least {need}, "
            f"{what}, in whole multiples of writes.granularity_bytes ({writes.granularity_bytes}); raise the budget"
        )
    if writes.bytes_per_second is not None and need > pause_bytes(writes):
        most = 1 if writes.verify is None else writes.verify.most_writes
        need_ms = 1e3 * need * most / writes.bytes_per_second.value / FILL
        raise BundleError(
            f"{origin}: writes.stall_budget_ms: found {writes.stall_budget_ms:g}, expected at least {need_ms:.4g} for "
            f"a pause in which {what}, is written: {need} bytes{f', up to {most} times,' if most > 1 else ''} at "
            f"writes.bytes_per_second {writes.bytes_per_second.value:g}; raise it, or move layers of smaller rows"
        )


def check_stored(entry: TransitionEntry, table: RowTable, chunks: ChunkList, profile: Profile, origin: str) -> None:
    """Check that a stored prediction speaks of the bytes that the runtime would write.

    Raises:
        BundleError: It does not; the text names the transition.
    """
    written = int(chunks.chunk_bytes(table, profile.writes.granularity_bytes).sum())
    for field, cost in (("cost", entry.cost), ("cost_back", entry.cost_back)):
        if cost is not None and cost.bytes != written:
            raise BundleError(
                f"{origin}: transition {entry.from_} → {entry.to}: {field}.bytes: found {cost.bytes}, expected "
                f"{written}, which its chunks have on the plan's device; plan again"
            )


def wanted_policy(profile: Profile, policy: str | None, origin: str) -> str | None:
    """The bank policy to ask for: in place where a device must pause to be written, since it has nothing to flip to.

    Args:
        profile: The device.
        policy: The policy that was asked for, None for the profile's.
        origin: What to call the plan in errors.

    Raises:
        BundleError: ``shadow`` was asked for there.
    """
    wanted = policy or profile.bank.policy
    if not profile.writes.quiesce_required:
        return policy
    if wanted == "shadow":
        raise BundleError(
            f"{origin}: bank.policy: found 'shadow' with writes.quiesce_required, expected in-place: answers would go "
            "on while a second copy is written, which this device cannot do; use policy in-place"
        )
    return "in-place" if wanted == "auto" else policy


def power_w(macs: int, profile: Profile) -> float | None:
    """Watts of the device in a mode of so many multiply-accumulates, at energy.inferences_per_second."""
    energy = profile.energy
    if energy is None or energy.idle_w is None or energy.joules_per_mac is None or energy.inferences_per_second is None:
        return None
    return energy.idle_w.value + energy.joules_per_mac.value * energy.inferences_per_second * macs


def latency_ms(macs: int, profile: Profile) -> float | None:
    """Milliseconds of one inference of so many multiply-accumulates, by target.macs_per_second."""
    rate, overhead = profile.target.macs_per_second, profile.target.overhead_ms
    if rate is None or rate.value <= 0:
        return None
    return (0.0 if overhead is None else overhead.value) + 1e3 * macs / rate.value


def provenance(profile: Profile) -> dict[str, dict[str, Origin]]:
    """Where the numbers come from that each prediction rests on, by prediction and by field of the profile.

    Plain numbers, which are choices, are there if the profile says where they come from.
    """
    found: dict[str, dict[str, Origin]] = {}
    for name, paths in USES.items():
        if profile.writes.quiesce_required and paths[: len(_STEPS)] == _STEPS:
            paths = (*paths, *_PAUSES)  # the pauses limit the increments then
        origins = {path: one for path in paths if (one := _origin(profile, path)) is not None}
        if origins and all(need in origins for need in _NEEDS.get(name, ())):
            found[name] = origins
    return found


def _origin(profile: Profile, path: str) -> Origin | None:
    value: object = profile
    for part in path.split("."):
        value = getattr(value, part, None)
    if isinstance(value, Figure):
        return Origin(provenance=value.provenance, source=value.source)
    return None if value is None else profile.origins.get(path)
