"""A device's status as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from runtime.cli.terminal import plain
from runtime.device.views import ModeView, Status


def status_lines(found: Status) -> Iterator[str]:
    """What it does, why, and what it draws; a line each."""
    decision = found.decision
    walk = "" if found.target is None else f", on the way to [bold]{plain(found.target)}[/] ({found.progress:.0%})"
    yield f"mode [bold]{plain(found.mode)}[/], {found.phase}{walk}"
    until = "" if decision.expires_in_s is None else f", for another {decision.expires_in_s:.0f} s"
    yield f"decided by {decision.rank}: {plain(decision.source)} ({plain(decision.reason)}){until}"
    power = found.power
    if power.power_w is not None:
        yield f"power {power.power_w:.2f} W ({_basis(power.provenance, 'power_w')})"
    if found.endurance_left is not None:
        basis = _basis(found.provenance, "endurance_left")
        yield f"endurance {found.endurance_left:.4%} of the most written row's writes are left ({basis})"
    for hold in found.holds:
        yield f"hold {plain(hold.id)} on {plain(hold.mode)} by {plain(hold.who)}: {plain(hold.reason)}"
    for trigger in found.triggers:
        state = plain(trigger.error) or ("active" if trigger.active else "inactive")
        yield f"trigger {plain(trigger.name)} → {plain(trigger.mode)}: {state}, reads {plain(str(trigger.reading))}"
    pushed = "" if found.push is None else f"; {found.push[:16]} is being pushed"
    yield f"plan {found.bundle[:16]}, release {found.release}{pushed}"
    counters = found.counters
    yield (
        f"up {found.uptime_s:,.0f} s: {counters.answers:,} answers, {counters.refused:,} refused, "
        f"{counters.transitions:,} transitions, {counters.bytes_written:,} bytes written"
    )


def modes_table(found: Status, modes: tuple[ModeView, ...]) -> Table:
    """The modes and what each is known to cost."""
    table = Table("", "mode", "accuracy", "MACs", "power", "energy", "latency", box=None)
    for mode in modes:
        table.add_row(
            "→" if mode.name == found.target else "●" if mode.name == found.mode else "",
            plain(mode.name),
            f"{mode.accuracy:.2%}",
            f"{mode.macs:,}",
            _figure(mode, "power_w", mode.power_w, "W"),
            _figure(mode, "energy_j_per_inference", mode.energy_j_per_inference, "J"),
            _figure(mode, "latency_ms", mode.latency_ms, "ms"),
        )
    return table


def _figure(mode: ModeView, field: str, value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.3g} {unit} ({_basis(mode.provenance, field)})"


def _basis(provenance: object, field: str) -> str:
    origin = provenance.get(field) if isinstance(provenance, dict) else None
    return origin.words if origin is not None else "unknown"
