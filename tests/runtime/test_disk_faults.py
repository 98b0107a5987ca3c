"""A disk on which a file operation of a walk fails, once or for good: it may cost a switch, and never a state.

One of each kind in each state is played here; `python -m benchmarks.kill` plays all of them.
"""

from collections import Counter

import pytest

from device_profiles.errors import GeoshiftError
from runtime.plan import bundle as bundles
from runtime.walking.operation import Outcome
from tests.runtime.bundles import write_bundle
from tests.runtime.disks import BROKEN, FULL, Disk
from tests.runtime.disturbed import WALKS, live, operations, sample
from tests.runtime.restarts import DEVICE, restart


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("faults") / "plan", DEVICE))


@pytest.mark.parametrize(("error", "times"), [(FULL, 1), (BROKEN, 1), (BROKEN, 10**6)], ids=["full", "broken", "dead"])
@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("policy", ["in-place", "persistent"])
def test_a_disk_that_fails_at_an_operation_costs_a_switch_and_no_state(bundle, tmp_path, policy, walk, times, error):
    seen = Counter()
    for number in sample(operations(bundle, tmp_path / "whole", policy, walk)):
        path = tmp_path / str(number)
        disk = Disk(number, error, times)
        found = live(bundle, path, policy, walk, disk)
        if isinstance(found, GeoshiftError):
            assert str(path) in str(found)
            seen["refused"] += 1
        else:
            seen[found.result.outcome.value] += 1
            assert found.result.reason or found.result.outcome is not Outcome.ROLLED_BACK
        restart(bundle, path, policy)
    assert seen["refused"]


@pytest.mark.parametrize("policy", ["in-place", "persistent"])
def test_a_disk_that_takes_half_of_a_write_is_asked_for_the_rest(bundle, tmp_path, policy):
    whole = Disk()
    live(bundle, tmp_path / "whole", policy, "commit", whole)
    for number in [at for at, name in enumerate(whole.names, 1) if name == "write"]:
        found = live(bundle, tmp_path / str(number), policy, "commit", Disk(number, "short"))
        assert found.result.outcome is Outcome.COMMITTED
        restart(bundle, tmp_path / str(number), policy)
