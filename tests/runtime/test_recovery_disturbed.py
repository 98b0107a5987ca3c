"""Started again on the way, a device has something to take back before it has written anything."""

import shutil

import pytest

from runtime.memory.journal import RESERVE, load
from runtime.memory.state_directory import StateDirectory
from runtime.plan import bundle as bundles
from runtime.walking.controller import Controller
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from runtime.walking.table import Phase
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.disks import FULL, Disk
from tests.runtime.instants import Instants, cancel
from tests.runtime.nets import stands_at
from tests.runtime.restarts import DEVICE, restart
from tests.runtime.threads import until

POLICIES = ("in-place", "shadow", "persistent")
SLOW = profile(writes__increments_per_second=1 / 3600, bank__snap=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("disturbed") / "plan", DEVICE))


@pytest.fixture(params=POLICIES)
def policy(request):
    return request.param


@pytest.fixture
def behind(bundle, tmp_path, policy):
    """A state directory that was left after the first increment of a walk C1 → C3."""
    path = tmp_path / "behind"
    with Net(bundle, SLOW, policy, home=StateDirectory(path)) as net:
        operation = net.switch("C3")
        until(lambda: operation.progress > 0)
    return path


@pytest.fixture
def held(monkeypatch):
    """Recoveries do not begin when a network is opened; what is given begins that of a network."""
    ways, go_on = {}, Controller.go_on
    monkeypatch.setattr(Controller, "go_on", lambda controller, *way: ways.update({controller: way}))
    return lambda net: go_on(net._controller, *ways.pop(net._controller))


@pytest.mark.parametrize("resume", ["back", "forward"])
def test_cancelled_at_any_instant_it_ends_at_a_mode_and_starts_again(bundle, behind, policy, held, resume):
    copies = []

    def opened():
        copies.append(shutil.copytree(behind, behind.with_name(f"copy-{len(copies)}")))
        return Net(bundle, DEVICE, policy, home=StateDirectory(copies[-1], Disk()), resume=resume)

    outcomes = set()
    for net, operation in Instants(opened, cancel, held):
        result = operation.wait(30)
        outcomes.add(result.outcome)
        reached = "C3" if result.outcome is Outcome.COMMITTED and resume == "forward" else "C1"
        assert (result.mode, net.mode, net.phase, result.reason) == (reached, reached, Phase.IDLE, "")
        assert net.standing.walk is None
        assert stands_at(net, reached)
    assert outcomes == {Outcome.CANCELLED, Outcome.COMMITTED}
    for path in copies:
        assert load(path, Disk()).walk is None
        # Persistent weights are compared with the journal, row by row, when a network is opened on them.
        with Net(bundle, DEVICE, policy, home=StateDirectory(path, Disk())) as net:
            assert stands_at(net, net.mode)


@pytest.mark.parametrize("times", [1, 10**6], ids=["once", "for good"])
@pytest.mark.parametrize("resume", ["back", "forward"])
def test_without_room_for_its_first_record_it_goes_back_or_answers_no_more(
    bundle, behind, policy, held, resume, times, monkeypatch
):
    (behind / RESERVE).unlink()  # given up before
    disk = Disk()
    with Net(bundle, DEVICE, policy, home=StateDirectory(behind, disk), resume=resume) as net:
        disk.number, disk.way, disk.times = disk.count + 1, FULL, times
        result = held(net).wait(30)
        assert "No space left on device" in result.reason
        assert result.mode == net.mode == "C1"
        disk.number = 0
        if policy == "persistent" and times > 1:  # where nothing can be recorded, nothing may be written
            assert (result.outcome, net.phase, result.bytes_written) == (Outcome.FAILED, Phase.FAILED, 0)
        else:
            assert (result.outcome, net.phase) == (Outcome.ROLLED_BACK, Phase.IDLE)
            assert result.bytes_written > 0
            assert stands_at(net, "C1")
            assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED
            assert stands_at(net, "C2")
    monkeypatch.undo()
    restart(bundle, behind, policy)
