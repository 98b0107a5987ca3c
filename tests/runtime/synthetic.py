"""Tiny models for runtime tests, built without torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from runtime.walking.rows import BASE, POOL, ZERO, Floats, Ints, MovedLayer

TORN = -1
"""What ``revealed_versions`` says of a row that is of no single version."""


class SyntheticModel(NamedTuple):
    """A model and all that belongs to it.

    ``constants`` are the tensors of ``base`` that no path moves; the others are the graph's inputs.
    """

    model: bytes
    constants: dict[str, Floats]
    base: dict[str, Floats]
    sample: Floats


MOVED_LAYERS = (
    MovedLayer("conv1", "conv1.weight", "conv1.bias", (4, 1, 3, 3), None, 9),
    MovedLayer("conv2", "conv2.weight", "conv2.bias", (6, 4, 3, 3), "conv1", 9),
    MovedLayer("fc1", "fc1.weight", "fc1.bias", (5, 24), "conv2", 4),
)
"""The layers of ``synthetic_model`` that move."""

_SHAPES = {
    "conv1.weight": (4, 1, 3, 3), "conv1.bias": (4,), "conv2.weight": (6, 4, 3, 3), "conv2.bias": (6,),
    "fc1.weight": (5, 24), "fc1.bias": (5,), "fc2.weight": (3, 5), "fc2.bias": (3,),
}  # fmt: skip


def convolutional_nodes() -> list[onnx.NodeProto]:
    """conv1 → relu → pool → conv2 → relu → flatten → fc1 → relu → fc2, for weights of any width."""
    return [
        helper.make_node("Conv", ["input", "conv1.weight", "conv1.bias"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "conv2.weight", "conv2.bias"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Flatten", ["r2"], ["f"], axis=1),
        helper.make_node("Gemm", ["f", "fc1.weight", "fc1.bias"], ["l1"], transB=1),
        helper.make_node("Relu", ["l1"], ["r3"]),
        helper.make_node("Gemm", ["r3", "fc2.weight", "fc2.bias"], ["output"], transB=1),
    ]


def synthetic_model(seed: int = 0) -> SyntheticModel:
    """conv1 → relu → pool → conv2 → relu → flatten → fc1 → relu → fc2 on [N, 1, 4, 4]; fc2 is constant."""
    rng = np.random.default_rng(seed)
    base = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in _SHAPES.items()}
    moved = [name for layer in MOVED_LAYERS for name in (layer.weight, layer.bias) if name is not None]
    constants = {name: base[name] for name in base if name not in moved}
    model = build(
        convolutional_nodes(), ["batch", 1, 4, 4], ["batch", 3], {name: base[name] for name in moved}, constants
    )
    return SyntheticModel(model, constants, base, rng.standard_normal((5, 1, 4, 4)).astype(np.float32))


def forward(tensors: dict[str, Floats], x: Floats) -> Floats:
    """What ``synthetic_model`` computes, in NumPy and float64."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    x = np.maximum(_convolve(x.astype(np.float64), w["conv1.weight"], w["conv1.bias"]), 0)
    x = x.reshape(*x.shape[:2], 2, 2, 2, 2).max(axis=(3, 5))
    x = np.maximum(_convolve(x, w["conv2.weight"], w["conv2.bias"]), 0).reshape(len(x), -1)
    x = np.maximum(x @ w["fc1.weight"].T + w["fc1.bias"], 0)
    return x @ w["fc2.weight"].T + w["fc2.bias"]


def state_revealing_model(rows: int, columns: int = 4) -> SyntheticModel:
    """One linear layer "layer" without bias whose answer to ``sample`` shows the version of each row.

    Every entry of a row of version v is ``code(v)``. The sample picks out the first, the last and two columns between,
    so a row that is half written shows as well: see ``revealed_versions``.
    """
    base = {"layer.weight": code_rows(rows, columns, BASE)}
    nodes = [helper.make_node("Gemm", ["input", "layer.weight"], ["output"], transB=1)]
    model = build(nodes, ["batch", columns], ["batch", rows], base, {})
    picked = np.linspace(0, columns - 1, 4).astype(int)
    return SyntheticModel(model, {}, base, np.eye(columns, dtype=np.float32)[picked])


def revealing_layer(rows: int, columns: int = 4) -> MovedLayer:
    """The one layer of ``state_revealing_model``."""
    return MovedLayer("layer", "layer.weight", None, (rows, columns), None, 1)


def code(version: int) -> float:
    """Entry of every row of a version: 1 for dense, 0 for removed, v for pool version v."""
    return {BASE: 1.0, ZERO: 0.0}.get(version, float(version))


def code_rows(rows: int, columns: int, version: int) -> Floats:
    """Rows of one version, [rows, columns]; as a pool, stack those of ``POOL``, ``POOL + 1``, ..."""
    return np.full((rows, columns), code(version), np.float32)


def revealed_versions(answer: Floats) -> Ints:
    """Version of each row as the answer to ``sample`` shows it, ``TORN`` where a row is of none.

    Args:
        answer: Shape [4, rows].
    """
    first = answer[0]
    whole = (answer == first).all(axis=0) & (first == np.rint(first)) & (first >= 0)
    versions = np.where(first >= POOL, first, np.where(first == code(BASE), BASE, ZERO))
    return np.where(whole, versions, TORN).astype(np.int32)


def build(
    nodes: list[onnx.NodeProto],
    input_shape: list[int | str],
    output_shape: list[int | str],
    inputs: dict[str, Floats],
    constants: dict[str, Floats],
) -> bytes:
    """Weight-free ONNX file with "input", then ``inputs``, and ``constants`` as external initializers."""
    values = [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)]
    values += [helper.make_tensor_value_info(name, TensorProto.FLOAT, one.shape) for name, one in inputs.items()]
    answer = helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)
    initializers = [external(name, one.shape) for name, one in constants.items()]
    graph = helper.make_graph(nodes, "network", values, [answer], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def external(name: str, shape: tuple[int, ...], location: str = "base.safetensors") -> onnx.TensorProto:
    """A float tensor whose data is elsewhere."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def _convolve(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """3 × 3 convolution with a border of zeros."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = [
        np.einsum("nchw,oc->nohw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j])
        for i in range(3)
        for j in range(3)
    ]
    return sum(taps) + bias[:, None, None]
