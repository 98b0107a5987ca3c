"""The grid of values that a device can hold: what a weight is stored as, and whether given rows can be.

Of ``int``, a weight is a code times a scale, rounded once to float32: float32(code) × scale. One scale serves a row (or
its layer) in every version, so a row that is half written, old codes beside new ones, is on the grid too. Of
``float16``, a weight is any number of that format. Biases are 32 bits wide and written with their row: float32, or an
integer times ``BIAS_UNIT`` of the row's scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from device_profiles.hardware import Weights

BIAS_UNIT: Final = 2.0**-8
"""Of an ``int32`` bias, in scales of its row: what code 1 adds for an input of 1/256, the last place of 8 bits."""
BIAS_BYTES: Final = 4
LARGEST_BIAS_CODE: Final = 2**24
"""Up to here float32 has every integer."""
SMALLEST_SCALE: Final = 2.0**-100
"""Far above the numbers that float32 holds with fewer digits, of which codes times scale might coincide."""
LARGEST_SCALE: Final = 2.0**100
_CELLS: Final = {"signed": 1, "differential": 2}

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """How a device stores a weight; the default is what the planner and this runtime compute with, where all fits.

    Attributes:
        format: Kind of number.
        bits: Bits of one code; None but for ``int``.
        scale: What shares one scale.
        sign: How codes have a sign; ``differential`` takes two cells of ``bits``.
        bias: Kind of number of a bias.
        scales: Which scales there are.
    """

    format: Literal["float32", "float16", "int"] = "float32"
    bits: int | None = None
    scale: Literal["row", "layer"] = "row"
    sign: Literal["signed", "differential"] = "signed"
    bias: Literal["float32", "int32"] = "float32"
    scales: Literal["any", "powers-of-two"] = "any"

    @classmethod
    def of(cls, weights: Weights) -> Grid:
        """The grid that a profile speaks of."""
        return cls(weights.format, weights.bits, weights.scale, weights.sign, weights.bias, weights.scales)

    @property
    def holds_all(self) -> bool:
        """Whether every float32 number is on the grid."""
        return self.format == "float32"

    @property
    def coded(self) -> bool:
        """Whether weights are codes times a scale."""
        return self.format == "int"

    @property
    def largest_code(self) -> int:
        """Codes go from minus this to this."""
        assert self.bits is not None
        return (1 << (self.bits - 1)) - 1 if self.sign == "signed" else (1 << self.bits) - 1

    @property
    def weight_bits(self) -> int:
        """Bits of memory that one weight takes."""
        if self.format != "int":
            return 32 if self.format == "float32" else 16
        assert self.bits is not None
        return self.bits * _CELLS[self.sign]

    def row_bytes(self, columns: int, bias: bool) -> int:
        """Bytes that the device writes for one row; each row begins at a byte of its own."""
        return -(-self.weight_bits * columns // 8) + (BIAS_BYTES if bias else 0)

    def has(self, scale: float) -> bool:
        """Whether there is such a scale."""
        return SMALLEST_SCALE <= scale <= LARGEST_SCALE and (self.scales == "any" or math.frexp(scale)[0] == 0.5)

    def scales_of(self, units: int) -> int:
        """How many scales a layer has."""
        return units if self.scale == "row" else 1

    def __str__(self) -> str:
        if self.format != "int":
            return self.format
        power = ", a power of two" if self.scales == "powers-of-two" else ""
        return f"{self.bits} bits ({self.sign}) and one scale a {self.scale}{power}"


FLOAT32: Final = Grid()
"""What the planner and this runtime compute with."""


def values(codes: NDArray[np.integer] | NDArray[np.floating], scales: Floats) -> Floats:
    """What a device holds for codes, float32(code) × scale, shape of the codes.

    Args:
        codes: Integers, [rows, any].
        scales: Scale of each row, [rows] or [1].
    """
    found: Floats = codes.astype(np.float32) * scales[:, None]
    return found + np.float32(0)  # no −0, which is as good, but not the same bits


def misfit(grid: Grid, rows: Floats, columns: int, scales: Floats | None) -> tuple[int, int, str] | None:
    """The first value that is not on the grid.

    Args:
        grid: The grid.
        rows: Weights first, then the bias if there is one, [rows, columns (+ 1)].
        columns: Weights in a row.
        scales: Scale of each row, [rows]; None for a format without.

    Returns:
        Row, column, and what was expected in its place; None if every value is on the grid.
    """
    weights, bias = rows[:, :columns], rows[:, columns:]
    if grid.holds_all:
        return None
    if not grid.coded:
        with np.errstate(over="ignore"):  # what overflows is infinite, and not equal
            place = _first(weights.astype(np.float16).astype(np.float32) != weights)
        return None if place is None else (*place, "a number that float16 has")
    assert scales is not None
    place = _first(_off(weights, scales, grid.largest_code))
    if place is not None:
        return *place, f"{scales[place[0]]:.9g} times a whole number from -{grid.largest_code} to {grid.largest_code}"
    if grid.bias == "int32" and bias.size:
        units = bias_units(scales)
        place = _first(_off(bias, units, LARGEST_BIAS_CODE))
        if place is not None:
            return place[0], columns, f"{units[place[0]]:.9g} times a whole number, as a bias of int32"
    return None


def bias_units(scales: Floats) -> Floats:
    """What a bias of code 1 is, for rows with these scales."""
    return scales * np.float32(BIAS_UNIT)


def _off(found: Floats, scales: Floats, largest: int) -> NDArray[np.bool_]:
    """Where numbers are no code times their row's scale."""
    codes = np.rint(found.astype(np.float64) / scales.astype(np.float64)[:, None])
    with np.errstate(over="ignore", invalid="ignore"):
        wrong: NDArray[np.bool_] = (np.abs(codes) > largest) | (codes.astype(np.float32) * scales[:, None] != found)
    return wrong


def _first(wrong: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Row and column of the first that is wrong."""
    if not wrong.any():
        return None
    row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return int(row), int(column)
