"""Finished parts of long benchmarks, kept in the cache, so that a run that was stopped goes on.

A part is taken again only for the same setting and the same weights, and says at which commit and on what processor it
was measured: results that are put together from several runs stay honest about it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.frame import commit, machine, write_atomically
from planner.image_files import cache_directory


def folder() -> Path:
    """Where parts, and the bundles that belong to them, are kept."""
    return cache_directory() / "benchmarks"


def kept(name: str, setting: object, module: nn.Module | None, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part's figures with the commit that they were measured at, and the processor.

    Args:
        name: The part; also the file's.
        setting: What it was measured with; anything whose ``repr`` tells settings apart.
        module: The network that it was measured on, if one.
        work: Measures it.
    """
    path = folder() / f"{name}.json"
    made_of = {"setting": repr(setting), "weights": None if module is None else digest(module)}
    if path.exists():
        stored = json.loads(path.read_text())
        if "measured" in stored and all(stored.get(key) == value for key, value in made_of.items()):
            return {**stored["found"], **stored["measured"]}
    measured, found = {"commit": commit(), "processor": machine()["processor"]}, work()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({**made_of, "measured": measured, "found": found}))
    return {**found, **measured}


def digest(module: nn.Module) -> str:
    """SHA-256 of a network's weights."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(np.ascontiguousarray(tensor.numpy()).data)
    return found.hexdigest()
