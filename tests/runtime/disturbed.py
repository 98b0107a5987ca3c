"""Walks that something disturbs: a network is opened on a disk, walks, and is closed, however far it comes."""

from device_profiles.errors import GeoshiftError
from runtime.errors import IllegalEvent
from runtime.net import Net
from runtime.state_directory import StateDirectory
from tests.runtime.disks import Killed
from tests.runtime.restarts import DEVICE
from tests.runtime.threads import until

AT = 12
"""File operation after the opening at which a caller changes its mind: in the middle of the walk."""


def commit(net, disk):
    return net.switch("C2")


def cancel(net, disk):
    disk.acts[disk.count + AT] = lambda: _signal(net._controller._current.cancel)
    return net.switch("C3")


def turn(net, disk):
    found = []
    disk.acts[disk.count + AT] = lambda: found.append(_signal(net._controller._current.retarget, "C2"))
    operation = net.switch("C3")
    until(lambda: found or operation.result or disk.dead)
    return found[0] if found and found[0] else operation


def _signal(act, *arguments):
    """Act on an operation, if a failing disk has not turned it back already."""
    try:
        return act(*arguments)
    except IllegalEvent:
        return None


def reject(net, disk):
    net._plan.canary = lambda runner: "canary: found 0 right answers, expected 16"
    return net.switch("C2")


WALKS = {"commit": commit, "cancel": cancel, "retarget": turn, "reject": reject}


def live(bundle, path, policy, walk, disk):
    """Open, walk, close; the operation, or the error that nothing could be opened for."""
    net = operation = None
    try:
        net = Net(bundle, DEVICE, policy, home=StateDirectory(path, disk))
        net._recorder._interval_s = 0.0  # a checkpoint after each increment
        operation = WALKS[walk](net, disk)
        until(lambda: operation.result is not None or not net._controller._thread.is_alive())
        net.close()
    except Killed:
        return None
    except GeoshiftError as error:
        return error
    return operation
