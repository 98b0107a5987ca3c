"""The page of a played trace: one HTML file that needs nothing beside itself, its pictures, and its windows as CSV."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from runtime.plan.bundle import Bundle
from runtime.reporting.inspection import ASSUMED
from runtime.reporting.report import STRATEGIES, ReportUnavailable, check_available, write_whole
from runtime.simulation.choosing import RULE
from runtime.simulation.result import TraceResult, as_json
from runtime.simulation.trace import Trace

TEMPLATE: Final = "page.html.j2"
PAGE: Final = "trace.html"
JSON: Final = "trace.json"
CSV: Final = "trace.csv"


def write_page(output: Path, bundle: Bundle, trace: Trace, result: TraceResult, *, guard: int = 0) -> Path:
    """Write ``trace.html``, ``trace.json``, ``trace.csv`` and the pictures as PNG.

    Args:
        output: Directory; made if it is missing. Files of an earlier page are replaced, others left alone.
        bundle: The plan that was played.
        trace: What was played.
        result: What came of it, with its windows.
        guard: Increments between two questions of the guard on the way; 0 for none.

    Returns:
        The page.

    Raises:
        ReportUnavailable: See ``runtime.reporting.report.check_available``, or no strategy was played; nothing is
            written then.
    """
    check_available(output)
    if not result.strategies:
        reasons = "; ".join(f"{name}: {why}" for name, why in result.left_out.items())
        raise ReportUnavailable(f"page: found no strategy that was played ({reasons}), expected at least one")
    from runtime.reporting.canvas import Look
    from runtime.simulation import pictures as draw

    looks = {
        f"{'narrow' if narrow else 'wide'}_{'dark' if dark else 'light'}": Look(narrow=narrow, dark=dark)
        for narrow in (False, True)
        for dark in (False, True)
    }
    pictures = {
        "happenings": {key: draw.happenings(look, result, trace) for key, look in looks.items()},
        "over_time": {key: draw.over_time(look, result) for key, look in looks.items()},
        "costs": {key: draw.costs(look, result) for key, look in looks.items()},
    }
    page = _render(bundle, trace, result, pictures, guard)
    output.mkdir(parents=True, exist_ok=True)
    for name, variants in pictures.items():
        write_whole(output / f"trace-{name.replace('_', '-')}.png", variants["wide_light"])
    write_whole(output / JSON, json.dumps(as_json(result), indent=1, ensure_ascii=False, allow_nan=False).encode())
    write_whole(output / CSV, as_csv(result).encode())
    write_whole(output / PAGE, page.encode())
    return output / PAGE


def as_csv(result: TraceResult) -> str:
    """The windows of all strategies, a row a strategy and window."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    columns = (
        "at_s", "requests", "answered", "accuracy", "dense_accuracy", "wrong_by_transition", "late", "refused",
        "p50_ms", "p99_ms", "macs", "watts", "position",
    )  # fmt: skip
    # The last one names those before it that rest on an assumed figure.
    table.writerow(("strategy", *columns, "assumed"))
    assumed = " ".join(name for name in columns if name in result.assumed)
    for name, outcome in result.strategies.items():
        if outcome.series is None:
            continue
        values = [getattr(outcome.series, column) for column in columns]
        for row in zip(*values, strict=True):
            table.writerow((name, *("" if cell is None else cell for cell in row), assumed))
    return text.getvalue()


def _render(
    bundle: Bundle, trace: Trace, result: TraceResult, pictures: Mapping[str, Mapping[str, bytes]], guard: int
) -> str:
    """The page; everything that comes from the plan, the profile or the trace is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    space = "\N{NO-BREAK SPACE}"
    environment.filters |= {
        "kb": lambda count: f"{count / 1e3:,.0f}{space}kB",
        "s": lambda seconds: f"{seconds:,.1f}{space}s",
        "ms": lambda value: f"{value:,.3g}{space}ms",
        "n": lambda count: f"{count:,}",
        "share": lambda fraction: f"{100 * fraction:.1f}{space}%",
        "points": lambda value: f"{value:.2f}",
        "j": lambda value: "unknown" if value is None else f"{value:,.3g}{space}J",
        "num": lambda value: f"{value:,.10g}",
    }
    dense_macs = bundle.manifest.modes[0].macs
    return environment.get_template(TEMPLATE).render(
        model=bundle.manifest.model,
        dense=bundle.manifest.modes[0].name,
        dense_macs=dense_macs,
        trace=trace,
        result=result,
        outcomes=result.strategies,
        rule=RULE,
        sentences={**STRATEGIES, "planned": _planned(bundle)},
        canary=len(bundle.canary),
        guard=guard,
        watts=any(one is not None for out in result.strategies.values() if out.series for one in out.series.watts),
        star=lambda *names: ASSUMED if {*names} & {*result.assumed} else "",
        assumed=[one for one in result.assumptions if one.provenance == "assumed"],
        pictures={
            name: {key: "data:image/png;base64," + base64.b64encode(raw).decode() for key, raw in variants.items()}
            for name, variants in pictures.items()
        },
    )


def _planned(bundle: Bundle) -> str:
    """What the plan stores."""
    moves = ", ".join(
        f"{move.entry.from_} → {move.entry.to} {move.entry.strategy}{' in blocks' if move.entry.blocks else ''}"
        for move in bundle.transitions
    )
    return f"The path that the plan stores for each transition, walked in either direction: {moves}."
