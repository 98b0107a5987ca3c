"""A device that loses its process, or its power, at file operations of a push: it starts with the old plan or the new.

One operation of each kind in each phase of the push is played.
"""

import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from runtime.memory.journal import load
from runtime.plan import bundle as bundles
from runtime.walking.net import open_bundle
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.disks import Disk, ForgetfulTree, Killed
from tests.runtime.push_disturbed import live, numbers, points, push_again, restart
from tests.runtime.pushing import WORLD, bundle_id, left, written

CASES = [("in-place", False), ("in-place", True), ("persistent", False)]
IDS = ["in-place", "gap", "persistent"]


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("kills") / "old", profile(**WORLD)))


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    return written(tmp_path_factory.mktemp("kills") / "new")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    return written(tmp_path_factory.mktemp("kills") / "wrong", wrong=True)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """A killed thread has nobody to report to."""
    hook = threading.excepthook
    monkeypatch.setattr(threading, "excepthook", lambda it: None if it.exc_type is Killed else hook(it))


@pytest.mark.parametrize(("policy", "gap"), CASES, ids=IDS)
def test_killed_at_a_file_operation_of_a_push_it_starts_with_one_plan_or_the_other(old, new, tmp_path, policy, gap):
    found = points(old, new, tmp_path / "whole", policy, gap=gap)
    phases = {phase for phase, _ in found}
    assert phases >= {"idle", "receiving", "staging", "committing"}
    assert ("committing recorded" in phases) is (policy == "persistent")  # where the old weights are removed
    seen = Counter()
    for number in numbers(found):
        for way in ("kill", "half") if found[number - 1][1] == "write" else ("kill",):
            state = tmp_path / f"{number}{way}"
            assert live(old, new, state, Disk(number, way), policy, gap=gap) is None
            is_new = restart(old, new, state, policy)
            assert is_new or "recorded" not in found[number - 1][0]
            seen[is_new] += 1
            push_again(old, new, state, policy)
    assert seen[True]
    assert seen[False]


def test_killed_while_one_pushed_plan_replaces_another_it_starts_with_one_of_them(old, new, tmp_path):
    """What lay in the store before is removed once the journal names what came after it, and not earlier."""
    third = written(tmp_path / "third", seed=2, release=2)
    assert live(old, new, tmp_path / "first", Disk()).outcome == "committed"
    first = bundles.read(tmp_path / "first" / "bundles" / bundle_id(new))

    def state(name):
        shutil.copytree(tmp_path / "first", tmp_path / name)
        return tmp_path / name

    found = points(first, third, state("whole"))
    assert "committing recorded" in {phase for phase, _ in found}
    for number in numbers(found):
        place = state(str(number))
        assert live(first, third, place, Disk(number, "kill")) is None
        known = load(place, Disk()).bundle
        assert known in (first.id, bundle_id(third))
        with open_bundle(old.path, state=place) as net:
            assert (net.bundle.id, net.standing.release) == (known, 2)
        assert left(place) == [known]


@pytest.mark.parametrize("gap", [False, True], ids=["beside", "gap"])
def test_killed_while_a_wrong_plan_is_rolled_back_it_starts_with_the_old_one(old, wrong, tmp_path, gap):
    found = points(old, wrong, tmp_path / "whole", gap=gap)
    back = [number for number in numbers(found) if found[number - 1][0].startswith(("rolling-back", "checking"))]
    assert back
    for number in back:
        state = tmp_path / str(number)
        assert live(old, wrong, state, Disk(number, "kill"), gap=gap) is None
        assert not restart(old, wrong, state)


@pytest.mark.parametrize(("policy", "gap"), CASES, ids=IDS)
def test_without_power_at_a_file_operation_of_a_push_it_starts_with_one_plan_or_the_other(
    old, new, tmp_path, policy, gap
):
    """What was not flushed is lost, or not, or in part."""
    found = points(old, new, tmp_path / "whole", policy, gap=gap)
    seen = Counter()
    for number in numbers(found):
        state = tmp_path / str(number)
        disk = ForgetfulTree(state, number, seed=number)
        live(old, new, state, disk, policy, gap=gap)
        assert disk.dead
        disk.cut()
        seen[restart(old, new, state, policy)] += 1
    assert seen[False]


def test_power_that_goes_right_after_a_push_leaves_the_new_plan_whole(old, new, tmp_path):
    for seed in range(5):
        state = tmp_path / str(seed)
        disk = ForgetfulTree(state, seed=seed)
        assert live(old, new, state, disk).outcome == "committed"
        disk.cut()
        assert restart(old, new, state)


def test_a_process_that_is_really_killed_in_a_push_starts_with_one_plan_or_the_other(old, new, tmp_path):
    found = points(old, new, tmp_path / "whole")
    # The operations in which a byte of the journal decides, and one of each phase before.
    sampled = {found[number - 1][0]: number for number in numbers(found)}
    root = Path(__file__).parents[2]
    children = []
    for phase, number in sampled.items():
        command = [sys.executable, "-m", "tests.runtime.push_victim", old.path, new, tmp_path / str(number), number]
        children.append((phase, number, subprocess.Popen([*map(str, command)], cwd=root, stderr=subprocess.PIPE)))
    for _, number, child in children:
        _, complaint = child.communicate(timeout=120)
        assert child.returncode == -signal.SIGKILL, complaint.decode()
        restart(old, new, tmp_path / str(number))
