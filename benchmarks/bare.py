"""Runs a part of a benchmark in a fresh interpreter that has loaded nothing but the runtime.

What is resident in it is a device's, and not PyTorch's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DESKTOP = ("torch", "planner", "matplotlib", "onnx")


def call(module: str, **arguments: Any) -> dict[str, Any]:
    """Run ``python -m MODULE`` with arguments as JSON; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(arguments)], cwd=ROOT, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"python -m {module} {arguments}: found exit status {done.returncode}, expected 0")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def answer(work: Callable[..., dict[str, Any]]) -> None:
    """The other end: call ``work`` with the arguments that were given, and print what it returns."""
    found = work(**json.loads(sys.argv[1]))
    loaded = [name for name in DESKTOP if name in sys.modules]
    assert not loaded, f"{loaded} were loaded, and would be measured too"
    print(json.dumps(found))
