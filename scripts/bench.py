"""Runs the short form of every benchmark, two at a time: ``python -m scripts.bench``, or ``make bench``.

It tries the wiring: that a benchmark goes the whole way and writes its figures. The figures of a short run mean
nothing, no bar counts, and they go to ``benchmarks/quick``; those in ``benchmarks/results`` stay as they are.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
BENCHMARKS: Final = ROOT / "benchmarks"
LIMIT_S: Final = 300.0
"""For one benchmark, which is to be over in three minutes."""
TOTAL_S: Final = 900.0
"""For all of them: what has not begun by then counts as broken."""
AT_ONCE: Final = 2
"""One a core on a small machine; the figures mean nothing, so they may disturb each other."""
CHECKPOINT: Final = "GEOSHIFT_VGG11"
"""Names a trained VGG-11: no short form can make one in minutes."""


def names(folder: Path = BENCHMARKS) -> tuple[str, ...]:
    """Benchmarks that have a short form: modules that hand a ``run`` to ``frame.main``."""
    found = re.compile(r"^(    )?sys\.exit\(main\(\"\w+\", \w+", re.MULTILINE)
    return tuple(sorted(path.stem for path in folder.glob("*.py") if found.search(path.read_text(encoding="utf-8"))))


def needs_checkpoint(name: str, folder: Path = BENCHMARKS) -> bool:
    """Whether a short form needs VGG-11, trained."""
    return "vgg.QUICK" in (folder / f"{name}.py").read_text(encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; exit status 1 if one breaks or takes too long."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench")
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--list", action="store_true", help="say which there are, and run none")
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "quick", help="folder to write to")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(names()))
        return 0
    if unknown := sorted(set(given.names) - set(names())):
        print(f"{unknown[0]}: found no such benchmark, expected one of {', '.join(names())}", file=sys.stderr)
        return 2
    wanted = []
    for name in given.names or names():
        if needs_checkpoint(name) and not os.environ.get(CHECKPOINT):
            print(f"{name:12} left out: set {CHECKPOINT} to a trained VGG-11", flush=True)
        else:
            wanted.append(name)
    until = time.monotonic() + TOTAL_S

    def tried(name: str) -> str:
        begun = time.monotonic()
        why = _run(name, given.out, min(LIMIT_S, until - begun))
        print(f"{name:12} {why or 'done'} in {time.monotonic() - begun:.0f} s", flush=True)
        return why

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = dict(zip(wanted, pool.map(tried, wanted), strict=True))
    if broken := [name for name, why in ends.items() if why]:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _run(name: str, out: Path, limit_s: float) -> str:
    """Run one; what went wrong, empty for nothing."""
    if limit_s <= 0:
        return f"not begun: all took more than {TOTAL_S:.0f} s"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", str(out)]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
            timeout=limit_s,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return f"stopped: it took more than {limit_s:.0f} s"
    if done.returncode:
        print(done.stdout)
        return f"failed with status {done.returncode}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
