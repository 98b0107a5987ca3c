"""Where ONNX Runtime puts the elements of a weight when it lays a network out for this processor.

It convolves faster on weights in blocks of channels, and makes these blocks of constants only: a weight that moves is
an input, and stays as it is. So the network is laid out once with *sentinels* as its moving weights, numbers that each
occur once. The graph that comes out shows where every one of them went; nothing of the format of the blocks is assumed.
From then on the weights are inputs of that graph, and an element that is written is written to its place too.

It is done twice, with different sentinels. What comes out must have the same nodes, attributes and constants, bit for
bit, but for the sentinels, each of which must be there once, with its own bits: had anything been computed from a
weight, it would show. Sentinels are tiny, so that a sum with any other number loses them instead of hiding it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.plan.onnx_edit import content, initializers, with_initializers, with_inputs

_EXPONENTS: Final = (0x10000000, 0x18000000)
"""Bits of 2.5e-29 and 1.7e-24; sentinels are these and the numbers that follow, all with the same exponent."""
MOST_ELEMENTS: Final = 1 << 23
"""Numbers of one exponent."""

Places = NDArray[np.intp]


class NoLayout(Exception):
    """The network is used as it is; the text says why."""


@dataclass(frozen=True)
class Place:
    """Where the elements of one weight lie in the tensor that the laid-out graph reads.

    Attributes:
        name: Name of that tensor.
        shape: Its shape; where no element lies, it is zero.
        rows: Flat index of the first element of each row, shape [units].
        columns: What is added to it for the other elements of the row, shape [columns].
    """

    name: str
    shape: tuple[int, ...]
    rows: Places
    columns: Places

    @property
    def same(self) -> bool:
        """Whether the tensor is the weight itself, perhaps in another shape."""
        count = len(self.rows) * len(self.columns)
        return prod(self.shape) == count and bool(
            np.array_equal(self._of(np.arange(len(self.rows))).ravel(), np.arange(count))
        )

    def equals(self, other: Place) -> bool:
        """Whether the elements lie alike, whatever the tensor is called."""
        return (
            self.shape == other.shape
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.columns, other.columns)
        )

    def copy(self, source: NDArray[np.generic], target: NDArray[np.generic], rows: NDArray[np.integer]) -> None:
        """Copy rows of the weight to where they lie.

        Args:
            source: The weight, C-contiguous.
            target: Tensor of ``shape``, C-contiguous; written to.
            rows: Row indices, shape [R].
        """
        target.reshape(-1)[self._of(rows)] = source.reshape(len(self.rows), -1)[rows]

    def fresh(self, source: NDArray[np.generic]) -> NDArray[np.generic]:
        """A tensor of ``shape`` that holds the weight."""
        target = np.zeros(self.shape, source.dtype)
        self.copy(source, target, np.arange(len(self.rows)))
        return target

    def _of(self, rows: NDArray[np.integer]) -> Places:
        places: Places = self.rows[rows][:, None] + self.columns
        return places


@dataclass(frozen=True)
class Layout:
    """A network as ONNX Runtime lays it out, with its moving weights as inputs.

    Attributes:
        model: ONNX file; only for ONNX Runtime of this version on this processor.
        places: Name of each moving weight to its place.
    """

    model: bytes
    places: Mapping[str, Place]


def observe(
    model: bytes,
    constants: Mapping[str, NDArray[np.generic]],
    moved: Mapping[str, tuple[int, ...]],
    optimise: Callable[[bytes], bytes],
) -> Layout:
    """Find out where the moving weights of a network go.

    Args:
        model: ONNX file whose moving weights are float32 inputs.
        constants: Arrays for the initializers without data, by name.
        moved: Name of each moving weight to its shape.
        optimise: Lays out an ONNX file for this processor.

    Raises:
        NoLayout: A weight does not come out element by element, or none is laid out otherwise.
    """
    if not moved or sum(prod(shape) for shape in moved.values()) > MOST_ELEMENTS:
        raise NoLayout(f"found {len(moved)} moving weights, expected some, of at most {MOST_ELEMENTS} elements")
    laid: list[bytes] = []
    places: list[dict[str, Place]] = []
    left: list[list[bytes]] = []
    try:
        for first, step in zip(_EXPONENTS, (1, -1), strict=True):
            sentinels = _Sentinels(moved, first, step)
            laid.append(optimise(with_initializers(model, {**constants, **sentinels.arrays})))
            places.append(sentinels.places(laid[-1]))
            # ONNX Runtime names what it adds differently from one time to the next
            left.append(content(laid[-1], {place.name for place in places[-1].values()}))
        if left[0] != left[1] or not all(place.equals(places[1][name]) for name, place in places[0].items()):
            raise NoLayout("found that the graph depends on the values of its moving weights")
        if all(place.same for place in places[0].values()):
            raise NoLayout("found every moving weight as it was: nothing is gained")
        return Layout(with_inputs(laid[0], {one.name: one.shape for one in places[0].values()}), places[0])
    except ValueError as error:
        raise NoLayout(f"found a graph that cannot be read: {error}") from error


class _Sentinels:
    """Moving weights made of numbers that each occur once.

    Args:
        shapes: Name of each weight to its shape.
        first: Bits of the first number.
        step: 1 for numbers that rise in the order of the elements, -1 for falling ones.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], first: int, step: int) -> None:
        self._shapes = shapes
        self._first = first
        self._step = step
        self._count = sum(prod(shape) for shape in shapes.values())
        numbers = np.arange(self._count, dtype=np.int32)[::step]
        ends = np.cumsum([prod(shape) for shape in shapes.values()])
        parts = np.split((first + np.ascontiguousarray(numbers)).view(np.float32), ends[:-1])
        self._begins = dict(zip(shapes, [0, *ends[:-1]], strict=True))
        self.arrays = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    def places(self, model: bytes) -> dict[str, Place]:
        """Where the elements of every weight lie in the initializers of a model.

        Raises:
            NoLayout: One is missing, there twice, or mixed with something else.
            ValueError: The model cannot be read.
        """
        found: dict[str, Place] = {}
        for tensor in initializers(model):
            numbers = tensor.bits - np.int32(self._first)
            ours = (numbers >= 0) & (numbers < self._count)
            if not ours.any():
                continue
            if tensor.bits[~ours].any():
                raise NoLayout(f"{tensor.name}: found sentinels among other numbers, expected zeros around them")
            (at,) = np.nonzero(ours)
            elements = numbers[at] if self._step == 1 else self._count - 1 - numbers[at]
            owner = [name for name, begin in self._begins.items() if begin <= elements.min()][-1]
            shape, elements = self._shapes[owner], elements - self._begins[owner]
            count = prod(shape)
            if owner in found or len(at) != count or not np.array_equal(np.sort(elements), np.arange(count)):
                raise NoLayout(f"{owner}: found in {tensor.name} {len(at)} elements, expected each of {count} once")
            flat = np.empty(count, np.intp)
            flat[elements] = at
            matrix = flat.reshape(shape[0] if shape else 1, -1)
            place = Place(tensor.name, tensor.shape, matrix[:, 0].copy(), matrix[0] - matrix[0, 0])
            if not np.array_equal(place.rows[:, None] + place.columns, matrix):
                raise NoLayout(f"{owner}: found rows in {tensor.name} whose elements lie otherwise than in the first")
            found[owner] = place
        if missing := sorted(set(self._shapes) - set(found)):
            raise NoLayout(f"{missing[0]}: found in no initializer of the graph that was laid out")
        # in the order of the weights, whatever the order in the file
        return {name: found[name] for name in self._shapes}
