"""Exchanges inputs and initializers of an ONNX file, without the onnx package.

Whether a tensor is a graph input or an initializer decides whether ONNX Runtime may lay it out anew. All other fields
are copied as they stand, byte for byte and in their order.

Reference:
    Wire format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx.proto of the ONNX project.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.plan.onnx_file import Field, fields, varints

_GRAPH: Final = 7
_NODE, _INITIALIZER, _INPUT = 1, 5, 11
_INPUT_NAME, _TENSOR_NAME = 1, 8
_FLOAT: Final = 1
_TYPES: Final[Mapping[str, int]] = {
    "float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11,
}  # fmt: skip


@dataclass(frozen=True)
class Initializer:
    """A float32 tensor that a graph holds as raw bytes; ``bits`` are its numbers as integers, flat."""

    name: str
    shape: tuple[int, ...]
    bits: NDArray[np.int32]


def with_initializers(model: bytes, arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The model with arrays as initializers, in place of the inputs and initializers of these names.

    Args:
        model: An ONNX file.
        arrays: Name to tensor.

    Raises:
        ValueError: The model is damaged, or the file has more than one graph.
    """
    return _exchanged(model, arrays, (_part(_INITIALIZER, _tensor(name, array)) for name, array in arrays.items()))


def with_inputs(model: bytes, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The model with float32 inputs after its others, in place of the inputs and initializers of these names.

    Args:
        model: An ONNX file.
        shapes: Name to shape.

    Raises:
        ValueError: As for ``with_initializers``.
    """
    return _exchanged(model, shapes, (_part(_INPUT, _described(name, shape)) for name, shape in shapes.items()))


def initializers(model: bytes) -> Iterator[Initializer]:
    """The float32 initializers that a graph holds as raw bytes; others are passed over.

    Raises:
        ValueError: The model is damaged, or a tensor's bytes do not fit its shape.
    """
    for part in fields(_graph(model).value):
        if part.number == _INITIALIZER:
            found = list(fields(part.value))
            raw = [one.value for one in found if one.number == 9]
            kinds = [one.value for one in found if one.number == 2]
            if len(raw) == 1 and kinds == [bytes([_FLOAT])]:
                shape = tuple(size for one in found if one.number == 1 for size in varints(one.value))
                bits = np.frombuffer(raw[0], "<i4")
                if bits.size != np.prod(shape, dtype=np.int64):
                    raise ValueError(f"{bits.size} numbers in a tensor of shape {list(shape)}")
                yield Initializer(_name(part), shape, bits)


def content(model: bytes, without: Collection[str]) -> list[bytes]:
    """What a graph computes with, whatever things are called: nodes without their wiring, and initializers.

    Args:
        model: An ONNX file.
        without: Names of initializers to leave out.

    Returns:
        Sorted, so that it is equal for two graphs that differ in names and order.

    Raises:
        ValueError: The model is damaged.
    """
    nameless = {_NODE: (1, 2, 3), _INITIALIZER: (_TENSOR_NAME,)}
    return sorted(
        b"".join([bytes([part.number]), *(one.whole for one in fields(part.value) if one.number not in left_out)])
        for part in fields(_graph(model).value)
        if (left_out := nameless.get(part.number)) and not (part.number == _INITIALIZER and _name(part) in without)
    )


def _exchanged(model: bytes, names: Collection[str], added: Iterable[bytes]) -> bytes:
    """The model whose graph has other fields in place of the inputs and initializers of these names."""
    graph = _graph(model)
    kept = [
        one.whole for one in fields(graph.value) if one.number not in (_INITIALIZER, _INPUT) or _name(one) not in names
    ]
    changed = _part(_GRAPH, b"".join([*kept, *added]))
    return b"".join(changed if one.number == _GRAPH else one.whole for one in fields(model))


def _graph(model: bytes) -> Field:
    graphs = [one for one in fields(model) if one.number == _GRAPH]
    # protobuf merges repeated messages, so one of several is not the graph
    if len(graphs) != 1:
        raise ValueError(f"{len(graphs)} times a graph")
    return graphs[0]


def _name(part: Field) -> str:
    number = _TENSOR_NAME if part.number == _INITIALIZER else _INPUT_NAME
    names = [one.value.decode() for one in fields(part.value) if one.number == number]
    if len(names) != 1:
        raise ValueError(f"{len(names)} names of a tensor")
    return names[0]


def _tensor(name: str, array: NDArray[np.generic]) -> bytes:
    """A TensorProto with the array's bytes."""
    sizes = b"".join(_number(1, size) for size in array.shape)
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return sizes + _number(2, _TYPES[array.dtype.name]) + _part(_TENSOR_NAME, name.encode()) + _part(9, raw)


def _described(name: str, shape: tuple[int, ...]) -> bytes:
    """A ValueInfoProto of a float32 tensor."""
    sizes = b"".join(_part(1, _number(1, size)) for size in shape)
    tensor = _number(1, _FLOAT) + _part(2, sizes)
    return _part(_INPUT_NAME, name.encode()) + _part(2, _part(1, tensor))


def _part(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """An integer that is not negative, seven bits a byte, low bits first."""
    coded = bytearray()
    while value >= 0x80:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)
