"""Meters on trees of sysfs, and energy accounts: measured where there is a meter, estimated where there is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import Energy, Figure
from runtime.sensing.energy import EnergyAccount, by_power
from runtime.sensing.power import RaplMeter, WattMeter, Zone, find_meter
from tests.runtime.sysfs_trees import TREES, put, tree

MACS = {"C1": 1000, "C2": 600}


def figure(value, provenance="assumed"):
    return Figure(value=value, provenance=provenance, source="a test")


def test_a_jetson_is_measured_at_its_input():
    meter = find_meter(TREES / "jetson")
    assert meter.sample(0.0).power_w == pytest.approx(4.944 * 1.032)
    assert "VDD_IN" in meter.source


def test_without_an_input_channel_the_rails_are_summed_up_and_named(tmp_path):
    root = tree("jetson", tmp_path)
    put(root, "class/hwmon/hwmon1/in1_label", "VDD_GPU_SOC")
    meter = find_meter(root)
    assert meter.sample(0.0).power_w == pytest.approx(4.944 * (1.032 + 0.120 + 0.288))
    assert "sum of VDD_GPU_SOC, VDD_CPU_GPU_CV, VDD_SOC" in meter.source


def test_a_channel_that_is_off_gives_no_power_rather_than_less(tmp_path):
    root = tree("jetson", tmp_path)
    put(root, "class/hwmon/hwmon1/in1_label", "VDD_GPU_SOC")
    meter = find_meter(root)
    (root / "sys/class/hwmon/hwmon1/curr3_input").unlink()
    assert meter.sample(0.0).power_w is None


def test_an_ina219_tells_microwatts():
    meter = find_meter(TREES / "board")
    assert meter.sample(0.0).power_w == pytest.approx(2.86)
    assert "ina219" in meter.source


def test_a_laptop_is_measured_by_its_packages_once_and_not_by_its_graphics_card(tmp_path):
    root = tree("laptop", tmp_path)
    meter = find_meter(root)
    assert meter.sample(0.0).power_w is None
    put(root, "class/powercap/intel-rapl:0/energy_uj", 262143000000)  # one joule more
    sample = meter.sample(2.0)
    assert (sample.power_w, sample.energy_j) == (pytest.approx(0.5), pytest.approx(1.0))
    assert "package-0" in meter.source
    assert "psys" not in meter.source


def test_a_counter_that_begins_again_goes_on(tmp_path):
    root = tree("laptop", tmp_path)
    meter = find_meter(root)
    meter.sample(0.0)
    put(root, "class/powercap/intel-rapl:0/energy_uj", 8671150)  # the range ends 1328850 after the recorded value
    assert meter.sample(10.0).power_w == pytest.approx(1.0)


def test_a_package_that_cannot_be_read_leaves_the_battery(tmp_path):
    root = tree("laptop", tmp_path)
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    meter = find_meter(root)
    assert meter.sample(0.0).power_w == pytest.approx(7.345)
    assert "battery BAT0" in meter.source
    put(root, "class/power_supply/BAT0/status", "Charging")
    assert meter.sample(1.0).power_w is None


def test_a_battery_without_a_power_file_is_measured_by_current_and_voltage(tmp_path):
    root = tree("board", tmp_path)
    (root / "sys/class/hwmon/hwmon2/power1_input").unlink()
    put(root, "class/power_supply/battery/status", "Discharging")
    assert find_meter(root).sample(0.0).power_w == pytest.approx(0.412 * 3.921)


def test_a_machine_without_a_meter_has_none(tmp_path):
    assert find_meter(tmp_path) is None


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=10))
def test_a_counter_adds_up_to_what_was_spent(tmp_path_factory, steps):
    """However often it begins again, as long as it does so at most once between two readings."""
    root = tmp_path_factory.mktemp("rapl")
    range_uj, count = 10**12, 5
    put(root, "energy_uj", count)
    meter = RaplMeter((Zone(root / "sys", range_uj),))
    meter.sample(0.0)
    for second, spent in enumerate(steps, start=1):
        count = (count + spent) % range_uj
        put(root, "energy_uj", count)
        sample = meter.sample(float(second))
    expected = sum(spent % range_uj for spent in steps)
    assert sample.energy_j == pytest.approx(expected / 1e6)


def test_time_without_a_reading_adds_no_energy():
    said = iter([2.0, 2.0, None, 4.0, 4.0])
    meter = WattMeter(lambda: next(said), "a test")
    energies = [meter.sample(now_s).energy_j for now_s in (0.0, 10.0, 20.0, 30.0, 40.0)]
    assert energies == [0.0, 20.0, 20.0, 20.0, 60.0]


def ticked(account, mode, watts, seconds, each_s=1.0, samples=0):
    """Let time go by at a mode, with a meter that says so many watts."""
    meter = WattMeter(lambda: watts, "a meter")
    for second in range(seconds + 1):
        account.tick(second * each_s, mode, meter.sample(second * each_s), meter.source)
        for _ in range(samples if second < seconds else 0):
            account.answered(mode, 1, 0.004)


def test_a_mode_is_measured_once_it_was_seen_for_long_enough():
    account = EnergyAccount(None, MACS, 0.0)
    ticked(account, "C1", 3.0, 10)
    assert account.power_w("C1") is None
    account = EnergyAccount(None, MACS, 0.0)
    ticked(account, "C1", 3.0, 40, samples=2)
    assert account.power_w("C1").value == pytest.approx(3.0)
    assert account.power_w("C1").provenance.basis == "measured"
    assert account.energy_j_per_inference("C1").value == pytest.approx(1.5)
    assert "idle device's included" in account.energy_j_per_inference("C1").provenance.source
    assert account.power_w("C2") is None


def test_the_power_of_an_idle_device_is_taken_out_where_it_is_known():
    account = EnergyAccount(Energy(idle_w=figure(2.0, "measured")), MACS, 0.0)
    ticked(account, "C1", 3.0, 40, samples=2)
    assert account.energy_j_per_inference("C1").value == pytest.approx(0.5)
    assert "less idle_w, measured: a test" in account.energy_j_per_inference("C1").provenance.source


def test_an_idle_power_above_the_measured_one_gives_no_negative_energy():
    account = EnergyAccount(Energy(idle_w=figure(9.0)), MACS, 0.0)
    ticked(account, "C1", 3.0, 40, samples=2)
    assert account.energy_j_per_inference("C1") is None


def test_time_on_the_way_counts_for_no_mode():
    account = EnergyAccount(None, MACS, 0.0)
    ticked(account, None, 3.0, 100)
    assert account.power_w("C1") is None


def test_the_model_gives_estimates_that_name_their_figures():
    energy = Energy(idle_w=figure(2.0, "datasheet"), joules_per_mac=figure(1e-6))
    account = EnergyAccount(energy, MACS, 0.0)
    account.answered("C1", 10, 0.1)
    account.tick(5.0, "C1", None, "")
    power = account.power_w("C1")
    assert power.value == pytest.approx(2.0 + 1e-6 * 1000 * 2)
    assert power.provenance.basis == "estimated"
    assert "idle_w datasheet: a test; joules_per_mac assumed: a test" in power.provenance.source
    assert account.energy_j_per_inference("C2").value == pytest.approx(600e-6)
    assert account.total_j(5.0, 0).value == pytest.approx(10.0 + 10 * 1e-3)


def test_bytes_written_are_in_the_estimate_of_the_total():
    energy = Energy(idle_w=figure(0.0), joules_per_mac=figure(0.0), joules_per_byte_written=figure(1e-3))
    assert EnergyAccount(energy, MACS, 0.0).total_j(9.0, 2000).value == pytest.approx(2.0)


@pytest.mark.parametrize("energy", [None, Energy(), Energy(joules_per_byte_written=figure(1.0))])
def test_what_nobody_knows_is_not_made_up(energy):
    account = EnergyAccount(energy, MACS, 0.0)
    account.answered("C1", 5, 0.1)
    account.tick(1.0, "C1", None, "")
    assert account.power_w("C1") is None
    assert account.present_w("C1") is None
    assert account.energy_j_per_inference("C1") is None
    assert account.total_j(1.0, 100) is None


def test_an_idle_power_alone_says_nothing_of_a_device_that_works():
    account = EnergyAccount(Energy(idle_w=figure(2.0)), MACS, 0.0)
    assert account.power_w("C1").value == 2.0
    account.answered("C1", 5, 0.1)
    account.tick(1.0, "C1", None, "")
    assert account.power_w("C1") is None


def test_latency_is_the_median_of_calls_with_one_sample():
    account = EnergyAccount(None, MACS, 0.0)
    assert account.latency_ms("C1") is None
    for seconds in (0.001, 0.002, 0.9):
        account.answered("C1", 1, seconds)
    account.answered("C1", 32, 5.0)
    assert account.latency_ms("C1").value == pytest.approx(2.0)
    assert account.latency_ms("C2") is None


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 5), min_size=1))
def test_modes_are_in_order_of_their_work(macs):
    order = by_power(macs)
    assert sorted(order) == sorted(macs)
    assert [macs[name] for name in order] == sorted(macs.values())
