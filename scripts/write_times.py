"""The table of docs/profiles.md that says how long writing takes on each device, made from the built-in profiles."""

from __future__ import annotations

from dataclasses import dataclass

from device_profiles import Profile, builtin_names, load
from runtime.plan.fit import stored_bytes


@dataclass(frozen=True)
class Network:
    """What of a network is written on its tour.

    Attributes:
        name: For the table.
        weights: Numbers in the dense network.
        moved: Numbers in the layers whose rows move, all of them written.
    """

    name: str
    weights: int
    moved: int


# On its tour the demo writes all four layers. VGG-11 from C1 to C2 writes the first convolution, 64 rows of 28, and its
# reader, 128 rows of 577, which are 0.3 MB as float32.
NETWORKS = (Network("demo", 13_706, 13_706), Network("VGG-11, C1 → C2", 28_144_010, 64 * 28 + 128 * 577))


def table() -> str:
    """Markdown: a row for each device, and for each network what is written, how long, and what the answer is."""
    heads = [f"{network.name}: written | in | so" for network in NETWORKS]
    lines = [
        f"| device | bytes a second, and by whom | {' | '.join(heads)} |",
        "|---|---|" + "---|---|---|" * len(NETWORKS),
    ]
    for name in builtin_names():
        profile = load(name)
        cells = [cell for network in NETWORKS for cell in row(profile, network)]
        lines.append(f"| `{name}` | {_rate(profile)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def row(profile: Profile, network: Network) -> tuple[str, str, str]:
    """Bytes that move, seconds that the memory takes for them, and what to do about it."""
    size, moved = (stored_bytes(count, profile.weights) for count in (network.weights, network.moved))
    limit = profile.memory.weights_bytes
    rate = effective_rate(profile)
    seconds = None if rate is None else moved / rate
    time = "not known" if seconds is None else _seconds(seconds)
    if size > limit:
        said = profile.origins.get("memory.weights_bytes")
        guess = said is not None and said.provenance == "assumed"
        return _size(moved), time, "does not fit" + (", by the memory that is assumed" if guess else "")
    if profile.memory.second_copy and size + moved <= limit and not profile.writes.quiesce_required:
        return _size(moved), time, "flip"
    if seconds is None:
        return _size(moved), time, "depends on a rate that is not public"
    return _size(moved), time, "one pause" if seconds <= profile.writes.stall_budget_ms / 1e3 else "**a walk**"


def effective_rate(profile: Profile) -> float | None:
    """Bytes a second that end up right: writing with verification writes each several times."""
    writes = profile.writes
    if writes.bytes_per_second is None:
        return None
    return writes.bytes_per_second.value / (1.0 if writes.verify is None else writes.verify.mean_writes.value)


def _rate(profile: Profile) -> str:
    rate, figure, verify = effective_rate(profile), profile.writes.bytes_per_second, profile.writes.verify
    if rate is None or figure is None:
        return "not known"
    words = f"{_size(rate)}/s, {figure.provenance}"
    return (
        words
        if verify is None
        else f"{words}; {verify.mean_writes.value:g} writes each, {verify.mean_writes.provenance}"
    )


def _size(count: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f} B"


def _seconds(seconds: float) -> str:
    for limit, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= limit:
            return f"{float(f'{seconds / limit:.2g}'):g} {unit}"
    return f"{seconds * 1e9:.0f} ns"
