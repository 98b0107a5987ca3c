"""What an ONNX file asks for, read before ONNX Runtime sees it and without the onnx package.

ONNX Runtime opens the files that a model names, and knows more operators than a plan needs. So the few fields that
decide about this are read from the protocol-buffer bytes themselves. Whatever a plan's graph has no use for is
refused: other operator domains, subgraphs, functions, sparse tensors, external data that is not an initializer's.

Reference:
    Wire format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx.proto of the ONNX project.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError

_DTYPES: Final[Mapping[int, type[np.generic]]] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16,
    11: np.float64,
}  # fmt: skip
_STANDARD: Final = (b"", b"ai.onnx")
_EXTERNAL: Final = 1
_VARINT, _BYTES = 0, 2
_T = TypeVar("_T")


@dataclass(frozen=True)
class Slot:
    """A tensor that a graph leaves to be supplied."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    def fits(self, array: NDArray[np.generic]) -> bool:
        """Whether an array has this shape and type."""
        return array.shape == self.shape and array.dtype == self.dtype


def read_slots(model: bytes, origin: str) -> dict[str, Slot]:
    """Read which initializers a graph leaves to be supplied, and refuse what must not run.

    Args:
        model: An ONNX file.
        origin: What to call it in errors.

    Returns:
        Initializer name to what must be supplied for it.

    Raises:
        BundleError: The file is damaged, or holds something that a plan's graph has no use for.
    """
    try:
        return _slots(_Message.parse(model), origin)
    except ValueError as error:
        raise BundleError(f"{origin}: found no ONNX model ({error}), expected one; copy the bundle again") from error


def read_operators(model: bytes, origin: str) -> frozenset[str]:
    """Names of the operators that a graph uses.

    Args:
        model: An ONNX file.
        origin: What to call it in errors.

    Raises:
        BundleError: The file is damaged.
    """
    try:
        graph = _only(_Message.parse(model).messages(7), "graph")
        return frozenset(_only(node.parts[4], "operator").decode() for node in graph.messages(1))
    except ValueError as error:
        raise BundleError(f"{origin}: found no ONNX model ({error}), expected one; copy the bundle again") from error


def _slots(model: _Message, origin: str) -> dict[str, Slot]:
    graph = _only(model.messages(7), "graph")
    nodes = graph.messages(1)
    attributes = [attribute for node in nodes for attribute in node.messages(5)]
    domains = [
        name for part, number in ((model.messages(8), 1), (nodes, 7)) for one in part for name in one.parts[number]
    ]
    if odd := [name.decode() for name in domains if name not in _STANDARD]:
        raise BundleError(f"{origin}: found operators of domain {odd[0]!r}, expected those of ONNX itself only")
    inner = [tensor for attribute in attributes for number in (5, 10) for tensor in attribute.messages(number)]
    unwanted = {
        "functions": model.parts[25],
        "training steps": model.parts[20],
        "sparse tensors": graph.parts[15] + [part for one in attributes for part in one.parts[22] + one.parts[23]],
        "subgraphs": [part for one in attributes for part in one.parts[6] + one.parts[11]],
        "external data inside a node": [tensor for tensor in inner if _is_external(tensor)],
    }
    if kinds := [kind for kind, found in unwanted.items() if found]:
        raise BundleError(f"{origin}: found {kinds[0]}, expected none in a plan's graph")
    external = [tensor for tensor in graph.messages(5) if _is_external(tensor)]
    slots = dict(_slot(tensor, origin) for tensor in external)
    if len(slots) != len(external):
        raise BundleError(f"{origin}: found two initializers of one name, expected each name once")
    return slots


def _slot(tensor: _Message, origin: str) -> tuple[str, Slot]:
    name = _only(tensor.parts[8], "tensor name").decode()
    kind = _only(tensor.numbers[2], "tensor type")
    if kind not in _DTYPES:
        raise BundleError(f"{origin}: tensor {name!r}: found ONNX type {kind}, expected one of {sorted(_DTYPES)}")
    packed = [size for part in tensor.parts[1] for size in varints(part)]
    return name, Slot((*tensor.numbers[1], *packed), np.dtype(_DTYPES[kind]))


def _is_external(tensor: _Message) -> bool:
    return _EXTERNAL in tensor.numbers[14] or bool(tensor.parts[13])


def _only(found: list[_T], what: str) -> _T:
    # protobuf merges repeated singular fields, so a second one could hide what the first one showed
    if len(found) != 1:
        raise ValueError(f"{len(found)} times a {what}")
    return found[0]


@dataclass(frozen=True)
class _Message:
    """Fields of one protocol-buffer message, by number: integers apart from everything that has a length."""

    numbers: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    parts: defaultdict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def messages(self, number: int) -> list[_Message]:
        """Parts of a field that are messages themselves."""
        return [_Message.parse(part) for part in self.parts[number]]

    @classmethod
    def parse(cls, raw: bytes) -> _Message:
        """Split a message into its fields.

        Raises:
            ValueError: The bytes are no message.
        """
        message = cls()
        for one in fields(raw):
            if one.kind == _VARINT:
                message.numbers[one.number].append(_varint(one.value, 0)[0])
            elif one.kind == _BYTES:
                message.parts[one.number].append(one.value)
        return message


@dataclass(frozen=True)
class Field:
    """One field of a protocol-buffer message.

    Attributes:
        number: Its number.
        kind: Its wire type.
    """

    number: int
    kind: int
    _raw: bytes
    _begin: int
    _at: int
    _end: int

    @property
    def value(self) -> bytes:
        """What it holds, without key and length."""
        return self._raw[self._at : self._end]

    @property
    def whole(self) -> bytes:
        """All of it, as it stands in the message."""
        return self._raw[self._begin : self._end]


def fields(raw: bytes) -> Iterator[Field]:
    """Fields of a protocol-buffer message, in its order.

    Raises:
        ValueError: The bytes are no message.
    """
    at = 0
    while at < len(raw):
        begin = at
        key, at = _varint(raw, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            end = _varint(raw, at)[1]
        elif kind == _BYTES:
            size, at = _varint(raw, at)
            end = at + size
        elif kind in (1, 5):
            end = at + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if end > len(raw):
            raise ValueError("cut short")
        yield Field(number, kind, raw, begin, at, end)
        at = end


def varints(raw: bytes) -> list[int]:
    """Integers that stand side by side.

    Raises:
        ValueError: The last one is cut short, or one is too long.
    """
    values, at = [], 0
    while at < len(raw):
        value, at = _varint(raw, at)
        values.append(value)
    return values


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """An integer, seven bits a byte, low bits first, and where the next field begins."""
    value = 0
    for count in range(10):
        if at + count >= len(raw):
            raise ValueError("cut short")
        byte = raw[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    raise ValueError("an integer of more than ten bytes")
