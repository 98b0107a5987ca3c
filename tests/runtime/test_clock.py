"""The clock that leases end by: it runs on while the machine sleeps."""

import sys
import time

import pytest

from runtime.device.clock import since_boot_s, since_now
from runtime.device.device import Device
from runtime.plan import bundle as bundles
from runtime.sensing.power import WattMeter
from runtime.walking.net import Net
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.devices import settled
from tests.runtime.nets import PACE


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("bundle") / "plan"))


@pytest.fixture
def sleep(monkeypatch):
    """Makes the machine sleep, as far as its clocks tell."""
    slept, read = [0.0], time.clock_gettime
    monkeypatch.setattr(
        time, "clock_gettime", lambda which: read(which) + (slept[0] if which == time.CLOCK_BOOTTIME else 0.0)
    )

    def go(seconds):
        slept[0] += seconds

    return go


@pytest.mark.skipif(sys.platform != "linux", reason="a clock of Linux")
def test_it_is_the_one_that_counts_sleep():
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= since_boot_s() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_where_there_is_none_it_is_the_monotonic_one(monkeypatch):
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    before = time.monotonic()
    assert before <= since_boot_s() <= time.monotonic()


def test_a_clock_is_counted_from_a_moment_on():
    times = iter([5.0, 5.0, 7.5])
    clock = since_now(lambda: next(times))
    assert (clock(), clock()) == (0.0, 2.5)


@pytest.mark.skipif(sys.platform != "linux", reason="a clock of Linux")
def test_a_lease_and_a_hold_end_while_the_machine_sleeps_and_energy_is_not_counted(bundle, sleep):
    meter = WattMeter(lambda: 4.0, "a test")
    with Device(Net(bundle, profile(**PACE)), id="test", meter=meter, watches=False) as device:
        device.poll()
        device.wait(device.switch("C2", who="ann", lease_s=3600).id, 60)
        device.hold("C2", who="a program", reason="", ttl_s=3600)
        sleep(8 * 3600)
        device.poll()
        status = settled(device)
        assert (status.decision.rank, device.holds()) == ("default", ())
        assert status.uptime_s > 8 * 3600
        assert 0.0 < status.power.energy_j < 4.0 * 3600
