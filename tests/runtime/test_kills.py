"""A device that loses its process, or its power, at any file operation of a walk."""

import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from runtime import bundle as bundles
from runtime.net import Net
from runtime.state_directory import StateDirectory
from tests.runtime.bundles import write_bundle
from tests.runtime.disks import Disk, Forgetful, Killed
from tests.runtime.disturbed import WALKS, live
from tests.runtime.restarts import DEVICE, restart
from tests.runtime.threads import until


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
def test_killed_at_any_file_operation_it_goes_on_from_what_the_journal_says(bundle, tmp_path, policy, walk):
    whole = Disk()
    live(bundle, tmp_path / "whole", policy, walk, whole)
    seen = Counter()
    for number, name in enumerate(whole.names, 1):
        for way in ("kill", "half") if name in ("write", "store") else ("kill",):
            path = tmp_path / f"{number}{way}"
            disk = Disk(number, way)
            live(bundle, path, policy, walk, disk)
            if disk.dead:
                standing = restart(bundle, path, policy)
                seen["nothing" if standing is None else standing.walk.phase if standing.walk else "rest"] += 1
            shutil.rmtree(path, ignore_errors=True)
    print(policy, walk, whole.count, dict(seen))
    assert seen["nothing"]
    assert seen["rest"]
    assert seen["walking"]


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("policy", ["in-place", "shadow", "persistent"])
def test_without_power_at_any_file_operation_it_goes_on_from_what_the_journal_says(bundle, tmp_path, policy, walk):
    """What was not flushed is lost, or not, or in part."""
    whole = Disk()
    live(bundle, tmp_path / "whole", policy, walk, whole)
    for number in range(1, whole.count + 1):
        path = tmp_path / str(number)
        disk = Forgetful(path, number, seed=number)
        live(bundle, path, policy, walk, disk)
        if disk.dead and path.exists():
            disk.cut()
            restart(bundle, path, policy)


def recover(bundle, path, disk):
    """Open again and let the walk come to its end, if it can."""
    try:
        with Net(bundle, DEVICE, "persistent", home=StateDirectory(path, disk)) as net:
            until(lambda: net.recovery.result is not None or not net._controller._thread.is_alive())
    except Killed:
        return


def test_killed_again_while_it_repairs_and_recovers_it_is_none_the_worse(bundle, tmp_path):
    whole = Disk()
    live(bundle, tmp_path / "whole", "persistent", "commit", whole)
    rows = [number for number, name in enumerate(whole.names, 1) if name == "store"]
    torn = tmp_path / "torn"
    live(bundle, torn, "persistent", "commit", Disk(rows[len(rows) // 2], "half"))
    shutil.copytree(torn, tmp_path / "count")
    count = Disk()
    recover(bundle, tmp_path / "count", count)
    assert "store" in count.names
    for number, name in enumerate(count.names, 1):
        for way in ("kill", "half") if name in ("write", "store") else ("kill",):
            path = tmp_path / f"{number}{way}"
            shutil.copytree(torn, path)
            recover(bundle, path, Disk(number, way))
            assert restart(bundle, path, "persistent") is not None


def victim(bundle, path, policy, number=0, way="kill"):
    command = [sys.executable, "-m", "tests.runtime.victim", bundle.path, path, policy, number, way]
    root = Path(__file__).parents[2]
    return subprocess.Popen([*map(str, command)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


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
        _, complaint = child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL, complaint.decode()
        assert restart(bundle, tmp_path / name, "persistent") is not None


def killed_at_random(bundle, path, policy, times):
    """Kill a process that walks round and round, again and again in one directory; phases that were found."""
    seen, chance = Counter(), random.Random(times)
    for _ in range(times):
        child = victim(bundle, path, policy)
        assert child.stdout.read(chance.randint(20, 400))  # it is somewhere behind that when we have read it
        child.kill()
        child.communicate(timeout=60)
        standing = restart(bundle, path, policy)
        seen[standing.walk.phase if standing.walk else "rest"] += 1
    return seen


@pytest.mark.parametrize("policy", ["in-place", "persistent"])
def test_a_process_that_is_killed_at_any_instant_leaves_what_the_journal_says(bundle, tmp_path, policy):
    assert killed_at_random(bundle, tmp_path, policy, 4).total() == 4
