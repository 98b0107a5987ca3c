"""Tensors of the Open Inference Protocol v2, as JSON and in its binary form.

A request is JSON. With the header ``Inference-Header-Content-Length: n`` only its first n bytes are, and the raw
tensors follow, one after the other, each as long as its ``binary_data_size`` says. The network has one input and one
output, both FP32 with the batch as first axis; everything else is refused by name. Sizes are checked before memory is
taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from device_profiles.errors import GeoshiftError, describe
from runtime.walking.rows import Floats

INPUT: Final = "input"
OUTPUT: Final = "output"
DATATYPE: Final = "FP32"
LENGTH_HEADER: Final = "inference-header-content-length"
BINARY_EXTENSION: Final = "binary_tensor_data"
MAX_JSON_BYTES: Final = 4 << 20
"""A number takes two bytes of JSON at least and forty of Python's memory: 4 MiB become 80 MiB at worst."""
JSON_GROWTH: Final = 20
"""Bytes of memory for a byte of JSON, as above."""
MAX_TENSORS: Final = 8
MAX_RANK: Final = 8
MAX_SAMPLES: Final = 4096
_OPENING: Final = re.compile(rb"[\[ \t\r\n]*")

Size = Annotated[int, Meta(ge=0, le=1 << 40)]
Shape = Annotated[tuple[Size, ...], Meta(min_length=1, max_length=MAX_RANK, description="the batch first")]
Parameters = dict[str, bool | int | float | str | None]
RAW_SIZE: Final = "binary_data_size: bytes of the raw tensor that follows the JSON, four for each number."


class TensorError(GeoshiftError):
    """A request of the inference protocol is malformed. Nothing was computed."""


class InferInput(msgspec.Struct, frozen=True):
    """A tensor for the network, its numbers either here or raw behind the JSON."""

    name: Annotated[str, Meta(description=f"expected {INPUT!r}")]
    shape: Shape
    datatype: Annotated[str, Meta(description=f"expected {DATATYPE!r}")]
    parameters: Annotated[Parameters, Meta(description=RAW_SIZE)] = {}
    data: (
        Annotated[
            msgspec.Raw,
            Meta(
                description="numbers, flat in C order or nested as the shape says; absent with binary_data_size",
                extra_json_schema={"type": "array"},
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class WantedOutput(msgspec.Struct, frozen=True):
    """How the output is wanted."""

    name: Annotated[str, Meta(description=f"expected {OUTPUT!r}")]
    parameters: Annotated[Parameters, Meta(description="binary_data: whether its numbers come raw")] = {}


class InferRequest(msgspec.Struct, frozen=True):
    """A question of the Open Inference Protocol v2."""

    inputs: Annotated[tuple[InferInput, ...], Meta(max_length=MAX_TENSORS, description="the network takes one")]
    outputs: Annotated[tuple[WantedOutput, ...], Meta(max_length=MAX_TENSORS, description="the network has one")] = ()
    id: Annotated[str, Meta(max_length=256, description="the caller's own, given back")] = ""
    parameters: Annotated[
        Parameters, Meta(description="binary_data_output: whether numbers come raw where an output does not say")
    ] = {}


class InferOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """The network's answer, its numbers either here or raw behind the JSON."""

    name: str
    datatype: str
    shape: Shape
    parameters: Annotated[Parameters, Meta(description=RAW_SIZE)] = {}
    data: Annotated[list[float], Meta(description="flat in C order")] | msgspec.UnsetType = msgspec.UNSET


class InferResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer of the Open Inference Protocol v2."""

    model_name: str
    model_version: str
    outputs: tuple[InferOutput, ...]
    id: str = ""


@dataclass(frozen=True)
class Question:
    """A decoded request.

    Attributes:
        x: Input, float32, C order, shape [N, ...].
        id: The caller's own, given back.
        binary: Whether the answer's tensor is wanted raw.
    """

    x: Floats
    id: str
    binary: bool


def memory_bytes(body_bytes: int, json_length: str | None) -> int:
    """Memory that a request may come to take once it is decoded.

    Args:
        body_bytes: Length of its body.
        json_length: The header that says how much of it is JSON; None for all.
    """
    given = int(json_length) if json_length is not None and re.fullmatch(r"[0-9]{1,10}", json_length) else body_bytes
    json_bytes = min(given, body_bytes, MAX_JSON_BYTES)
    # A raw tensor is read once and copied once.
    return JSON_GROWTH * json_bytes + 2 * body_bytes


def decode(body: bytes | bytearray, json_length: str | None, sample_shape: tuple[int, ...]) -> Question:
    """Read a request.

    Args:
        body: All of it.
        json_length: The header that says how much of it is JSON; None for all.
        sample_shape: Shape of one sample, without the batch axis.

    Raises:
        TensorError: Anything about it is not as the protocol says; the text names the field.
    """
    end = _json_end(body, json_length)
    try:
        request = msgspec.json.decode(memoryview(body)[:end], type=InferRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TensorError(f"request: {error}; send a request of the Open Inference Protocol v2") from error
    if len(request.inputs) != 1:
        raise TensorError(f"inputs: found {len(request.inputs)}, expected one, named {INPUT!r}")
    given = request.inputs[0]
    _check_input(given, sample_shape)
    raw = _raw(given, memoryview(body)[end:])
    x = _from_json(given) if raw is None else _from_bytes(given, raw)
    if not np.isfinite(x).all():
        raise TensorError(f"input {INPUT!r}: found a number that is not finite in float32, expected finite ones")
    return Question(x, request.id, _wants_binary(request))


def encode(answer: Floats, question: Question, model: str, version: str) -> tuple[bytes, int | None]:
    """Write a response.

    Args:
        answer: Output, float32 [N, outputs].
        question: What was asked.
        model: Name of the model.
        version: Its version.

    Returns:
        Body, and how much of it is JSON; None for all.

    Raises:
        TensorError: The output is not finite and JSON was asked for, which has no such numbers.
    """
    raw = b""
    if question.binary:
        raw = np.ascontiguousarray(answer, "<f4").tobytes()
        output = InferOutput(OUTPUT, DATATYPE, answer.shape, parameters={"binary_data_size": len(raw)})
    elif np.isfinite(answer).all():
        output = InferOutput(OUTPUT, DATATYPE, answer.shape, data=answer.ravel().tolist())
    else:
        raise TensorError(f"output {OUTPUT!r}: found a number that is not finite; ask for binary data to see it")
    text = msgspec.json.encode(InferResponse(model, version, (output,), question.id))
    return text + raw, len(text) if question.binary else None


def _json_end(body: bytes | bytearray, json_length: str | None) -> int:
    """Where JSON ends and raw tensors begin."""
    end = len(body)
    if json_length is not None:
        if not re.fullmatch(r"[0-9]{1,10}", json_length) or not 0 < int(json_length) <= len(body):
            raise TensorError(
                f"{LENGTH_HEADER}: found {describe(json_length)}, expected 1 to {len(body)}, the bytes of this body"
            )
        end = int(json_length)
    if end > MAX_JSON_BYTES:
        raise TensorError(f"request: found {end} bytes of JSON, expected at most {MAX_JSON_BYTES}; send binary tensors")
    return end


def _check_input(given: InferInput, sample_shape: tuple[int, ...]) -> None:
    """Refuse a tensor that the network does not take, before any of its numbers is looked at."""
    if given.name != INPUT:
        raise TensorError(f"inputs: found {describe(given.name)}, expected {INPUT!r}")
    if given.datatype != DATATYPE:
        raise TensorError(f"input {INPUT!r}: datatype: found {describe(given.datatype)}, expected {DATATYPE!r}")
    if given.shape[1:] != sample_shape or not 1 <= given.shape[0] <= MAX_SAMPLES:
        expected = ", ".join(["N", *map(str, sample_shape)])
        raise TensorError(
            f"input {INPUT!r}: shape: found {list(given.shape)}, expected [{expected}] with N from 1 to {MAX_SAMPLES}"
        )


def _raw(given: InferInput, rest: memoryview) -> memoryview | None:
    """The raw bytes of the tensor; None when its numbers are in the JSON."""
    size = given.parameters.get("binary_data_size")
    if size is None:
        if len(rest):
            raise TensorError(
                f"request: found {len(rest)} bytes after the JSON, expected none without binary_data_size"
            )
        if given.data is msgspec.UNSET:
            raise TensorError(f"input {INPUT!r}: found neither data nor binary_data_size, expected one of them")
        return None
    if given.data is not msgspec.UNSET:
        raise TensorError(f"input {INPUT!r}: found both data and binary_data_size, expected one of them")
    expected = 4 * prod(given.shape)
    if type(size) is not int or size != expected:
        raise TensorError(
            f"input {INPUT!r}: binary_data_size: found {describe(size)}, expected {expected} as its shape says"
        )
    if len(rest) != expected:
        raise TensorError(f"request: found {len(rest)} bytes after the JSON, expected {expected}")
    return rest


def _from_bytes(given: InferInput, raw: memoryview) -> Floats:
    # A copy: the session wants aligned memory, and a header may have any length.
    return np.frombuffer(raw, "<f4").reshape(given.shape).astype(np.float32)


def _from_json(given: InferInput) -> Floats:
    """Numbers of a JSON list, flat or nested as the shape says."""
    raw = b"" if given.data is msgspec.UNSET else bytes(given.data)
    opening = _OPENING.match(raw)
    depth = opening.group().count(b"[") if opening is not None else 0
    if depth not in (1, len(given.shape)):
        raise TensorError(
            f"input {INPUT!r}: data: found a list {depth} deep, expected a flat one or one {len(given.shape)} deep"
        )
    kind: Any = float
    for _ in range(depth):
        kind = list[kind]
    try:
        numbers = msgspec.json.decode(raw, type=kind)
        with np.errstate(over="ignore"):  # it becomes infinite, and is refused by name later
            x = np.array(numbers, np.float32)
    except (msgspec.DecodeError, ValueError) as error:
        raise TensorError(f"input {INPUT!r}: data: {error}; expected numbers, in lists of equal length") from error
    if x.size != prod(given.shape) or (depth > 1 and x.shape != given.shape):
        raise TensorError(
            f"input {INPUT!r}: data: found {x.size} numbers in lists of shape {list(x.shape)}, expected "
            f"{prod(given.shape)} as the shape {list(given.shape)} says"
        )
    return x.reshape(given.shape)


def _wants_binary(request: InferRequest) -> bool:
    """Whether the output goes out raw; an output's own wish goes before the request's."""
    wish = request.parameters.get("binary_data_output", False)
    for output in request.outputs:
        if output.name != OUTPUT:
            raise TensorError(f"outputs: found {describe(output.name)}, expected {OUTPUT!r}")
        if output.parameters.get("classification"):
            raise TensorError(f"output {OUTPUT!r}: classification: not offered; ask for the numbers, and sort them")
        wish = output.parameters.get("binary_data", wish)
    if type(wish) is not bool:
        raise TensorError(f"binary_data: found {describe(wish)}, expected true or false")
    return wish
