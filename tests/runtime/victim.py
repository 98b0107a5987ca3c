"""A process that walks until it is killed: ``python -m tests.runtime.victim BUNDLE STATE POLICY NUMBER WAY``.

With a number it kills itself at that file operation of one walk, before it or half through it. Without one (0) it walks
round and round, writes a dot before each file operation, and somebody else kills it.
"""

import os
import signal
import sys
from itertools import cycle

from runtime.memory.state_directory import StateDirectory
from runtime.plan import bundle as bundles
from runtime.walking.net import Net
from tests.runtime.disks import Disk
from tests.runtime.restarts import DEVICE


class Deadly(Disk):
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Telling(Disk):
    def step(self, name, half=None):
        os.write(sys.stdout.fileno(), b".")
        return super().step(name, half)


def main(bundle, state, policy, number, way):
    disk = Deadly(int(number), way) if int(number) else Telling()
    with Net(bundles.read(bundle), DEVICE, policy, home=StateDirectory(state, disk)) as net:
        if net.recovery is not None:
            net.recovery.wait()
        for mode in ("C2",) if int(number) else cycle(["C2", "C3", "C1"]):
            net.switch(mode).wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
