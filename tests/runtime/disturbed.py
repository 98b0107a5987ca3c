"""Walks that something disturbs: a network is opened on a disk, walks, and is closed, however far it comes."""

from device_profiles.errors import GeoshiftError
from runtime.errors import IllegalEvent
from runtime.memory.files import Files
from runtime.memory.journal import load
from runtime.memory.state_directory import StateDirectory
from runtime.walking.net import Net
from tests.runtime.disks import Disk, Killed
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


class Noting(Disk):
    """A disk on which nothing happens, and that notes what the journal speaks of before each operation.

    ``states`` has a word an operation: ``nothing`` before there is a journal, ``rest``, or the phase of the walk.
    """

    def __init__(self, folder):
        super().__init__()
        self._folder = folder
        self.states = []

    def step(self, name, half=None):
        self.states.append(said(load(self._folder, Files())))
        return super().step(name, half)


def said(standing):
    """What a journal speaks of, in a word."""
    if standing is None:
        return "nothing"
    return standing.walk.phase if standing.walk else "rest"


def operations(bundle, path, policy, walk):
    """Every file operation of a walk that nothing disturbs, in order: state and name."""
    disk = Noting(path)
    live(bundle, path, policy, walk, disk)
    return list(zip(disk.states, disk.names, strict=True))


def sample(found):
    """Numbers, from 1, of some operations: of each kind in each state the one in the middle."""
    places = {}
    for number, one in enumerate(found, 1):
        places.setdefault(one, []).append(number)
    return sorted(numbers[len(numbers) // 2] for numbers in places.values())


def ways(name):
    """How a process can be killed at an operation: before it, and within it where it has parts."""
    return ("kill", "half") if name in ("write", "store") else ("kill",)


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


def tear(bundle, path):
    """Leave persistent weights with a row that is half written, in the middle of a walk."""
    found = operations(bundle, path.with_name(f"{path.name}-whole"), "persistent", "commit")
    rows = [number for number, (_, name) in enumerate(found, 1) if name == "store"]
    live(bundle, path, "persistent", "commit", Disk(rows[len(rows) // 2], "half"))


def recover(bundle, path, disk):
    """Open again and let the walk come to its end, if it can."""
    try:
        with Net(bundle, DEVICE, "persistent", home=StateDirectory(path, disk)) as net:
            until(lambda: net.recovery.result is not None or not net._controller._thread.is_alive())
    except (Killed, GeoshiftError):
        return
