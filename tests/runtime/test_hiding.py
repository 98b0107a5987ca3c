"""Where a device keeps its files is not told to those who ask it."""

from pathlib import Path

import msgspec

from runtime.device.device import Device
from runtime.device.hiding import without_place
from runtime.errors import JournalError
from runtime.memory.state_directory import StateDirectory
from runtime.plan.bundle import read
from runtime.service.problems import describe
from runtime.walking.net import Net
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.disks import FULL, Disk


def test_the_state_directory_has_a_name_in_place_of_its_path(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    for place in (link, tmp_path / "real"):
        assert without_place(f"{place}/journal: cannot be written", link) == "STATE/journal: cannot be written"
    assert without_place("a state of the path", Path("state")) == "a state of the path"
    assert without_place("/etc/x", Path("/")) == without_place("/etc/x", None) == "/etc/x"


def test_neither_a_switch_that_fails_nor_its_event_tells_it(tmp_path):
    state = tmp_path / "state"
    disk = Disk(0, FULL, 10**6)
    net = Net(read(write_bundle(tmp_path / "plan")), profile(), "in-place", home=StateDirectory(state, disk))
    with Device(net, id="d", state=state, watches=False) as device:
        disk.number = disk.count + 1
        over = device.wait(device.switch("C2", who="ann").id, 60)
        disk.number = 0
        told = msgspec.json.encode((over, device.operations(), device.events().since(0))).decode()
    assert over.outcome == "rolled-back"
    assert "STATE/journal: cannot be written" in over.reason
    assert str(tmp_path) not in told
    assert "STATE" in device.hidden(f"{state}/x")


def test_nor_does_an_answer():
    answer = describe(
        JournalError("/var/lib/geoshift/journal: cannot be written"), "r", inference=True,
        hidden=lambda text: without_place(text, Path("/var/lib/geoshift")),
    )  # fmt: skip
    assert answer.problem.status == 503
    assert b"/var" not in answer.body
    assert b"STATE/journal: cannot" in answer.body
