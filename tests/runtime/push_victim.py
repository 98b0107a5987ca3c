"""A process that pushes to a device of its own until it kills itself: ``python -m tests.runtime.push_victim OLD NEW
STATE NUMBER``, NUMBER being the file operation at which it does.
"""

import os
import signal
import sys
from pathlib import Path

from runtime.plan import bundle as bundles
from tests.runtime.disks import Disk
from tests.runtime.push_disturbed import live


class Deadly(Disk):
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    live(bundles.read(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Deadly(int(sys.argv[4])))
