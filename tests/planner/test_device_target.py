"""Watts and milliseconds as targets of a mode, on a small network and a made-up device."""

import msgspec
import pytest
import torch

from device_profiles.energy import Energy
from device_profiles.figure import Figure
from device_profiles.hardware import Target
from device_profiles.schema import Mode
from planner.allocation import AllocationError, compact_macs
from planner.device_target import TargetError
from planner.modes import resolve
from planner.network import trace
from runtime.plan import costs
from tests.planner.test_modes import Net, profile

LEAST = 0.2
"""The smallest share that the stand-in for an allocation can leave."""


@pytest.fixture(scope="module")
def network():
    return trace(Net(), torch.zeros(1, 1, 1, 1))


def figure(value):
    return Figure(value=value, provenance="assumed", source="a test")


ENERGY = Energy(idle_w=figure(2.0), joules_per_mac=figure(1e-3), inferences_per_second=1.0)
TARGET = Target(macs_per_second=figure(1e6), overhead_ms=figure(0.25))


def device(energy=ENERGY, target=TARGET, **modes):
    """The profile is made of types, since rules that join its parts are another test's."""
    plain = profile(C2={"from": "C1", "macs": 0.5})
    return msgspec.structs.replace(
        plain,
        energy=energy,
        target=target,
        modes={"C1": Mode(), **modes},
        transitions=tuple(("C1", one) for one in modes),
    )


class Allocation:
    """Removes units of conv2, one after the other, until a share is left; remembers what it was asked for."""

    def __init__(self, network):
        self.network = network
        self.asked = []

    def __call__(self, share, gone):
        self.asked.append(share)
        if share < LEAST:
            raise AllocationError("too few", least=LEAST)
        dense = compact_macs(self.network, {})
        removed = dict(gone)
        while compact_macs(self.network, removed) > share * dense:
            removed["conv2"] = removed.get("conv2", 0) + 1
        return removed


def test_a_target_becomes_the_share_that_the_models_say(network):
    dense = compact_macs(network, {})
    for mode, share in (
        (Mode(from_="C1", watts=2 + 0.6e-3 * dense), 0.6),
        (Mode(from_="C1", latency_ms=0.25 + 0.7e-3 * dense), 0.7),
        (Mode(from_="C1", watts=2 + 0.6e-3 * dense, latency_ms=0.25 + 0.5e-3 * dense, macs=0.8), 0.5),
        (Mode(from_="C1", macs=0.4, watts=2 + 0.6e-3 * dense), 0.4),
    ):
        allocation, asked = Allocation(network), device(low=mode)
        removed = resolve(asked, network, allocation)["low"].removed
        assert allocation.asked == [pytest.approx(share)]
        left = compact_macs(network, removed)
        assert mode.watts is None or costs.power_w(left, asked) <= mode.watts
        assert mode.latency_ms is None or costs.latency_ms(left, asked) <= mode.latency_ms


def test_what_cannot_be_had_is_refused_with_the_nearest_that_can(network):
    dense = compact_macs(network, {})
    with pytest.raises(TargetError, match=r"mode 'low': watts: found 1\.5, expected more than 2 \(energy\.idle_w\)"):
        resolve(device(low=Mode(from_="C1", watts=1.5)), network, Allocation(network))
    with pytest.raises(TargetError, match=r"latency_ms: found 0\.25, expected more than 0\.25 \(target\.overhead_ms\)"):
        resolve(device(low=Mode(from_="C1", latency_ms=0.25)), network, Allocation(network))
    for field, base in (("watts", 2.0), ("latency_ms", 0.25)):
        few, least = base + 1e-3 * LEAST / 2 * dense, base + 1e-3 * LEAST * dense
        with pytest.raises(TargetError, match=rf"low': {field}: found .*, expected at least ") as error:
            resolve(device(low=Mode(from_="C1", **{field: few})), network, Allocation(network))
        nearest = float(str(error.value).split("expected at least ")[1].split(",")[0])
        assert least <= nearest <= 1.002 * least
        # What it names can be asked for.
        resolve(device(low=Mode(from_="C1", **{field: nearest})), network, Allocation(network))


def test_a_target_that_asks_for_nothing_is_refused(network):
    dense = compact_macs(network, {})
    with pytest.raises(TargetError, match=r"watts: found 100, expected less than .* without a unit removed for it"):
        resolve(device(low=Mode(from_="C1", watts=100.0)), network, Allocation(network))
    modes = {"low": Mode(from_="C1", macs=0.5), "same": Mode(from_="low", watts=2 + 0.9e-3 * dense)}
    with pytest.raises(TargetError, match="mode 'same': watts"):
        resolve(device(**modes), network, Allocation(network))


@pytest.mark.parametrize(
    ("mode", "energy", "target", "field"),
    [
        (Mode(from_="C1", watts=3.0), None, TARGET, "energy.idle_w"),
        (Mode(from_="C1", watts=3.0), Energy(idle_w=figure(1.0)), TARGET, "energy.joules_per_mac"),
        (Mode(from_="C1", watts=3.0), msgspec.structs.replace(ENERGY, inferences_per_second=None), TARGET,
         "energy.inferences_per_second"),
        (Mode(from_="C1", watts=3.0), msgspec.structs.replace(ENERGY, joules_per_mac=figure(0.0)), TARGET,
         "energy.joules_per_mac"),
        (Mode(from_="C1", latency_ms=3.0), ENERGY, Target(), "target.macs_per_second"),
    ],
)  # fmt: skip
def test_a_figure_that_is_missing_is_named(network, mode, energy, target, field):
    with pytest.raises(TargetError, match=rf"{field}: found (none|0), expected a figure.*add it"):
        resolve(device(energy=energy, target=target, low=mode), network, Allocation(network))
