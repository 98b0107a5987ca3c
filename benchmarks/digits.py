"""The demo's network, planned as the demo plans it: small, and quick to have."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.networks import trained
from benchmarks.parts import digest, folder, kept
from device_profiles import loader
from planner.datasets import load
from planner.demo import DATA, MODEL, PROFILE
from planner.options import Options
from planner.plan import make_plan
from runtime.plan.bundle import Bundle, read

console = Console(stderr=True)


def plan(seed: int) -> Bundle:
    """The bundle of a seed; kept in the cache."""
    module = trained(MODEL, load(DATA), seed)
    # Less evidence than in the demo: what is measured here is how a device walks.
    options = Options(seed=seed, probes=16, certified=0)
    name = f"digits-tour-{hashlib.sha256(f'{options}{digest(module)}'.encode()).hexdigest()[:12]}"
    path: Path = folder() / name
    if not path.exists():
        (folder() / f"{name}.json").unlink(missing_ok=True)

    def work() -> dict[str, Any]:
        console.print(f"planning the demo's tour, seed {seed}")
        made = make_plan(module, MODEL, load(DATA), loader.load(PROFILE), path, options=options, replace=True)
        return {"planning_seconds": made.planning.seconds}

    kept(name, options, module, work)
    return read(path)
