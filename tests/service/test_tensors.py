"""Tensors of the inference protocol: the well formed come through bit for bit, all else is refused by name."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.service import tensors
from runtime.service.tensors import TensorError

SHAPE = (1, 2, 2)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def arrays(shape=SHAPE):
    return st.integers(1, 4).flatmap(lambda n: hnp.arrays(np.float32, (n, *shape), elements=FLOATS))


def request(**changes):
    base = {"name": "input", "shape": [1, *SHAPE], "datatype": "FP32", "data": [1, 2, 3, 4]}
    return json.dumps({"inputs": [{**base, **changes}]}).encode()


def binary(x, head=None, **changes):
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"inputs": [{**tensor, **changes}], **(head or {})}).encode()
    return text + x.astype("<f4").tobytes(), str(len(text))


@given(arrays(), st.booleans())
def test_json_comes_through_bit_for_bit_flat_or_nested(x, nested):
    data = x.astype(float).tolist() if nested else x.astype(float).ravel().tolist()
    body = request(shape=list(x.shape), data=data)
    assert tensors.decode(body, None, SHAPE).x.tobytes() == x.tobytes()


@given(arrays(), st.integers(0, 7))
def test_raw_tensors_come_through_bit_for_bit_wherever_they_begin(x, padding):
    body, length = binary(x, {"id": "i" * padding})
    question = tensors.decode(body, length, SHAPE)
    assert question.x.tobytes() == x.tobytes()
    assert question.x.flags.aligned
    assert question.x.flags.writeable


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=FLOATS), st.booleans())
def test_answers_come_through_bit_for_bit(answer, raw):
    question = tensors.Question(np.zeros((1, *SHAPE), np.float32), "me", raw)
    body, end = tensors.encode(answer, question, "m", "1")
    head = json.loads(body[:end])
    assert (head["id"], head["model_name"], head["model_version"]) == ("me", "m", "1")
    (output,) = head["outputs"]
    assert output["shape"] == list(answer.shape)
    if raw:
        assert output["parameters"]["binary_data_size"] == len(body) - end
        assert body[end:] == answer.astype("<f4").tobytes()
    else:
        assert end is None
        assert np.array(output["data"], np.float32).tobytes() == answer.tobytes()


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "output", "parameters": {"binary_data": True}}]}, True),
        ({"outputs": [{"name": "output"}], "parameters": {"binary_data_output": True}}, True),
        (
            {
                "outputs": [{"name": "output", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
        ({"parameters": {"priority": 3, "sequence_id": "x"}}, False),
    ],
)
def test_the_output_comes_as_the_client_wants_it(head, wanted):
    body, length = binary(np.zeros((1, *SHAPE), np.float32), head)
    assert tensors.decode(body, length, SHAPE).binary is wanted


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "inptu"}, "inptu"),
        ({"datatype": "INT64"}, "INT64"),
        ({"shape": [1, 2, 2]}, "shape"),
        ({"shape": [1, 1, 2, 3]}, "shape"),
        ({"shape": [0, *SHAPE], "data": []}, "N from 1"),
        ({"shape": [-1, *SHAPE]}, "shape"),
        ({"shape": [1 << 41, *SHAPE]}, "shape"),
        ({"shape": [1 << 39, *SHAPE]}, "N from 1"),
        ({"shape": []}, "shape"),
        ({"shape": [1] * 9}, "shape"),
        ({"shape": "many"}, "shape"),
        ({"data": [1, 2, 3]}, "3 numbers"),
        ({"data": [1, 2, 3, 4, 5]}, "5 numbers"),
        ({"data": [1, 2, 3, "4"]}, "str"),
        ({"data": [1, 2, 3, True]}, "bool"),
        ({"data": [1, 2, 3, None]}, "null"),
        ({"data": [[1, 2], [3, 4]]}, "2 deep"),
        ({"data": [[[[1, 2], [3]]]]}, "equal length"),
        ({"data": [[[[1, 2, 3, 4]]]]}, "shape"),
        ({"data": 4}, "0 deep"),
        ({"data": {}}, "0 deep"),
        ({"data": None}, "deep"),
        ({"data": [1, 2, 3, 1e39]}, "not finite"),
        ({"data": [1, 2, 3, 10**400]}, "data"),
        ({"parameters": {"binary_data_size": 16}}, "both"),
    ],
)
def test_a_malformed_tensor_is_refused_by_name(changes, said):
    with pytest.raises(TensorError, match=said):
        tensors.decode(request(**changes), None, SHAPE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"inputs": ' + b"[" * 100_000,
        b'{"inputs": []}',
        b'{"inputs": [{"name": "input", "shape": [1,1,2,2], "datatype": "FP32"}]}',
        b'{"inputs": [{"name": "input", "shape": [1,1,2,2], "datatype": "FP32", "data": ' + b"[" * 50_000 + b"1",
        b'{"inputs": [{"name": "input", "shape": [1,1,2,2], "datatype": "FP32", "data": ' + b"[" * 900 + b"}]}",
        b'{"inputs": [{"name": "input", "shape": [1,1,2,2], "datatype": "FP32", "data": [NaN,1,2,3]}]}',
        b"\xff\xfe",
        b'{"inputs": "\xff"}',
    ],
)
def test_no_body_does_anything_but_come_through_or_be_refused(body):
    with pytest.raises(TensorError):
        tensors.decode(body, None, SHAPE)


@pytest.mark.parametrize("length", ["", "-1", "0", "1e3", "99999999999", "१", " 5", "5 ", "0x10", "1000000"])
def test_a_wrong_length_of_the_json_is_refused(length):
    with pytest.raises(TensorError, match="header"):
        tensors.decode(request(), length, SHAPE)


@pytest.mark.parametrize("size", [0, 15, 17, -16, 1 << 62, 16.0, "16", True])
def test_a_wrong_size_of_a_raw_tensor_is_refused(size):
    x = np.zeros((1, *SHAPE), np.float32)
    body, length = binary(x, parameters={"binary_data_size": size})
    with pytest.raises(TensorError, match="binary_data_size"):
        tensors.decode(body, length, SHAPE)


@pytest.mark.parametrize("change", [-1, 1, 100])
def test_bytes_that_are_missing_or_left_over_are_refused(change):
    body, length = binary(np.zeros((1, *SHAPE), np.float32))
    body = body + b"\0" * change if change > 0 else body[:change]
    with pytest.raises(TensorError, match="after the JSON"):
        tensors.decode(body, length, SHAPE)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(odd):
    x = np.zeros((1, *SHAPE), np.float32)
    x[0, 0, 1, 1] = odd
    with pytest.raises(TensorError, match="finite"):
        tensors.decode(*binary(x), SHAPE)


def test_json_that_would_take_too_much_memory_is_refused_before_it_is_read():
    with pytest.raises(TensorError, match="binary"):
        tensors.decode(b" " * (tensors.MAX_JSON_BYTES + 1), None, SHAPE)


@given(st.binary(max_size=200), st.none() | st.integers(0, 300).map(str))
def test_any_bytes_are_refused_in_words(body, length):
    with pytest.raises(TensorError):
        tensors.decode(body, length, SHAPE)


@given(st.data())
def test_a_flipped_byte_is_refused_or_is_a_number(data):
    x = np.ones((2, *SHAPE), np.float32)
    body, length = binary(x)
    place = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        found = tensors.decode(bytes(changed), length, SHAPE).x
    except TensorError:
        return
    assert found.shape == x.shape
    assert np.isfinite(found).all()


def test_two_inputs_and_unknown_outputs_are_refused():
    one = json.loads(request())["inputs"][0]
    for body, said in (
        ({"inputs": [one, one]}, "expected one"),
        ({"inputs": [one] * 9}, "inputs"),
        ({"inputs": [one], "outputs": [{"name": "else"}]}, "else"),
        ({"inputs": [one], "outputs": [{"name": "output", "parameters": {"classification": 3}}]}, "classification"),
        ({"inputs": [one], "parameters": {"binary_data_output": "yes"}}, "binary_data"),
    ):
        with pytest.raises(TensorError, match=said):
            tensors.decode(json.dumps(body).encode(), None, SHAPE)


def test_an_answer_that_json_cannot_say_is_an_error_and_never_a_null():
    odd = np.array([[np.nan]], np.float32)
    question = tensors.Question(np.zeros((1, *SHAPE), np.float32), "", False)
    with pytest.raises(TensorError, match="binary"):
        tensors.encode(odd, question, "m", "1")
    raw, end = tensors.encode(odd, tensors.Question(question.x, "", True), "m", "1")
    assert np.isnan(struct.unpack("<f", raw[end:])[0])
