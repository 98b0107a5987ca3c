"""Paper and pens of all pictures; the one file that imports matplotlib.

Only figure objects are used: no pyplot, no window, no state that two reports in one process would share.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

# fmt: off
__all__ = [
    "NARROW_IN", "OTHER", "WIDE_IN", "Axes", "Figure", "FixedLocator", "FuncFormatter", "Look", "MaxNLocator",
    "NullLocator", "Pen", "frame", "panels", "pen_of", "png",
]
# fmt: on

WIDE_IN: Final = 9.6
"""A browser shows 96 pixels to the inch: 920 pixels, the width of the page's column."""
NARROW_IN: Final = 3.75
"""360 pixels, a phone."""


@dataclass(frozen=True)
class Look:
    """Where a picture is shown.

    Attributes:
        narrow: On a phone; pictures are drawn anew for it instead of shrunk, so that words keep their size.
        dark: On a dark page.
    """

    narrow: bool = False
    dark: bool = False

    @property
    def ink(self) -> str:
        """Colour of words."""
        return "#e6e6e6" if self.dark else "#1c1c1c"

    @property
    def faint(self) -> str:
        """Colour of grids."""
        return "#4a4f55" if self.dark else "#d4d4d4"

    @property
    def paper(self) -> str:
        """Colour behind everything."""
        return "#16191d" if self.dark else "#ffffff"

    @property
    def words(self) -> dict[str, Any]:
        """Colour and size of words, for matplotlib."""
        return {"color": self.ink, "fontsize": 9.5 if self.narrow else 11}

    @property
    def label(self) -> dict[str, Any]:
        """Words beside a mark, readable on top of lines, for matplotlib."""
        box = {"facecolor": self.paper, "alpha": 0.75, "linewidth": 0, "pad": 1}
        return {"textcoords": "offset points", "va": "center", "zorder": 6, "bbox": box, **self.words}

    def figure(self, height_in: float) -> Figure:
        """An empty figure of the right width."""
        width = NARROW_IN if self.narrow else WIDE_IN
        return Figure(figsize=(width, height_in), facecolor=self.paper, layout="constrained")


@dataclass(frozen=True)
class Pen:
    """How a strategy is drawn: colour (on white, on black), dashes and marker each tell it apart."""

    colors: tuple[str, str]
    dashes: tuple[float, ...] | None
    marker: str
    width: float = 1.8

    def color(self, look: Look) -> str:
        """Colour on this paper."""
        return self.colors[look.dark]

    def line(self, look: Look) -> dict[str, Any]:
        """Colour, width and dashes, for matplotlib."""
        style = "-" if self.dashes is None else (0, self.dashes)
        return {"color": self.color(look), "linewidth": self.width, "linestyle": style}


# The colours of Okabe and Ito without yellow, which white paper swallows, and a grey; jfly.uni-koeln.de/color.
_PENS: Final = {
    "ordered": Pen(("#0072B2", "#3d9fdb"), None, "o", 2.8),
    "ramp": Pen(("#56B4E9", "#8fd0f5"), (7, 2), "v"),
    "geodesic": Pen(("#009E73", "#1fc795"), (8, 2, 2, 2), "P"),
    "linear": Pen(("#7A7A7A", "#a8a8a8"), (3, 1.5), "^"),
    "zero-first": Pen(("#E69F00", "#E69F00"), (5, 1.5, 1, 1.5), "s"),
    "naive": Pen(("#D55E00", "#ef7a1f"), (4, 3), "D"),
    "plain": Pen(("#000000", "#ffffff"), (1, 1.5), "X"),
    "flip": Pen(("#CC79A7", "#dd93bc"), None, "*", 1.3),
    "reload": Pen(("#CC79A7", "#dd93bc"), (1, 2.5), "h", 1.3),
}
OTHER: Final = Pen(("#7A7A7A", "#a8a8a8"), (2, 2), "p")


def pen_of(strategy: str) -> Pen:
    """How a strategy is drawn, in every picture."""
    return _PENS.get(strategy, OTHER)


def frame(axis: Axes, look: Look, title: str) -> None:
    """A panel's title and edges."""
    axis.set_facecolor(look.paper)
    axis.set_axisbelow(True)
    axis.set_title(title, loc="left", **look.words)
    axis.tick_params(colors=look.ink, labelsize=look.words["fontsize"], length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(look.faint)


def png(figure: Figure, look: Look) -> bytes:
    """The figure with two pixels of the file to one of the page, or a little more on a phone."""
    figure.set_dpi(216 if look.narrow else 192)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    # 256 colours are enough for lines on paper, and a third of the size.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256)
    image.save(buffer, format="png")
    return buffer.getvalue()


def panels(look: Look, count: int, height_in: float, columns: int) -> tuple[Figure, list[Axes]]:
    """Panels in rows; on a phone below each other."""
    columns = 1 if look.narrow else min(columns, count)
    rows = -(-count // columns)
    figure = look.figure(rows * height_in)
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]
