"""Processes that walk until they are killed, and what they leave."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.runtime.disturbed import said
from tests.runtime.restarts import restart
from tests.runtime.threads import PATIENCE_S


def victim(bundle, path, policy, number=0, way="kill"):
    """Start one; with a number it kills itself at that operation."""
    command = [sys.executable, "-m", "tests.runtime.victim", bundle.path, path, policy, number, way]
    root = Path(__file__).parents[2]
    return subprocess.Popen([*map(str, command)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def killed_at_random(bundle, path, policy, times, seed=0):
    """Kill a process that walks round and round, again and again in one directory; states that were found."""
    seen, chance = Counter(), random.Random(seed)
    for _ in range(times):
        child = victim(bundle, path, policy)
        assert child.stdout.read(chance.randint(20, 400))  # it is somewhere behind that when we have read it
        child.kill()
        child.communicate(timeout=PATIENCE_S)
        seen[said(restart(bundle, path, policy))] += 1
    return seen
