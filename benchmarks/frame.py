"""What every benchmark shares: seeds in, claims with bars out, as JSON and a picture.

``python -m benchmarks.NAME`` writes ``benchmarks/results/NAME.json`` and ``NAME.png``; ``--quick`` tries the wiring in
under two minutes and writes to ``benchmarks/quick/``. A claim that misses its bar is written with ``ok: false``.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent
OPERATORS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


@dataclass(frozen=True)
class Claim:
    """A figure and the bar it has to meet.

    Attributes:
        name: What it is.
        value: The worst over the seeds unless the name says otherwise.
        unit: Its unit.
        op: How it must compare with the bar: ``<=``, ``>=`` or ``==``.
        bar: The bar.
        spread: The figure of each seed.
    """

    name: str
    value: float
    unit: str
    op: str
    bar: float
    spread: list[float] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the bar is met."""
        return bool(OPERATORS[self.op](self.value, self.bar))


@dataclass(frozen=True)
class Findings:
    """What a benchmark returns."""

    seeds: list[int]
    claims: list[Claim]
    rivals: dict[str, Any]
    data: dict[str, Any]
    picture: Figure


def main(name: str, run: Callable[[bool], Findings], cases: Mapping[str, Callable[[], object]] | None = None) -> int:
    """Run a benchmark from the command line.

    Args:
        name: Its module's name.
        run: Does the work; called with whether it is to be quick.
        cases: Parts of the work that can be measured one at a time, and are kept until all are put together.

    Returns:
        Exit status: 0 when all bars are met, 1 when one is missed. The bars are not for a quick run, which ends with 0.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--quick", action="store_true", help="try the wiring only; writes to benchmarks/quick")
    parser.add_argument("--out", type=Path, help="folder to write to instead")
    if cases:
        words = "measure this case, keep it, and write no results; may be given again"
        parser.add_argument("--case", action="append", choices=list(cases), help=words)
    arguments = parser.parse_args()
    if cases and arguments.case:
        for case in arguments.case:
            cases[case]()
        return 0
    quick = arguments.quick
    begun, measured = time.monotonic(), commit()
    found = run(quick)
    folder = arguments.out or ROOT / ("quick" if quick else "results")
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "command": f"python -m benchmarks.{name}" + (" --quick" if quick else ""),
        "commit": measured,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": found.seeds,
        "seconds": round(time.monotonic() - begun, 1),
        "claims": [{**asdict(claim), "ok": claim.ok} for claim in found.claims],
        "rivals": found.rivals,
        "data": found.data,
    }
    write_atomically(folder / f"{name}.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    found.picture.savefig(folder / f"{name}.png", dpi=110)
    table = Table("claim", "value", "bar", "spread over seeds", title=name, box=None)
    for claim in found.claims:
        mark = "[green]✓[/]" if claim.ok else "[red]✗[/]"
        spread = ", ".join(f"{value:.4g}" for value in claim.spread)
        table.add_row(f"{mark} {claim.name}", f"{claim.value:.4g} {claim.unit}", f"{claim.op} {claim.bar:g}", spread)
    Console().print(table)
    print(os.path.relpath(folder / f"{name}.json"))
    return 0 if quick or all(claim.ok for claim in found.claims) else 1


def commit() -> str:
    """The commit that is measured, marked when the tree has changed since."""
    root = ROOT.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)  # noqa: S607
        # Files that are not in git cannot tell two measurements of one commit apart; the results written here would.
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results"],  # noqa: S607
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def machine() -> dict[str, Any]:
    """What was measured on, without names that tell one machine from another."""
    return {
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": sys.version.split()[0],
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor() or "unknown"
    names = [
        line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    return names[0] if names else "unknown"


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
