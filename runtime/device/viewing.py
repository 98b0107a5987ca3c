"""Turns what a device keeps into what it says of itself."""

from __future__ import annotations

from device_profiles import Profile
from runtime.deciding.arbiter import Decision
from runtime.deciding.holds import Hold
from runtime.device.views import DecisionView, HoldView, ModeView, PowerView, Provenance
from runtime.plan.manifest import ModeEntry
from runtime.sensing.energy import EnergyAccount, Known, provenances


def decision_view(decision: Decision, now_s: float) -> DecisionView:
    """A decision as callers see it."""
    left_s = None if decision.until_s is None else max(0.0, decision.until_s - now_s)
    return DecisionView(
        mode=decision.mode,
        rank=decision.rank,
        source=decision.source,
        reason=decision.reason,
        expires_in_s=left_s,
    )


def hold_view(hold: Hold, now_s: float) -> HoldView:
    """A hold as callers see it."""
    left_s = None if hold.until_s is None else max(0.0, hold.until_s - now_s)
    return HoldView(
        id=hold.id, mode=hold.mode, who=hold.who, reason=hold.reason, created_s=hold.created_s, expires_in_s=left_s
    )


def mode_view(entry: ModeEntry, account: EnergyAccount) -> ModeView:
    """A mode as callers see it: evidence of the plan, and what was measured or estimated on this device."""
    power, energy = account.power_w(entry.name), account.energy_j_per_inference(entry.name)
    latency = account.latency_ms(entry.name)
    plan = Provenance(basis="plan", source="the bundle's manifest; accuracy is on the held-out test set")
    return ModeView(
        name=entry.name,
        description=entry.description,
        accuracy=entry.accuracy,
        macs=entry.macs,
        weight_bytes=entry.weight_bytes,
        power_w=_value(power),
        energy_j_per_inference=_value(energy),
        latency_ms=_value(latency),
        provenance={
            **dict.fromkeys(("accuracy", "macs", "weight_bytes"), plan),
            **provenances((("power_w", power), ("energy_j_per_inference", energy), ("latency_ms", latency))),
        },
    )


def power_view(mode: str, account: EnergyAccount, total: Known | None) -> PowerView:
    """Power of the device as callers see it.

    Args:
        mode: Mode it stands at.
        account: What is known of its energy.
        total: Joules since it was opened.
    """
    power, energy = account.present_w(mode), account.energy_j_per_inference(mode)
    return PowerView(
        power_w=_value(power),
        energy_j_per_inference=_value(energy),
        energy_j=_value(total),
        provenance=provenances((("power_w", power), ("energy_j_per_inference", energy), ("energy_j", total))),
    )


def endurance_origin(profile: Profile) -> dict[str, Provenance]:
    """Where the status has ``endurance_left`` from, by its name; nothing where the profile knows no endurance."""
    endurance = profile.writes.endurance_writes
    if endurance is None:
        return {}
    said = f"writes that were counted, of writes.endurance_writes ({endurance.provenance}: {endurance.source})"
    origin = Provenance(basis="estimated", source=said, assumed=endurance.provenance == "assumed")
    return {"endurance_left": origin}


def _value(known: Known | None) -> float | None:
    return None if known is None else known.value
