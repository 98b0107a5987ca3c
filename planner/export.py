"""ONNX graphs of a network: the live one, whose moved weights are inputs, and a smaller one for each mode.

The files hold no weights. A live graph stands next to ``base.safetensors`` as a standard ONNX model with external
data; the weights of a compact graph are cut out of a configuration by whoever loads it. This is the one file that
imports torch.onnx; `planner/onnx_graph.py` reads other people's files with onnx.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from planner.unit_axes import Axes, ExportError, Facts, Operation, Parts, follow, left_size, left_units, weight_axes

if TYPE_CHECKING:
    from planner.network import Layer

INPUT: Final = "input"
OUTPUT: Final = "output"
BASE_FILE: Final = "base.safetensors"
"""Where the external data of a live graph lies."""
MODE_FILE: Final = "supplied-by-the-runtime"
"""Location written in a compact graph; there is no such file, so that a plain ONNX reader says what is missing."""
CONSTANT_LIMIT_BYTES: Final = 1 << 16
"""Largest array a graph may hold itself: sizes, axes, small tables, but no layer's weights."""


def export_live(
    module: nn.Module,
    sample: Tensor,
    moved: Sequence[str],
    places: Mapping[str, tuple[int, int]] | None = None,
) -> bytes:
    """Export the graph that a device runs while weights move.

    Args:
        module: Network in eval mode; it is not changed.
        sample: Inputs with their batch dimension, shape [any, ...].
        moved: State-dict keys of the tensors that become inputs, in this order, after "input".
        places: Offset and length in bytes of each other tensor within ``base.safetensors``; without it the graph
            names the file only.

    Returns:
        ONNX model with a free batch size, input "input" and output "output". Every tensor that does not move is an
        initializer under its state-dict key, with external data. The same arguments give the same bytes.

    Raises:
        ExportError: The network cannot be exported, or a weight does not come out under its name, bit for bit.
    """
    if module.training:
        raise ExportError(f"{type(module).__name__}: found training mode, expected eval mode: call .eval() first")
    model = _traced(module, sample)
    graph = model.graph
    _check_batch(graph, type(module).__name__)
    _free_views(graph)
    _drop_unused(graph)
    tensors = [value.name for value in graph.input if value.name != INPUT]
    if absent := [name for name in moved if name not in tensors]:
        raise ExportError(
            f"tensor {absent[0]!r} is to move, but the exported graph does not read it; expected some of "
            f"{', '.join(tensors)} (a tensor with two names keeps the first)"
        )
    onnx.checker.check_model(model, full_check=True)
    return _closed(model, moved, BASE_FILE, places or {})


def export_compact(live: bytes, kept: Mapping[str, Sequence[int]], layers: Iterable[Layer]) -> bytes:
    """Make the physically smaller graph of a mode from the live one.

    Args:
        live: What ``export_live`` returned.
        kept: Layer name to the units it keeps; a layer that is left out keeps all.
        layers: The network's layers.

    Returns:
        ONNX model whose weights are all initializers under their state-dict keys, with external data that is to be
        supplied: rows of the kept units, columns of the units that the layer it reads keeps. No weight is an input.

    Raises:
        ExportError: An operation between a layer and its reader cannot be made smaller.
    """
    model = _opened(live)
    graph = model.graph
    by_name = {layer.name: layer for layer in layers}
    sizes = left_units(kept, by_name)
    weights = {name: axes for layer in by_name.values() for name, axes in weight_axes(layer, sizes)}
    dense = _shapes(model)
    followed = follow([_operation(node) for node in graph.node], weights, Facts(dense, _integers(graph)))
    if OUTPUT in followed:
        raise ExportError(f"layer {followed[OUTPUT][1]!r} gives the network's output; expected it to keep all units")
    units = {name: (by_name[name].units, left) for name, left in sizes.items()}
    for value in graph.input:
        for axis, along in followed.get(value.name, {}).items():
            size = value.type.tensor_type.shape.dim[axis]
            size.dim_value = left_size(along, size.dim_value, units)
    for node in graph.node:
        if node.op_type == "Conv" and followed.get(node.input[1], {}).get(0) is not None:
            _shrink_groups(node, dense[node.input[1]][0], followed[node.input[1]][0], units)
    onnx.checker.check_model(model, full_check=True)
    _check_smaller(_shapes(model), dense, followed, units)
    return _closed(model, (), MODE_FILE, {})


def _shrink_groups(
    node: onnx.NodeProto, rows: int | None, along: str | Parts, units: Mapping[str, tuple[int, int]]
) -> None:
    """Make a depthwise convolution's number of groups that of the rows which are left."""
    for attribute in node.attribute:
        if attribute.name == "group" and attribute.i != 1:
            assert rows is not None
            attribute.i = left_size(along, rows, units)


def _traced(module: nn.Module, sample: Tensor) -> onnx.ModelProto:
    """Export with every parameter and buffer as an input, so that no optimisation can touch one.

    The exporter's own optimisation keeps a weight's name when it fuses normalisation into it: the bits would differ
    from the state dict under the same key.
    """
    pair = sample[:1].expand(2, *sample.shape[1:]).contiguous()  # torch.export takes a batch of 1 for a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals, nothing a user can act on
        try:
            program = torch.onnx.export(
                module, (pair,), dynamo=True, optimize=False, verbose=False, input_names=[INPUT],
                output_names=[OUTPUT], dynamic_shapes=({0: torch.export.Dim("batch")},),
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            root = _root(error)
            raise ExportError(
                f"{type(module).__name__} cannot be exported to ONNX: found {type(root).__name__}: "
                f"{str(root).partition(chr(10))[0]}; expected a forward of standard operations for any batch size"
            ) from error
        assert program is not None
        state = module.state_dict()
        values = program.model.graph.initializers
        for name in list(values):
            if name in state:
                value = values.pop(name)
                assert value.const_value is not None
                _check_bits(name, value.const_value.numpy(), state[name])
                value.const_value = None
                program.model.graph.inputs.append(value)
        program.optimize()
        model = program.model_proto
    _strip(model)
    return model


def _root(error: BaseException) -> BaseException:
    """What went wrong first; the exporter wraps it in general advice."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _check_bits(name: str, exported: np.ndarray, tensor: Tensor) -> None:
    own = tensor.detach().cpu().numpy()
    if (exported.dtype, exported.shape) != (own.dtype, own.shape) or exported.tobytes() != own.tobytes():
        raise ExportError(
            f"tensor {name!r}: found {exported.dtype}{list(exported.shape)} in the exported graph, expected "
            f"{own.dtype}{list(own.shape)} with the state dict's bits: use another version of torch"
        )


def _strip(model: onnx.ModelProto) -> None:
    """Leave out what is not the function (stack traces with paths, versions), refuse what no device should run."""
    graph = model.graph
    if any(one.type in (one.GRAPH, one.GRAPHS) for node in graph.node for one in node.attribute):
        raise ExportError("the exported graph has branches or loops; expected a forward without them")
    if model.functions or any(node.domain for node in graph.node):
        odd = next((node.op_type for node in graph.node if node.domain), "a function")
        raise ExportError(f"operation {odd} is not a standard ONNX operator; expected ops of the default domain only")
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    standard = [entry.version for entry in model.opset_import if not entry.domain]
    del model.opset_import[:]
    model.opset_import.add(domain="", version=standard[0])
    model.producer_name, model.producer_version = "geoshift", ""
    graph.name = "network"
    for tensor in graph.initializer:
        nbytes = onnx.numpy_helper.to_array(tensor).nbytes
        if nbytes > CONSTANT_LIMIT_BYTES:
            raise ExportError(
                f"constant {tensor.name!r}: found {nbytes} bytes that are in no state dict, expected at most "
                f"{CONSTANT_LIMIT_BYTES}: register it as a buffer (persistent=True)"
            )


def _check_batch(graph: onnx.GraphProto, kind: str) -> None:
    sizes = [value.type.tensor_type.shape.dim for value in (graph.input[0], *graph.output)]
    if len(sizes) != 2 or not all(dims and dims[0].dim_param == sizes[0][0].dim_param != "" for dims in sizes):
        raise ExportError(f"{kind}: expected one output whose first dimension is the batch, free in size")


def _free_views(graph: onnx.GraphProto) -> None:
    """Write reshapes without the number of channels where they flatten or keep the first two sizes."""
    known = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info, *graph.output)}
    for node in graph.node:
        if node.op_type != "Reshape" or not {node.input[0], node.output[0]} <= known.keys():
            continue
        before, after = ([d.dim_param or d.dim_value for d in known[name]] for name in (node.input[0], node.output[0]))
        inner, rest = before[1:], after[2:]
        if before[:1] == after[:1] and all(isinstance(size, int) for size in inner) and after[1:] == [prod(inner)]:
            node.op_type = "Flatten"
            del node.attribute[:], node.input[1:]
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
        elif before[:2] == after[:2] and all(isinstance(size, int) for size in rest):
            node.input[1] = f"{node.output[0]}.sizes"
            del node.attribute[:]
            graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, *rest], np.int64), node.input[1]))


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes, constants and weights that the output does not depend on."""
    needed = {OUTPUT}
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
    for field, wanted in (
        (graph.node, lambda node: needed & set(node.output)),
        (graph.initializer, lambda tensor: tensor.name in needed),
        (graph.input, lambda value: value.name in needed | {INPUT}),
    ):
        found = [one for one in field if wanted(one)]
        del field[:]
        field.extend(found)
    del graph.value_info[:]


def _closed(
    model: onnx.ModelProto, inputs: Sequence[str], location: str, places: Mapping[str, tuple[int, int]]
) -> bytes:
    """Turn weights into initializers without data, all but ``inputs``, and serialise."""
    graph = model.graph
    values = {value.name: value for value in graph.input}
    del graph.input[:]
    graph.input.extend(values[name] for name in (INPUT, *inputs))
    constants = list(graph.initializer)
    del graph.initializer[:]
    for name, value in values.items():
        if name == INPUT or name in inputs:
            continue
        kind = value.type.tensor_type
        tensor = graph.initializer.add(name=name, data_type=kind.elem_type)
        tensor.dims.extend(size.dim_value for size in kind.shape.dim)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        for key, number in zip(("offset", "length"), places.get(name, ()), strict=False):
            tensor.external_data.add(key=key, value=str(number))
    graph.initializer.extend(constants)
    return model.SerializeToString(deterministic=True)


def _opened(live: bytes) -> onnx.ModelProto:
    """The graph with all weights as inputs."""
    model = onnx.load_model_from_string(live)
    graph = model.graph
    external = [one for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in external:
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        graph.initializer.remove(tensor)
    return model


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes: dict[str, tuple[int | None, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(size.dim_value if size.HasField("dim_value") else None for size in dims)
    return shapes


def _integers(graph: onnx.GraphProto) -> dict[str, list[int]]:
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    }


def _operation(node: onnx.NodeProto) -> Operation:
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    return Operation(node.name, node.op_type, tuple(node.input), tuple(node.output), attributes)


def _check_smaller(
    shapes: Mapping[str, tuple[int | None, ...]],
    dense: Mapping[str, tuple[int | None, ...]],
    followed: Mapping[str, Axes],
    units: Mapping[str, tuple[int, int]],
) -> None:
    """Compare what ONNX infers for the smaller graph with what was followed; a difference is a bug of ours."""
    for name, shape in shapes.items():
        expected = list(dense[name])
        for axis, along in followed.get(name, {}).items():
            size = expected[axis]
            expected[axis] = None if size is None else left_size(along, size, units)
        if list(shape) != expected:
            raise ExportError(f"value {name!r} of the smaller graph: found shape {list(shape)}, expected {expected}")
