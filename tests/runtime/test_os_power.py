"""Commands of the operating system: done in order, undone backwards, all or nothing."""

import pytest

from device_profiles import Command
from runtime.errors import CommandFailed
from runtime.sensing.os_power import OsPower, Tools
from tests.runtime.sysfs_trees import got, program, put, tree

GOVERNORS = (
    "devices/system/cpu/cpufreq/policy0/scaling_governor",
    "devices/system/cpu/cpufreq/policy4/scaling_governor",
)

NVPMODEL = """
import pathlib, sys
state = pathlib.Path(__file__).with_name("nvpmodel-state")
if sys.argv[1] == "-q":
    print("NVPM WARN: fan mode is not set!")
    print(f"NV Power Mode: MODE_{state.read_text()}\\n{state.read_text()}")
elif pathlib.Path(__file__).with_name("needs-reboot").exists():
    print("Golden image context is already created, reboot? (YES/NO)")
    sys.stdin.read()
else:
    assert sys.argv[1] == "-m"
    state.write_text(sys.argv[2])
"""
POWERPROFILESCTL = """
import pathlib, sys
state = pathlib.Path(__file__).with_name("ppd-state")
if sys.argv[1] == "get":
    print(state.read_text())
else:
    assert sys.argv[1] == "set"
    state.write_text(sys.argv[2])
"""
LOG = """
import pathlib, sys
with pathlib.Path(__file__).with_name("log").open("a") as file:
    file.write(sys.argv[1] + "\\n")
sys.exit(sys.argv[1].startswith("bad"))
"""


@pytest.fixture
def tools(tmp_path):
    (tmp_path / "nvpmodel-state").write_text("0")
    (tmp_path / "ppd-state").write_text("balanced")
    return Tools(
        nvpmodel=program(tmp_path, "nvpmodel", NVPMODEL),
        powerprofilesctl=program(tmp_path, "powerprofilesctl", POWERPROFILESCTL),
        root=tree("jetson", tmp_path),
    )


@pytest.fixture
def log(tmp_path):
    tell = program(tmp_path, "tell", LOG)
    commands = {
        name: Command(argv=(tell, name), undo=(tell, f"un{name}") if name != "plain" else None)
        for name in ("one", "two", "bad", "plain")
    }
    commands["stuck"] = Command(argv=(tell, "stuck"), undo=(tell, "bad-undo"))
    told = []
    power = OsPower(commands, lambda *what: told.append(what))

    def lines():
        place = tmp_path / "log"
        return place.read_text().split() if place.exists() else []

    return power, lines, told


def test_commands_run_in_order_and_are_undone_backwards(log):
    power, lines, told = log
    done = power.apply("before", ("one", "plain", "two"))
    assert lines() == ["one", "plain", "two"]
    power.undo(done)
    assert lines() == ["one", "plain", "two", "untwo", "unone"]
    assert told == [
        ("before", "one", True, ""), ("before", "plain", True, ""), ("before", "two", True, ""),
        ("undo", "two", True, ""), ("undo", "one", True, ""),
    ]  # fmt: skip


def test_a_failure_undoes_what_ran_before_it(log):
    power, lines, told = log
    with pytest.raises(CommandFailed, match=r"command bad: found exit status 1"):
        power.apply("after", ("one", "bad", "two"))
    assert lines() == ["one", "bad", "unone"]
    assert [(stage, name, ok) for stage, name, ok, _ in told] == [
        ("after", "one", True), ("after", "bad", False), ("undo", "one", True),
    ]  # fmt: skip


def test_what_cannot_be_undone_does_not_keep_the_rest_from_it(log):
    power, lines, told = log
    power.undo(power.apply("before", ("one", "stuck", "two")))
    assert lines() == ["one", "stuck", "two", "untwo", "bad-undo", "unone"]
    assert [(name, ok) for stage, name, ok, _ in told if stage == "undo"] == [
        ("two", True), ("stuck", False), ("one", True),
    ]  # fmt: skip


def test_a_governor_is_set_for_all_processors_and_put_back(tools):
    put(tools.root, GOVERNORS[1], "performance")
    power = OsPower({"slow": Command(governor="powersave")}, lambda *_: None, tools)
    done = power.apply("after", ("slow",))
    assert [got(tools.root, path) for path in GOVERNORS] == ["powersave", "powersave"]
    power.undo(done)
    assert [got(tools.root, path) for path in GOVERNORS] == ["schedutil", "performance"]


def test_a_governor_that_the_kernel_lacks_changes_nothing(tools):
    power = OsPower({"turbo": Command(governor="turbo")}, lambda *_: None, tools)
    with pytest.raises(CommandFailed, match=r"command turbo: policy0: found governor 'turbo', expected one of"):
        power.apply("after", ("turbo",))
    assert [got(tools.root, path) for path in GOVERNORS] == ["schedutil", "schedutil"]


def test_a_governor_that_cannot_be_set_everywhere_is_set_nowhere(tools):
    place = tools.root / "sys" / GOVERNORS[1]
    place.unlink()
    place.mkdir()
    power = OsPower({"slow": Command(governor="powersave")}, lambda *_: None, tools)
    with pytest.raises(CommandFailed, match=r"policy4/scaling_governor: Is a directory"):
        power.apply("after", ("slow",))
    assert got(tools.root, GOVERNORS[0]) == "schedutil"


def test_a_machine_without_cpufreq_says_so(tmp_path):
    power = OsPower({"slow": Command(governor="powersave")}, lambda *_: None, Tools(root=tmp_path))
    with pytest.raises(CommandFailed, match="this machine has no cpufreq"):
        power.apply("after", ("slow",))
    assert not (tmp_path / "sys").exists()


def test_nvpmodel_is_set_checked_and_put_back(tools, tmp_path):
    power = OsPower({"low": Command(nvpmodel=2)}, lambda *_: None, tools)
    done = power.apply("after", ("low",))
    assert (tmp_path / "nvpmodel-state").read_text() == "2"
    power.undo(done)
    assert (tmp_path / "nvpmodel-state").read_text() == "0"


def test_nvpmodel_that_wants_a_reboot_gets_no_answer_and_is_an_error(tools, tmp_path):
    (tmp_path / "needs-reboot").touch()
    power = OsPower({"low": Command(nvpmodel=2)}, lambda *_: None, tools)
    with pytest.raises(CommandFailed, match=r"found mode 0 after nvpmodel -m 2, expected 2; .*reboot"):
        power.apply("after", ("low",))
    assert (tmp_path / "nvpmodel-state").read_text() == "0"


def test_a_mode_that_is_set_already_is_left_alone_and_not_undone(tools, tmp_path):
    power = OsPower({"low": Command(nvpmodel=0)}, lambda *_: None, tools)
    done = power.apply("after", ("low",))
    (tmp_path / "nvpmodel-state").write_text("3")  # somebody else's doing since
    power.undo(done)
    assert (tmp_path / "nvpmodel-state").read_text() == "3"


def test_a_power_profile_is_set_and_put_back(tools, tmp_path):
    power = OsPower({"save": Command(power_profile="power-saver")}, lambda *_: None, tools)
    done = power.apply("before", ("save",))
    assert (tmp_path / "ppd-state").read_text() == "power-saver"
    power.undo(done)
    assert (tmp_path / "ppd-state").read_text() == "balanced"


def test_a_system_without_the_program_says_so(tmp_path):
    power = OsPower({"save": Command(power_profile="balanced")}, lambda *_: None, Tools(powerprofilesctl="/no/such"))
    with pytest.raises(CommandFailed, match=r"command save: /no/such: No such file"):
        power.apply("before", ("save",))
