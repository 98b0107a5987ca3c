"""Pushes that something disturbs: a device is opened on a disk, a plan is pushed to it, and it is closed."""

import numpy as np

from device_profiles.errors import GeoshiftError
from runtime.memory.journal import load
from runtime.plan import bundle as bundles
from runtime.plan.fit import peak_bytes
from runtime.walking.net import open_bundle
from tests.runtime.disks import Disk, Killed
from tests.runtime.disturbed import sample
from tests.runtime.pushing import bundle_id, device_at, left, outputs, pushed, uploaded
from tests.runtime.threads import until

X = np.random.default_rng(5).standard_normal((2, 1, 4, 4)).astype(np.float32)


class Noting(Disk):
    """A disk on which nothing happens, and that notes the phase of the push at each operation.

    A phase is ``recorded`` once the journal names the new plan.
    """

    def __init__(self):
        super().__init__()
        self.device = None
        self.points = []

    def step(self, name, half=None):
        push = None if self.device is None else self.device.pushes._push
        word = "idle"
        if push is not None:
            word, home = push.phase.value, self.device._seat.net.home
            if home is not None and home.journal.standing.bundle == push.head.id:
                word = f"{word} recorded"
        self.points.append((word, name))
        return super().step(name, half)


def room(old, gap):
    return {"memory__weights_bytes": peak_bytes(old, 1, False) + 400} if gap else {}


def live(old, path, state, disk, policy="in-place", *, gap=False):
    """Open, push, close; the push's view, or the error that it ended with. None for a process that was killed."""
    view = device = None
    try:
        device = device_at(old, state, disk, policy=policy, **room(old, gap))
        disk.device = device
        view = uploaded(device, path)
        device.pushes.commit(view.id, allow_gap=gap)
        thread = device.pushes._thread
        until(lambda: device.pushes.view(view.id).outcome or disk.dead or not thread.is_alive())
        view = device.pushes.view(view.id)
    except Killed:
        return None
    except GeoshiftError as error:
        return error
    finally:
        if device is not None:
            close(device)
    return None if disk.dead else view


def close(device):
    """End a device's threads, whether its process was killed or not."""
    thread = device.pushes._thread
    if thread is not None:
        thread.join(60)
    try:
        device.close()
    except Killed:
        # What was killed has closed nothing; its threads end all the same.
        device._seat.net.close()
        device._events.close()
        for one in device._threads:
            one.join(60)


def points(old, path, state, policy="in-place", *, gap=False):
    """Every file operation of a push that nothing disturbs: phase and name; those of the opening are left out."""
    disk = Noting()
    disk.device = _Before
    live(old, path, state, disk, policy, gap=gap)
    return disk.points


class _Before:
    """While the device is being opened."""

    class pushes:
        _push = None


def numbers(found):
    """Numbers of the operations to disturb: one of each kind in each phase."""
    return [
        number for number in sample(found) if found[number - 1][0] != "idle" or found[number - 1][1] == "free_bytes"
    ]


def restart(old, path, state, policy="in-place"):
    """Start again after whatever happened: at the old plan or at the new one that was committed, and nothing between.

    Returns:
        Whether it is the new one.
    """
    new = bundle_id(path)
    known = load(state, Disk())
    with open_bundle(old.path, state=state, policy=policy) as net:
        assert net.bundle.id in (old.id, new)
        assert known is None or net.bundle.id == known.bundle
        is_new = net.bundle.id == new
        assert net.standing.release == (2 if is_new else 1)
        assert np.array_equal(net.infer(X), outputs(bundles.read(path) if is_new else old, X, net.mode, policy))
    assert left(state) == ([new] if is_new else [])
    assert len([*state.glob("weights-*")]) == (policy == "persistent")
    return is_new


def push_again(old, path, state, policy="in-place"):
    """After a restart, the same plan is pushed, or found to be at work."""
    net = open_bundle(old.path, state=state, policy=policy)
    net.close()
    with device_at(net.bundle, state, Disk(), policy=policy) as device:
        end = pushed(device, path) if device.bundle.id != bundle_id(path) else None
        assert end is None or end.outcome == "committed", end.reason
