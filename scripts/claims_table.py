"""What the benchmarks claim, from what they wrote: each bar, our figure, the best rival's, and whether it is met."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from device_profiles import GeoshiftError

RESULTS: Final = Path(__file__).parent.parent / "benchmarks" / "results"
NONE: Final = "–"
HEAD: Final = f"""# Results

Made from [`benchmarks/results`](../benchmarks/results) by `make docs`. A figure is the worst over the seeds, unless the
claim speaks of a mean; each file has the figure of every seed, the rivals, the machine, the commit and the command. The
best rival is the one with the best figure of those that the file has under the claim's own name; {NONE} where there is
none. What a bar means, and where a simpler way wins, is in the module of the same name in `benchmarks/`, and in
[measured.md](measured.md).
"""
_LEVEL: Final = re.compile(r"(?P<level>\d+ %) sparse, (?P<way>[a-z-]+), mean .*drop")
"""Claims of figure 2C, whose rivals are sorted by level."""


class ClaimsError(GeoshiftError):
    """A benchmark's results are not what the table needs."""


@dataclass(frozen=True)
class Row:
    """One claim, as the table has it."""

    benchmark: str
    claim: str
    bar: str
    ours: str
    rival: str
    met: bool


def rows(results: Path = RESULTS) -> tuple[Row, ...]:
    """All claims of all benchmarks, in the order of their names.

    Raises:
        ClaimsError: A file lacks a figure.
    """
    found: list[Row] = []
    for path in sorted(results.glob("*.json")):
        try:
            found += _rows(path.stem, json.loads(path.read_text(encoding="utf-8")))
        except (KeyError, IndexError, TypeError) as error:
            raise ClaimsError(f"{path}: found no figure {error}, expected it: run the benchmark again") from error
    return tuple(found)


def page(results: Path = RESULTS) -> str:
    """The page of results."""
    found = rows(results)
    lines = [HEAD, f"{sum(row.met for row in found)} of {len(found)} bars are met."]
    for name in dict.fromkeys(row.benchmark for row in found):
        lines += [
            "",
            f"## [{name}](../benchmarks/results/{name}.json)",
            "",
            "| claim | bar | ours | best rival | met |",
        ]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {row.claim} | {row.bar} | {row.ours} | {row.rival} | {'yes' if row.met else '**no**'} |"
            for row in found
            if row.benchmark == name
        ]
    return "\n".join(lines) + "\n"


def short(results: Path = RESULTS) -> str:
    """One line a benchmark, and the bars that are missed."""
    lines = ["| benchmark | bars met | missed: bar, ours |", "|---|---|---|"]
    found = rows(results)
    for name in dict.fromkeys(row.benchmark for row in found):
        own = [row for row in found if row.benchmark == name]
        missed = "; ".join(f"{row.claim}: {row.bar}, {row.ours}" for row in own if not row.met)
        link = f"[{name}](benchmarks/results/{name}.json)"
        lines.append(f"| {link} | {sum(row.met for row in own)} of {len(own)} | {missed or NONE} |")
    return "\n".join(lines)


def _rows(benchmark: str, record: dict[str, Any]) -> Iterator[Row]:
    for claim in record["claims"]:
        unit = f" {claim['unit']}" if claim["unit"] else ""
        yield Row(
            benchmark=benchmark,
            claim=claim["name"].replace("_", " "),
            bar=f"{ {'<=': '≤', '>=': '≥', '==': '='}[claim['op']] } {claim['bar']:g}{unit}",
            ours=_number(claim["value"]),
            rival=_best_rival(claim, record["rivals"]),
            met=claim["ok"],
        )


def _best_rival(claim: dict[str, Any], rivals: dict[str, Any]) -> str:
    """The rival with the best figure for a claim, each with its worst over the seeds."""
    low_is_good = claim["op"] == "<="
    found: dict[str, float] = {}
    for name, rival in rivals.items():
        if name != "ours" and (figures := _figures(claim["name"], rival)):
            found[name] = max(figures) if low_is_good else min(figures)
    if not found:
        return NONE
    best = (min if low_is_good else max)(found, key=lambda name: found[name])
    return f"{_number(found[best])}, {best}"


def _figures(claim: str, rival: object) -> Sequence[float]:
    """A rival's figures for a claim, a seed each; none where it has none under that name."""
    if not isinstance(rival, dict):
        return ()
    if (level := _LEVEL.fullmatch(claim)) is not None:
        way = rival.get(level["level"], {}).get(level["way"], {})
        return [way["mean_drop_points"]] if "mean_drop_points" in way else ()  # the claim is a mean too
    value = rival.get(claim)
    if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
        return value
    return [value] if isinstance(value, int | float) else ()


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.2g}" if abs(value) < 0.001 else f"{round(value, 3 if abs(value) < 10 else 1):g}"
