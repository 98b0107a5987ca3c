"""The table of docs/profiles.md that says what the demo comes to on each device, from a benchmark's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "profiles.json"


def table(results: Path = RESULTS) -> str:
    """Markdown: a row for each built-in device."""
    if not results.exists():
        return "Not measured yet."
    data = json.loads(results.read_text(encoding="utf-8"))["data"]
    lines = [
        "| device | C1 / C2 / C3 / C4 | worst state | written | in | joules | walks until worn out | VGG-11 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, per_seed in data["devices"].items():
        size = "does not fit" if data["vgg11"][name] else "fits"
        reasons = [one["refused"] for one in per_seed if one["refused"]]
        if reasons:
            lines.append(f"| `{name}` | refused: {reasons[0]} | | | | | | {size} |")
        else:
            lines.append(f"| `{name}` | {' | '.join(_cells(per_seed))} | {size} |")
    return "\n".join(lines)


def scales_table(results: Path = RESULTS) -> str:
    """Markdown: what scales that are powers of two cost beside free ones, a row for each."""
    if not results.exists() or not (found := json.loads(results.read_text(encoding="utf-8"))["data"].get("scales")):
        return "Not measured yet."
    lines = ["| weights and scales | C1 / C2 / C3 / C4 | worst state |", "|---|---|---|"]
    lines += [f"| {name} | {' | '.join(_cells(per_seed)[:2])} |" for name, per_seed in found.items()]
    return "\n".join(lines)


def _cells(per_seed: list[dict[str, Any]]) -> tuple[str, ...]:
    modes = per_seed[0]["accuracy"]
    means = (100 * sum(one["accuracy"][mode] for one in per_seed) / len(per_seed) for mode in modes)
    worst = [one["worst_drop_points"] for one in per_seed]
    guessed = {name for one in per_seed for name in one["assumed"]}

    def word(key: str, field: str, scale: float, unit: str) -> str:
        """Mean over the seeds, starred where an assumed figure is in it."""
        values = [one[key] for one in per_seed]
        if None in values:
            return "not known"
        mean = scale * sum(values) / len(values)
        shown = _seconds(mean) if unit == " s" else f"{float(f'{mean:.3g}'):,g}{unit}"
        return shown + ("*" if field in guessed else "")

    return (
        " / ".join(f"{mean:.1f}" for mean in means) + " %",
        f"{min(worst):.1f} to {max(worst):.1f}",
        word("bytes", "bytes", 1e-3, " kB"),
        word("seconds", "seconds", 1, " s"),
        word("joules", "joules", 1e3, " mJ"),
        word("transitions_left", "transitions_left", 1, ""),
    )


def _seconds(seconds: float) -> str:
    """In the unit that suits; 0 where a device writes it in one increment and no bandwidth is known."""
    if not seconds:
        return "at once"
    for limit, unit in ((1.0, "s"), (1e-3, "ms"), (0.0, "µs")):
        if seconds >= limit:
            return f"{float(f'{seconds / (limit or 1e-6):.2g}'):g} {unit}"
    raise AssertionError("seconds are not negative")
