"""A disk on which a file operation of a push fails: it may cost the push, and never the plan that is at work."""

from collections import Counter

import numpy as np
import pytest

from device_profiles.errors import GeoshiftError
from runtime.errors import JournalError, NoRoom, StagingError, StateError
from runtime.plan import bundle as bundles
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.disks import BROKEN, FULL, Disk
from tests.runtime.push_disturbed import X, live, numbers, points, push_again, restart
from tests.runtime.pushing import WORLD, device_at, left, outputs, uploaded, written


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("faults") / "old", profile(**WORLD)))


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    return written(tmp_path_factory.mktemp("faults") / "new")


@pytest.mark.parametrize(
    ("policy", "gap", "error", "times"),
    [
        ("in-place", False, FULL, 1),
        ("in-place", False, BROKEN, 10**6),
        ("in-place", True, BROKEN, 1),
        ("persistent", False, BROKEN, 1),
    ],
    ids=["full", "dead", "broken in a gap", "broken under persistent weights"],
)
def test_a_disk_that_fails_at_an_operation_costs_a_push_and_no_plan(old, new, tmp_path, policy, gap, error, times):
    found = points(old, new, tmp_path / "whole", policy, gap=gap)
    seen = Counter()
    for number in numbers(found):
        phase, name = found[number - 1]
        state = tmp_path / str(number)
        end = live(old, new, state, Disk(number, error, times), policy, gap=gap)
        if isinstance(end, GeoshiftError):
            assert isinstance(end, (NoRoom, StagingError, JournalError)), (phase, name, end)
            seen["refused"] += 1
        elif end.outcome != "committed":
            assert end.reason, (phase, name)
            assert end.outcome == "rolled-back" or gap, (phase, name, end)
        if not isinstance(end, GeoshiftError):
            seen[end.outcome] += 1
        is_new = restart(old, new, state, policy)
        if not isinstance(end, GeoshiftError) and "either plan may be at work" not in end.reason:
            assert is_new is (end.outcome == "committed"), (phase, name, end)
        push_again(old, new, state, policy)
    assert seen["refused"]
    assert seen["rolled-back"]
    # What is left of the old plan is removed afterwards: that it cannot be does no harm.
    assert seen["committed"] or policy != "persistent"


def test_a_disk_that_takes_half_of_a_write_is_asked_for_the_rest(old, new, tmp_path):
    found = points(old, new, tmp_path / "whole")
    for number in [at for at, (phase, name) in enumerate(found, 1) if name == "write" and phase != "idle"]:
        assert live(old, new, tmp_path / str(number), Disk(number, "short")).outcome == "committed"
        assert restart(old, new, tmp_path / str(number))


@pytest.mark.parametrize("error", [FULL, BROKEN], ids=["full", "broken"])
def test_a_push_that_the_disk_refuses_leaves_nothing_and_the_device_answers(old, new, tmp_path, error):
    found = points(old, new, tmp_path / "whole")
    for number in [at for at in numbers(found) if found[at - 1][0] == "receiving"]:
        state = tmp_path / str(number)
        with device_at(old, state, Disk(number, error)) as device:
            with pytest.raises((NoRoom, StagingError), match=r"cannot be kept: .*, then push again"):
                uploaded(device, new)
            assert device.pushes.last().outcome == "rolled-back"
            assert left(state) == []
            assert np.array_equal(device.infer(X), outputs(old, X))
            view = uploaded(device, new)
            device.pushes.commit(view.id, allow_gap=False)
            assert device.pushes.wait(view.id, 60).outcome == "committed"


def test_a_damaged_pushed_bundle_is_named_at_a_start_with_the_way_back(old, new, tmp_path):
    from runtime.errors import BundleError
    from runtime.walking.net import open_bundle

    with device_at(old, tmp_path / "state") as device:
        view = uploaded(device, new)
        device.pushes.commit(view.id, allow_gap=False)
        device.pushes.wait(view.id, 60)
    (tmp_path / "state" / "bundles" / view.id / "plan.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match="--migrate"):
        open_bundle(old.path, state=tmp_path / "state")
    with open_bundle(old.path, state=tmp_path / "state", migrate=True) as net:
        assert (net.bundle.id, net.mode) == (old.id, "C1")
    assert left(tmp_path / "state") == []


def test_a_newer_bundle_on_the_command_line_is_not_passed_over(old, new, tmp_path):
    from runtime.walking.net import open_bundle

    with device_at(old, tmp_path / "state") as device:
        view = uploaded(device, new)
        device.pushes.commit(view.id, allow_gap=False)
        device.pushes.wait(view.id, 60)
    newer = written(tmp_path / "newer", seed=4, release=3)
    with pytest.raises(StateError, match=r"release 2, at work, expected that .*, release 3, was pushed too"):
        open_bundle(newer, state=tmp_path / "state")
    with open_bundle(newer, state=tmp_path / "state", migrate=True) as net:
        assert (net.standing.release, net.why) == (3, "")
