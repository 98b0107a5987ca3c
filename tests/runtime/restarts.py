"""What a restart must find, told by a model of its own: rows one by one, in plain Python."""

from pathlib import Path

import numpy as np

from runtime.memory.journal import load
from runtime.memory.start import start
from runtime.memory.state_directory import StateDirectory
from runtime.memory.weight_memory import WeightMemory
from runtime.walking.bank import InPlaceBank
from runtime.walking.net import DeployedPlan, Net
from runtime.walking.operation import Outcome
from runtime.walking.table import Phase
from tests.runtime.bundles import profile
from tests.runtime.disks import Disk
from tests.runtime.nets import PACE, stands_at

DEVICE = profile(**PACE, bank__snap=False)


def writes(bundle, legs):
    """(layer, row, version) of every chunk of some legs, in order."""
    found = []
    for begin, end in legs:
        (chunks, back), *_ = [
            (move.chunks, move.ends != (begin, end)) for move in bundle.transitions if set(move.ends) == {begin, end}
        ]
        one = zip(chunks.layer, chunks.row, chunks.old if back else chunks.new, strict=True)
        found += list(one)[:: -1 if back else 1]
    return [(bundle.table.names[layer], int(row), int(version)) for layer, row, version in found]


def told(bundle, standing, announced=True):
    """The state that a record speaks of, the increment that it announces written or not."""
    walk = standing.walk
    state = {name: rows.copy() for name, rows in bundle.states[walk.at if walk else standing.mode].items()}
    if walk:
        for name, row, version in writes(bundle, walk.legs)[: walk.intended if announced else walk.position]:
            state[name][row] = version
    return state


def key(state):
    return b"".join(state[name].tobytes() for name in sorted(state))


def legal(bundle):
    """Every state on a path of the plan."""
    found = set()
    for move in bundle.transitions:
        found |= {key(move.chunks.state_at(bundle.states[move.ends[0]], at)) for at in range(len(move.chunks) + 1)}
    return found


def untouched_but_announced(bundle, home, standing):
    """Before any repair: rows that nobody had announced hold what the journal says, bit for bit."""
    memory = WeightMemory(home.weights(bundle.id), bundle.table, bundle.id, home.files)
    walk = standing.walk
    announced = set()
    if walk:
        announced = {(name, row) for name, row, _ in writes(bundle, walk.legs)[walk.position : walk.intended]}
    odd = memory.differing(told(bundle, standing, announced=False))
    assert {(name, int(row)) for name, rows in odd.items() for row in rows} <= announced


def restart(bundle, path, policy):
    """Start again after whatever happened; check where it begins, where it ends, and that it works.

    Returns:
        What the journal said; None if it had not begun.
    """
    standing = load(Path(path), Disk())
    home = StateDirectory(path, Disk())
    if standing is not None and standing.persistent and not standing.restoring:
        untouched_but_announced(bundle, home, standing)
    state = bundle.states["C1"] if standing is None else told(bundle, standing)
    assert key(state) in legal(bundle)
    begin = start(bundle, policy, DeployedPlan(bundle, DEVICE, policy).route, home, migrate=False)
    tensors = begin.memory.tensors if begin.memory else InPlaceBank(bundle.table, begin.place.state, dict)._tensors
    expected = bundle.table.tensors(state)
    assert all(np.array_equal(tensors[name].view(np.int32), expected[name].view(np.int32)) for name in expected)
    home.close()
    with Net(bundle, DEVICE, policy, home=StateDirectory(path, Disk())) as net:
        mode = "C1" if standing is None else standing.mode
        if standing is not None and standing.walk is not None:
            assert net.recovery.wait(30).outcome is Outcome.COMMITTED
            assert net.mode in (mode, standing.walk.target)
        else:
            assert net.recovery is None
            assert net.mode == mode
        assert (net.phase, net.standing.walk) == (Phase.IDLE, None)
        assert stands_at(net, net.mode)
        wanted = "C3" if net.mode == "C1" else "C1"
        assert net.switch(wanted).wait(30).outcome is Outcome.COMMITTED
        assert stands_at(net, wanted)
    return standing
