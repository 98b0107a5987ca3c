"""A device that loses its process, or its power, at file operations of a walk.

One of each kind in each state is played here; `python -m benchmarks.kill` plays all of them.
"""

import shutil
import signal
import threading
from collections import Counter

import pytest

from runtime.memory.state_directory import StateDirectory
from runtime.plan import bundle as bundles
from runtime.walking.net import Net
from tests.runtime.bundles import write_bundle
from tests.runtime.disks import BROKEN, FULL, Disk, Forgetful, Killed
from tests.runtime.disturbed import WALKS, live, operations, recover, said, sample, tear, ways
from tests.runtime.killings import killed_at_random, victim
from tests.runtime.restarts import DEVICE, restart
from tests.runtime.threads import PATIENCE_S


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("kills") / "plan", DEVICE))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """A killed thread has nobody to report to."""
    hook = threading.excepthook
    monkeypatch.setattr(threading, "excepthook", lambda it: None if it.exc_type is Killed else hook(it))


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("policy", ["in-place", "persistent"])
def test_killed_at_a_file_operation_it_goes_on_from_what_the_journal_says(bundle, tmp_path, policy, walk):
    found = operations(bundle, tmp_path / "whole", policy, walk)
    seen = Counter()
    for number in sample(found):
        for way in ways(found[number - 1][1]):
            path = tmp_path / f"{number}{way}"
            disk = Disk(number, way)
            live(bundle, path, policy, walk, disk)
            if disk.dead:
                seen[said(restart(bundle, path, policy))] += 1
    assert seen["nothing"]
    assert seen["rest"]
    assert seen["walking"]


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("policy", ["in-place", "shadow", "persistent"])
def test_without_power_at_a_file_operation_it_goes_on_from_what_the_journal_says(bundle, tmp_path, policy, walk):
    """What was not flushed is lost, or not, or in part."""
    for number in sample(operations(bundle, tmp_path / "whole", policy, walk)):
        path = tmp_path / str(number)
        disk = Forgetful(path, number, seed=number)
        live(bundle, path, policy, walk, disk)
        if disk.dead and path.exists():
            disk.cut()
            restart(bundle, path, policy)


def test_killed_again_while_it_repairs_and_recovers_it_is_none_the_worse(bundle, tmp_path):
    torn = tmp_path / "torn"
    tear(bundle, torn)
    shutil.copytree(torn, tmp_path / "count")
    count = Disk()
    recover(bundle, tmp_path / "count", count)
    assert "store" in count.names
    for number in sample([("repairing", name) for name in count.names]):
        for way in ways(count.names[number - 1]):
            path = tmp_path / f"{number}{way}"
            shutil.copytree(torn, path)
            recover(bundle, path, Disk(number, way))
            assert restart(bundle, path, "persistent") is not None


@pytest.mark.parametrize(("error", "times"), [(FULL, 1), (BROKEN, 1), (BROKEN, 10**6)], ids=["full", "broken", "dead"])
def test_a_disk_that_fails_while_it_repairs_and_recovers_costs_no_state(bundle, tmp_path, times, error):
    torn = tmp_path / "torn"
    tear(bundle, torn)
    whole = Disk()
    shutil.copytree(torn, tmp_path / "whole")
    recover(bundle, tmp_path / "whole", whole)
    for number in sample([("repairing", name) for name in whole.names]):
        path = tmp_path / str(number)
        shutil.copytree(torn, path)
        recover(bundle, path, Disk(number, error, times))
        restart(bundle, path, "persistent")


def test_a_process_that_is_really_killed_leaves_what_the_journal_says(bundle, tmp_path):
    """A sample of the matrix above: the first operation of each kind after the opening, and the torn ones of them."""
    whole = Disk()
    live(bundle, tmp_path / "whole", "persistent", "commit", whole)
    opening = Disk()
    Net(bundle, DEVICE, "persistent", home=StateDirectory(tmp_path / "opening", opening)).close()
    walking = whole.names[opening.count :]
    sample = [(opening.count + walking.index(name) + 1, "kill") for name in dict.fromkeys(walking)]
    sample += [(opening.count + walking.index(name) + 1, "half") for name in ("write", "store")]
    children = [(victim(bundle, tmp_path / f"{at}{way}", "persistent", at, way), f"{at}{way}") for at, way in sample]
    for child, name in children:
        _, complaint = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == -signal.SIGKILL, complaint.decode()
        assert restart(bundle, tmp_path / name, "persistent") is not None


@pytest.mark.parametrize("policy", ["in-place", "persistent"])
def test_a_process_that_is_killed_at_any_instant_leaves_what_the_journal_says(bundle, tmp_path, policy):
    assert killed_at_random(bundle, tmp_path, policy, 2).total() == 2
