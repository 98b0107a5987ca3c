"""Tensors of an ONNX file: those it holds, and those in files beside it, within limits.

A path in a file of a stranger must not choose what is read: external data comes from plain files in the model's folder
or below it, of the stated size, up to a limit.

Reference:
    https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from device_profiles.errors import GeoshiftError

Array = NDArray[Any]

_FLOATS: Final = (np.float16, np.float32)


class OnnxFileError(GeoshiftError):
    """An ONNX file cannot be read, or holds what no weights can be taken from."""


def read_bytes(path: Path, offset: int, length: int | None, limit: int) -> bytes:
    """Bytes of a plain file.

    Args:
        path: The file.
        offset: Where to begin.
        length: How many; None for all.
        limit: How many at most.

    Raises:
        OnnxFileError: There is no such plain file, it is too large, or ends too early.
    """
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


def external_tensors(path: Path, graph: onnx.GraphProto, limit: int) -> dict[str, Array]:
    """Tensors that lie in files beside the model, by name.

    Args:
        path: The model.
        graph: Its graph.
        limit: Bytes of all of them together, at most.

    Raises:
        OnnxFileError: A tensor's file is missing, lies elsewhere, or the tensor is of another size than it says.
    """
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
        raw = read_bytes(_beside(path, said.get("location", ""), where), offset, length, left)
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


def known_values(path: Path, graph: onnx.GraphProto, external: Mapping[str, Array]) -> dict[str, Array]:
    """All values that are known without an input: initializers, constants, and copies of these in another layout.

    Raises:
        OnnxFileError: A tensor is damaged, or lies outside of the model though it belongs to an operation.
    """
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


def as_float32(array: Array) -> Array | None:
    """The array as contiguous float32; None where it holds no floats of that size or half of it."""
    return np.ascontiguousarray(array, np.float32) if array.dtype in _FLOATS else None
