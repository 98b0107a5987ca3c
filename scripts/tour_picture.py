"""The README's picture, made from what the benchmark `fig2d` wrote: accuracy in every state of a tour, by strategy.

An SVG of text, so that it is sharp at any width and takes the reader's light or dark colours.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from device_profiles import GeoshiftError

RESULTS: Final = Path(__file__).parent.parent / "benchmarks" / "results"
WIDTH: Final = 860
HEIGHT: Final = 380
LEFT: Final = 58
RIGHT: Final = 148
TOP: Final = 46
BOTTOM: Final = 62
SEED: Final = 0
"""Whose tour is drawn; the others look alike, and the text has the range."""
STYLES: Final = {
    "planned": "planned", "linear": "line, 10 points", "naive": "layer by layer", "zero-first": "zeros first"
}  # fmt: skip
"""What the strategies are called in the picture."""
MARKS: Final = 2.4
"""Radius of a state, in pixels."""
_CSS: Final = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .title { font-weight: 600 } .small { font-size: 12px }
  .axis { stroke: #888; stroke-width: 1 } .grid { stroke: #888; stroke-width: 1; opacity: .25 }
  path { fill: none; stroke-width: 1.6 } .planned path { stroke-width: 3 }
  .planned { color: #0a7d4f } .linear { color: #b06a00 } .naive { color: #c2255c } .zero-first { color: #6741d9 }
  path { stroke: currentColor } circle { fill: currentColor } .name { fill: currentColor; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .planned { color: #3ddc97 } .linear { color: #ffb454 } .naive { color: #ff7eb0 }
    .zero-first { color: #b197fc } .name { fill: currentColor }
  }
"""


class PictureError(GeoshiftError):
    """A benchmark's results are not what the picture needs."""


def picture(results: Path = RESULTS) -> str:
    """The picture as SVG.

    Args:
        results: Folder of the benchmarks' JSON files.

    Raises:
        PictureError: The file is missing, or lacks a figure.
    """
    path = results / "fig2d.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["data"]["per_seed"][SEED]
        return _drawn(found["tours"], 100 * found["modes"]["C1"]["accuracy"])
    except (OSError, KeyError, IndexError) as error:
        raise PictureError(f"{path}: found no figure {error}, expected it: run the benchmark again") from error


def _drawn(tours: dict[str, list[dict[str, Any]]], dense: float) -> str:
    legs = ["C1", "C2", "C3", "C4", "C1"]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="what">',
        '<title id="what">Accuracy of VGG-11 in every measured state of a tour through four power modes: the planned '
        "order of writes stays at the top, other orders fall to chance on the way.</title>",
        f"<style>{_CSS}</style>",
        f'<text class="title" x="{LEFT}" y="22">Right answers while VGG-11’s weights are rewritten in place, %</text>',
    ]
    for percent in (0, 20, 40, 60, 80):
        y = _y(percent)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text class="small" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{percent}</text>')
    for place, mode in enumerate(legs):
        x = _x(place)
        lines.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
        lines.append(f'<text x="{x}" y="{bottom + 20}" text-anchor="middle">{mode}</text>')
    says = "share of each transition’s writes done; dots: a write torn in the middle"
    lines.append(f'<text class="small" x="{(LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{says}</text>')
    names = []
    for name in ("zero-first", "naive", "linear", "planned"):
        lines.append(f'<g class="{name}">')
        whole = sorted((one["at"], dense - one["drop"]) for one in tours[name] if one["kind"] == "whole")
        points = [(at, min(value for _, value in group)) for at, group in groupby(whole, key=lambda one: one[0])]
        steps = " L".join(f"{_x(at)} {_y(value)}" for at, value in points)
        lines.append(f'<path d="M{steps}"/>')
        torn = [one for one in tours[name] if one["kind"] == "torn"]
        lines += [f'<circle cx="{_x(one["at"])}" cy="{_y(dense - one["drop"])}" r="{MARKS}"/>' for one in torn]
        worst = max(one["drop"] for one in tours[name])
        names.append((name, f"{STYLES[name]}", f"worst {dense - worst:.1f} %"))
        lines.append("</g>")
    for row, (name, title, worst) in enumerate(reversed(names)):
        y = TOP + 18 + 46 * row
        lines.append(f'<g class="{name}"><text class="name" x="{right + 14}" y="{y}">{title}</text></g>')
        lines.append(f'<text class="small" x="{right + 14}" y="{y + 17}">{worst}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _x(at: float) -> float:
    """Where a share of the tour is, 0 to 4."""
    return round(LEFT + (WIDTH - LEFT - RIGHT) * at / 4, 1)


def _y(percent: float) -> float:
    """Where an accuracy is."""
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * percent / 90, 1)
