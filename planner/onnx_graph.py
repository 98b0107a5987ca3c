"""What an ONNX file of a network says: its layers' weights in the order they are computed, and who reads whom.

Exporters lose names, transpose matrices, and fold batch norms. What they keep is the order of operations and what each
reads; so this is what a file is understood by (``planner.onnx_weights``). Nothing of the file is run here. External
data is read from files beside the model only, since a path in a file of a stranger must not choose what is read.

Reference:
    https://github.com/onnx/onnx/blob/main/docs/IR.md and, for tensors outside of the model, docs/ExternalData.md there.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from device_profiles.errors import GeoshiftError

Array = NDArray[Any]

INPUT: Final = -1
"""Stands for the network's input among the operations that one reads."""
MOST_NODES: Final = 100_000
"""Operations and tensors of a file, at most; ResNet-152 has some hundreds."""
_QUANTISED: Final = ("DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm")
_FLOATS: Final = (np.float16, np.float32)


class OnnxFileError(GeoshiftError):
    """An ONNX file cannot be read, or holds what no weights can be taken from."""


@dataclass(frozen=True)
class WeightOperation:
    """A convolution or a product with a matrix of weights.

    Attributes:
        kind: As of a network's layer: "convolution", or "classifier" for a matrix.
        name: What the file calls the weights.
        weight: float32 [units, ...] as PyTorch has it, whatever the file's own layout.
        bias: float32 [units]; None without one.
        reads: Places, in the file's order, of the operations whose values it reads; `INPUT` for the network's input.
    """

    kind: Literal["convolution", "classifier"]
    name: str
    weight: Array
    bias: Array | None
    reads: frozenset[int]

    def __str__(self) -> str:
        return f"{self.name!r} {list(self.weight.shape)}"


@dataclass(frozen=True)
class OnnxFile:
    """A file of a network.

    Attributes:
        path: Where it was read from.
        content: The model as it was read.
        external: Tensors that lay outside of it, by name.
        tensors: All initializers that are floats, as float32.
        operations: Those with weights, in the order in which they are computed.
        norms: Names of operations that are batch norms.
        sha256: Digest of the model, and of its external tensors after it, in hexadecimal.
    """

    path: Path
    content: bytes
    external: Mapping[str, Array]
    tensors: Mapping[str, Array]
    operations: tuple[WeightOperation, ...]
    norms: tuple[str, ...]
    sha256: str


def read_onnx(path: Path, limit: int) -> OnnxFile:
    """Read an ONNX file.

    Args:
        path: The model; external data lies beside it.
        limit: Bytes that the model may have, and its external data once more.

    Raises:
        OnnxFileError: There is no such file, it is damaged or too large, its external data is missing, elsewhere or
            of another size, its weights are quantised or not finite, or it has other than one input and output.
    """
    content = _read(path, 0, None, limit)
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise OnnxFileError(f"{path}: found no ONNX model ({error}), expected one: export it again") from error
    graph = model.graph
    if len(graph.node) + len(graph.initializer) > MOST_NODES or not graph.node:
        raise OnnxFileError(f"{path}: found {len(graph.node)} operations, expected 1 to {MOST_NODES}: is it a network?")
    if odd := [node.op_type for node in graph.node if node.op_type in _QUANTISED]:
        raise OnnxFileError(
            f"{path}: found the quantised operation {odd[0]}, expected weights as floats: export it before quantising"
        )
    external = _external(path, graph, limit)
    constants = _constants(path, graph, external)
    floats = {tensor.name: _as_float32(constants[tensor.name]) for tensor in graph.initializer}
    digest = hashlib.sha256(content)
    for array in external.values():
        digest.update(array.tobytes())
    return OnnxFile(
        path=path,
        content=content,
        external=external,
        tensors={name: array for name, array in floats.items() if array is not None},
        operations=_operations(path, graph, constants),
        norms=tuple(node.name or node.output[0] for node in graph.node if node.op_type == "BatchNormalization"),
        sha256=digest.hexdigest(),
    )  # fmt: skip


def _read(path: Path, offset: int, length: int | None, limit: int) -> bytes:
    """Bytes of a plain file; all of it without a length."""
    try:
        # Not blocking, so that a pipe of that name holds nobody up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise OnnxFileError(f"{path}: {error.strerror}; expected an ONNX file that can be read") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OnnxFileError(f"{path}: found no plain file, expected an ONNX file: name the file itself")
        wanted = status.st_size if length is None else length
        if wanted > limit:
            raise OnnxFileError(
                f"{path}: found {wanted} bytes, expected at most {limit}, going by the network's own tensors: give a "
                "file of the same network"
            )
        file.seek(offset)
        content = file.read(wanted)
    if len(content) < wanted:
        raise OnnxFileError(
            f"{path}: found {len(content)} bytes from {offset} on, expected {wanted}: copy the file again"
        )
    return content


def _external(path: Path, graph: onnx.GraphProto, limit: int) -> dict[str, Array]:
    """Tensors that lie in files beside the model."""
    found: dict[str, Array] = {}
    left = limit
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        where = f"{path}: tensor {tensor.name!r}"
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
            size = prod(tensor.dims) * dtype.itemsize
            offset, length = int(said.get("offset", 0)), int(said.get("length", size))
        except (KeyError, TypeError, ValueError) as error:
            raise OnnxFileError(
                f"{where}: found no type or place that ONNX knows ({error}): export it again"
            ) from error
        if length != size or offset < 0 or min(tensor.dims, default=1) < 0:
            raise OnnxFileError(
                f"{where}: found {length} bytes at {offset} for {list(tensor.dims)}, expected {size}: export it again"
            )
        raw = _read(_beside(path, said.get("location", ""), where), offset, length, left)
        left -= length
        found[tensor.name] = np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype).reshape(tuple(tensor.dims))
    return found


def _beside(path: Path, location: str, where: str) -> Path:
    """A file that lies in the model's folder or below it, links followed."""
    folder = path.resolve().parent
    place = (folder / location).resolve()
    if not location or place == folder or not place.is_relative_to(folder):
        raise OnnxFileError(
            f"{where}: found its data at {location!r}, expected a file beside the model: copy it there and export again"
        )
    if not place.is_file():
        raise OnnxFileError(
            f"{where}: found no file {location!r} beside the model, expected its data: copy both files together"
        )
    return place


def _constants(path: Path, graph: onnx.GraphProto, external: Mapping[str, Array]) -> dict[str, Array]:
    """All values that are known without an input: initializers, constants, and copies of these in another layout."""
    found: dict[str, Array] = dict(external)
    for tensor in graph.initializer:
        if tensor.name not in external:
            found[tensor.name] = _array(path, tensor)
    for node in graph.node:
        attributes = {one.name: one for one in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            tensor = attributes["value"].t
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise OnnxFileError(
                    f"{path}: {node.output[0]!r}: found external data inside an operation, expected initializers only"
                )
            found[node.output[0]] = _array(path, tensor)
        elif node.op_type in ("Identity", "Transpose", "Cast") and node.input[0] in found:
            value = found[node.input[0]]
            if node.op_type == "Transpose":
                axes = list(attributes["perm"].ints) if "perm" in attributes else None
                if axes is not None and sorted(axes) != list(range(value.ndim)):
                    raise OnnxFileError(f"{path}: {node.output[0]!r}: found axes {axes} for {list(value.shape)}")
                value = value.transpose(axes)
            elif node.op_type == "Cast" and attributes["to"].i == onnx.TensorProto.FLOAT:
                value = value.astype(np.float32)
            elif node.op_type == "Cast":
                continue
            found[node.output[0]] = value
    return found


def _array(path: Path, tensor: onnx.TensorProto) -> Array:
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise OnnxFileError(f"{path}: tensor {tensor.name!r}: found damaged data ({error}): export it again") from error


def _as_float32(array: Array) -> Array | None:
    return np.ascontiguousarray(array, np.float32) if array.dtype in _FLOATS else None


def _operations(path: Path, graph: onnx.GraphProto, constants: Mapping[str, Array]) -> tuple[WeightOperation, ...]:
    """Operations with weights. A value that passes through none of them reads what its own inputs read."""
    inputs = [value.name for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise OnnxFileError(
            f"{path}: found inputs {', '.join(inputs) or 'none'} and {len(graph.output)} outputs, expected one "
            "of each: export the network alone"
        )
    uses = Counter(name for node in graph.node for name in node.input)
    found: list[WeightOperation] = []
    reads: dict[str, frozenset[int]] = {inputs[0]: frozenset({INPUT})}
    waiting: dict[str, int] = {}
    """Products with a matrix whose bias may follow, as an addition."""
    for node in graph.node:
        before = frozenset().union(*(reads.get(name, frozenset()) for name in node.input))
        if (added := _added(node, waiting, uses, constants)) is not None:
            place, values = added
            units = len(found[place].weight)
            if (bias := _bias(values, units)) is not None:
                found[place] = replace(found[place], bias=bias)
                reads[node.output[0]] = frozenset({place})
                continue
        operation = _operation(path, node, before, constants)
        if operation is not None:
            if node.op_type == "MatMul":
                waiting[node.output[0]] = len(found)
            before = frozenset({len(found)})
            found.append(operation)
        for name in node.output:
            reads[name] = before
    return tuple(found)


def _added(
    node: onnx.NodeProto, waiting: Mapping[str, int], uses: Mapping[str, int], constants: Mapping[str, Array]
) -> tuple[int, Array] | None:
    """The product that an addition completes, and what it adds."""
    if node.op_type != "Add":
        return None
    for value, other in (node.input, reversed(node.input)):
        if value in waiting and uses[value] == 1 and other in constants:
            return waiting[value], constants[other]
    return None


def _operation(
    path: Path, node: onnx.NodeProto, reads: frozenset[int], constants: Mapping[str, Array]
) -> WeightOperation | None:
    """The operation as a layer; None where it is none."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2 or node.input[1] not in constants:
        return None
    name, weight = node.input[1], constants[node.input[1]]
    where = f"{path}: {node.op_type} of {name!r}"
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "Gemm" and (
        attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0
    ):
        raise OnnxFileError(f"{where}: found {attributes}, expected transA 0, alpha and beta 1: export it again")
    values = _as_float32(weight)
    if values is None or values.ndim < 2 or not values.size:
        raise OnnxFileError(
            f"{where}: found {weight.dtype}{list(weight.shape)}, expected float32 or float16 weights of two axes"
        )
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes.get("transB")):
        values = np.ascontiguousarray(values.swapaxes(0, 1))
    bias = None
    if len(node.input) > 2 and node.input[2]:
        given = constants.get(node.input[2])
        bias = None if given is None else _bias(given, len(values))
        if bias is None:
            raise OnnxFileError(f"{where}: found no bias of {len(values)} floats, expected one a unit: export it again")
    for what, one in (("weights", values), ("biases", bias)):
        if one is not None and (bad := int((~np.isfinite(one)).sum())):
            raise OnnxFileError(f"{where}: found {bad} {what} that are not finite, expected none")
    kind: Literal["convolution", "classifier"] = "convolution" if node.op_type == "Conv" else "classifier"
    return WeightOperation(kind, name, values, bias, reads)


def _bias(values: Array, units: int) -> Array | None:
    """A bias for each unit; None where the values are none."""
    own = _as_float32(values)
    if own is None or own.size not in (1, units) or own.shape[-1:] not in ((), (1,), (units,)):
        return None
    return np.ascontiguousarray(np.broadcast_to(own.reshape(-1), (units,)))
