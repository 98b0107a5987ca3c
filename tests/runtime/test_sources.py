"""Readers of sysfs, files and commands, on trees of a laptop, a Jetson and a small board."""

import os
import select
import subprocess
import sys
import tracemalloc

import pytest

from device_profiles import Command, Trigger
from runtime.errors import SourceError
from runtime.sensing.programs import MOST_BYTES
from runtime.sensing.sources import Sources, battery_percent, charger_plugged, temperature_c
from tests.runtime.sysfs_trees import TREES, program, put, tree


def rule(source, **fields):
    return Trigger(name="t", mode="C2", source=source, equals="on", **fields)


def test_the_battery_of_the_laptop_and_not_that_of_the_mouse():
    assert battery_percent(TREES / "laptop") == 50.0


def test_two_batteries_count_by_their_energy(tmp_path):
    root = tree("laptop", tmp_path)
    for name, value in {"type": "Battery", "present": 1, "energy_now": 23710000, "energy_full": 23710000}.items():
        put(root, f"class/power_supply/BAT1/{name}", value)
    assert battery_percent(root) == pytest.approx(200 / 3)


def test_a_socket_without_a_battery_does_not_count(tmp_path):
    root = tree("laptop", tmp_path)
    for name, value in {"type": "Battery", "present": 0, "capacity": 0}.items():
        put(root, f"class/power_supply/BAT1/{name}", value)
    assert battery_percent(root) == 50.0


def test_capacity_counts_where_energy_is_unknown(tmp_path):
    root = tree("board", tmp_path)
    assert battery_percent(root) == 81.0
    put(root, "class/power_supply/battery/capacity", 250)
    assert battery_percent(root) == 100.0


def test_no_battery_is_an_error_that_says_where_it_looked():
    with pytest.raises(SourceError, match=r"battery: found 0 batteries .*sys/class/power_supply"):
        battery_percent(TREES / "jetson")


def test_the_charger_of_the_laptop(tmp_path):
    root = tree("laptop", tmp_path)
    assert not charger_plugged(root)
    put(root, "class/power_supply/ucsi-source-psy-USBC000:001/online", 2)  # a charger of programmable voltage
    assert charger_plugged(root)


def test_a_board_without_a_charger_file_tells_it_by_its_battery(tmp_path):
    root = tree("board", tmp_path)
    assert charger_plugged(root)
    put(root, "class/power_supply/battery/status", "Discharging")
    assert not charger_plugged(root)


def test_no_charger_and_no_battery_is_an_error():
    with pytest.raises(SourceError, match="charger: found no charger and no battery"):
        charger_plugged(TREES / "jetson")


@pytest.mark.parametrize(
    ("name", "zone", "expected"),
    [
        ("board", None, 51.54),
        ("board", "cpu-thermal", 51.54),
        ("laptop", None, 46.0),
        ("laptop", "acpitz", 27.8),
        ("jetson", None, 49.062),
        ("jetson", "cpu-thermal", 48.312),
    ],
)
def test_temperatures(name, zone, expected):
    assert temperature_c(TREES / name, zone) == pytest.approx(expected)


@pytest.mark.parametrize("zone", ["gpu-thermal", "cv0-thermal", "no-such-zone"])
def test_a_zone_that_is_off_or_missing_is_an_error_that_names_the_zones(zone):
    with pytest.raises(SourceError, match=f"found no reading of {zone} .*cpu-thermal, cv0-thermal, gpu-thermal"):
        temperature_c(TREES / "jetson", zone)


def test_the_hottest_zone_below_zero(tmp_path):
    root = tree("board", tmp_path)
    put(root, "class/thermal/thermal_zone0/temp", -12500)
    assert temperature_c(root, None) == -12.5


@pytest.mark.parametrize("nonsense", ["", "hot", "1e3", "0x10", "99999999999999999999x"])
def test_nonsense_in_a_file_is_no_reading(tmp_path, nonsense):
    root = tree("board", tmp_path)
    put(root, "class/thermal/thermal_zone0/temp", nonsense)
    with pytest.raises(SourceError):
        temperature_c(root, None)


def test_an_empty_machine_reads_nothing(tmp_path):
    for read in (battery_percent, charger_plugged, lambda root: temperature_c(root, None)):
        with pytest.raises(SourceError):
            read(tmp_path)


def test_a_source_of_each_kind(tmp_path):
    state = tmp_path / "state"
    state.write_text("  on\n")
    word = program(tmp_path, "word", "print('on')")
    sources = Sources({"word": Command(argv=(word,))}, TREES / "laptop")
    assert sources.read(rule("battery")) == 50.0
    assert sources.read(rule("charger")) == "unplugged"
    assert sources.read(rule("temperature", zone="acpitz")) == pytest.approx(27.8)
    assert sources.read(rule("file", path=str(state))) == "on"
    assert sources.read(rule("command", command="word")) == "on"


def test_a_profile_that_came_with_a_plan_reads_no_file_and_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    touch = program(tmp_path, "touch", f"open({str(mark)!r}, 'w')")
    secret = tmp_path / "secret"
    secret.write_text("on")
    sources = Sources({"touch": Command(argv=(touch,))}, TREES / "laptop", outside=False)
    for one in (rule("file", path=str(secret)), rule("command", command="touch")):
        with pytest.raises(SourceError, match="give the profile to the device itself"):
            sources.read(one)
    assert not mark.exists()
    assert sources.read(rule("battery")) == 50.0


def test_a_missing_file_is_an_error_with_its_path(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere: No such file"):
        Sources({}).read(rule("file", path=str(tmp_path / "nowhere")))


def test_a_folder_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="Is a directory"):
        Sources({}).read(rule("file", path=str(tmp_path)))


def test_a_pipe_without_a_writer_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert Sources({}).read(rule("file", path=str(tmp_path / "pipe"))) == ""


def test_a_file_without_an_end_gives_its_beginning():
    assert len(Sources({}).read(rule("file", path="/dev/zero"))) == 4096


def test_a_command_gets_no_input_no_environment_and_no_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSHIFT_SECRET", "token")
    text = "import os, sys; print(sorted(os.environ), repr(sys.stdin.read()), sys.argv[1:])"
    argv = (program(tmp_path, "tell", text), "$HOME; rm -rf /", "*")
    said = Sources({"tell": Command(argv=argv)}).read(rule("command", command="tell"))
    assert "GEOSHIFT_SECRET" not in said
    assert "['LC_ALL', 'PATH'" in said.replace("'LC_CTYPE', ", "")
    assert "''" in said
    assert said.endswith("['$HOME; rm -rf /', '*']")


def test_a_command_that_fails_says_its_status_and_words(tmp_path):
    argv = (program(tmp_path, "bad", "import sys; sys.stderr.write('no sensor'); sys.exit(3)"),)
    with pytest.raises(SourceError, match=r"command bad: found exit status 3, expected 0; .*no sensor"):
        Sources({"bad": Command(argv=argv)}).read(rule("command", command="bad"))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_command_that_prints_without_end_fills_no_memory(tmp_path, stream):
    text = f"import sys\nfor _ in range(64): sys.{stream}.write('on' * (1 << 19))\nprint()"
    command = Command(argv=(program(tmp_path, "flood", text),), timeout_s=60)
    tracemalloc.start()
    try:
        said = Sources({"flood": command}).read(rule("command", command="flood"))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert said == ("on" * (MOST_BYTES // 2) if stream == "stdout" else "")
    assert peak_bytes < 4 << 20  # of 64 MiB


def test_a_command_that_is_not_there_is_an_error():
    with pytest.raises(SourceError, match=r"command gone: /no/such/program: No such file"):
        Sources({"gone": Command(argv=("/no/such/program",))}).read(rule("command", command="gone"))


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    # The program ends at once. Its child goes on, and holds both its output and the pipe open.
    child = "import signal; signal.pause()"
    text = (
        f"import os, subprocess, sys\nheld = os.open({str(tmp_path / 'pipe')!r}, os.O_WRONLY)\n"
        f"subprocess.Popen([sys.executable, '-IS', '-c', {child!r}], pass_fds=[held])\n"
        f"open({str(tmp_path / 'begun')!r}, 'x').close()\n"
    )
    for timeout_s in (0.5, 2.0, 8.0, 32.0):  # where a machine is too busy to start it in time, it gets more
        slow = Command(argv=(program(tmp_path, "slow", text),), timeout_s=timeout_s)
        with pytest.raises(SourceError, match=f"command slow: found it at work after {timeout_s:g} s"):
            Sources({"slow": slow}).read(rule("command", command="slow"))
        if (tmp_path / "begun").exists():
            break
    ended = select.poll()
    ended.register(reader, select.POLLHUP)
    assert ended.poll(60_000) == [(reader, select.POLLHUP)]
    os.close(reader)


def test_psutil_is_not_loaded_where_sysfs_answers():
    code = (
        "import sys; from pathlib import Path; from runtime.sensing.sources import battery_percent; "
        f"battery_percent(Path({str(TREES / 'laptop')!r})); sys.exit('psutil' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("source", ["battery", "charger", "temperature"])
def test_this_machine_gives_a_reading_or_says_why_not(source):
    try:
        reading = Sources({}).read(rule(source))
    except SourceError as error:
        assert str(error).startswith(f"{source}: found ")  # noqa: PT017  # a machine may have it or not
    else:
        assert reading in ("plugged", "unplugged") if source == "charger" else isinstance(reading, float)
