"""What an ONNX file of a network says: its layers' weights in the order they are computed, and who reads whom.

Exporters lose names, transpose matrices, and fold batch norms. What they keep is the order of operations and what each
reads; so this is what a file is understood by (``planner.onnx_weights``). Nothing of the file is run here.

Reference:
    https://github.com/onnx/onnx/blob/main/docs/IR.md
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from planner.onnx_data import Array, OnnxFileError, as_float32, external_tensors, known_values, read_bytes

INPUT: Final = -1
"""Stands for the network's input among the operations that one reads."""
MOST_NODES: Final = 100_000
"""Operations and tensors of a file, at most; ResNet-152 has some hundreds."""
_QUANTISED: Final = ("DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm")


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
    content = read_bytes(path, 0, None, limit)
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
    external = external_tensors(path, graph, limit)
    known = known_values(path, graph, external)
    digest = hashlib.sha256(content)
    for array in external.values():
        digest.update(array.tobytes())
    return OnnxFile(
        path=path,
        content=content,
        external=external,
        tensors={tensor.name: held for tensor in graph.initializer
                 if (held := as_float32(known[tensor.name])) is not None},
        operations=_operations(path, graph, known),
        norms=tuple(node.name or node.output[0] for node in graph.node if node.op_type == "BatchNormalization"),
        sha256=digest.hexdigest(),
    )  # fmt: skip


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
    values = as_float32(weight)
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
    own = as_float32(values)
    if own is None or own.size not in (1, units) or own.shape[-1:] not in ((), (1,), (units,)):
        return None
    return np.ascontiguousarray(np.broadcast_to(own.reshape(-1), (units,)))
