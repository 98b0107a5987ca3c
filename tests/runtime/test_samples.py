"""Labelled samples: packed the same way every time, and unpacked only if they are just that."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.errors import BundleError
from runtime.plan.samples import MAX_UNPACKED_BYTES, Samples, pack, unpack

SAMPLES = Samples(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.array([0, 4]))
SHAPE, CLASSES = (3, 4), 5


def read(raw, shape=SHAPE, classes=CLASSES):
    return unpack(raw, "plan/eval.npz", shape, classes)


def archive(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, content in members:
            # Without the time of day: cases are named by their bytes, and all processes must find the same ones.
            member = zipfile.ZipInfo(name)
            member.compress_type = method
            target.writestr(member, content)
    return buffer.getvalue()


def npy(array, **how):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), **how)
    return buffer.getvalue()


def header(text="", data=b"", descr="'<f4'", shape="(1,)"):
    """A .npy file whose header is any text, or one that describes an array."""
    text = text or f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
    raw = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + data


INPUTS, LABELS = npy(SAMPLES.inputs), npy(SAMPLES.labels)
BOTH = [("inputs.npy", INPUTS), ("labels.npy", LABELS)]


def pair(inputs=INPUTS, labels=LABELS):
    return archive([("inputs.npy", inputs), ("labels.npy", labels)])


def test_what_is_packed_is_unpacked():
    for raw in (pack(SAMPLES), pair(), archive([("labels.npy", LABELS), ("inputs.npy", INPUTS)], zipfile.ZIP_STORED)):
        found = read(raw)
        assert (found.inputs.dtype, found.labels.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(found.inputs, SAMPLES.inputs)
        np.testing.assert_array_equal(found.labels, SAMPLES.labels)
        assert (len(found), len(found.take(1))) == (2, 1)


def test_the_same_samples_are_packed_to_the_same_bytes(monkeypatch):
    raw = pack(SAMPLES)
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    assert pack(SAMPLES) == raw


def huge():
    """A header that claims far more than follows: nothing of that size may be filled."""
    return pair(inputs=header(data=b"\0" * 48, shape=f"({2**36}, 3, 4)"))


def lying():
    """An archive whose directory says that a member is smaller than it is."""
    raw = bytearray(pair(inputs=npy(np.zeros((1000, 3, 4), np.float32))))
    at = raw.index(b"PK\x01\x02") + 24
    raw[at : at + 4] = (200).to_bytes(4, "little")
    return bytes(raw)


def encrypted():
    raw = bytearray(pair())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + flags] |= 1
    return bytes(raw)


def method(number):
    raw = bytearray(pair())
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = raw.index(mark) + place
        raw[at : at + 2] = number.to_bytes(2, "little")
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "found no .npz file (File is not a zip file), expected one; copy the bundle again"),
        (npy(SAMPLES.inputs), "found no .npz file (File is not a zip file)"),
        (pack(SAMPLES)[:-1], "found no .npz file (File is not a zip file)"),
        (pack(SAMPLES)[1:], "found no .npz file ("),
        (archive([]), "found [], expected inputs.npy and labels.npy"),
        (archive([("inputs.npy", INPUTS)]), "found ['inputs.npy'], expected inputs.npy and labels.npy"),
        (archive([("inputs", INPUTS), ("labels", LABELS)]), "found ['inputs', 'labels'], expected inputs.npy and"),
        (archive([*BOTH, ("x", b"")]), "found ['inputs.npy', 'labels.npy', 'x'], expected inputs.npy and labels.npy"),
        (archive([("../inputs.npy", INPUTS), BOTH[1]]), "found ['../inputs.npy', 'labels.npy'], expected"),
        (pair(inputs=b"no array"), "found a member that is no array, expected the arrays inputs and labels"),
        (pair(labels=b""), "found a member that is no array, expected the arrays inputs and labels"),
        (pair(inputs=npy(np.array([{}, None]), allow_pickle=True)), "Object arrays cannot be loaded when allow_pickle"),
        (pair(inputs=header(data=b"cos\nsystem\n.", descr="'|O'")), "Object arrays cannot be loaded"),
        (pair(inputs=INPUTS[:-1]), "found no .npz file ("),
        (pair(inputs=header("{'descr': '<f4'}")), "found no .npz file ("),
        (pair(inputs=header("(" * 5000)), "found no .npz file ("),
        (pair(inputs=header("'''")), "found no .npz file ("),
        (pair(inputs=header(data=b"\0" * 96, shape="(-2, 3, 4)")), "found no .npz file ("),
        (pair(inputs=header(data=b"\0" * 4, descr="[('a', '<f4')]")), "inputs: found [('a', '<f4')][1]"),
        (pair(inputs=header("__import__('os').system('true')")), "found no .npz file ("),
        (huge(), "found no .npz file ("),
        (lying(), "found no .npz file ("),
        (encrypted(), "found no .npz file (File 'inputs.npy' is encrypted"),
        (method(99), "found no .npz file (That compression method is not supported)"),
        (method(zipfile.ZIP_LZMA), "found no .npz file ("),
        (method(zipfile.ZIP_BZIP2), "found no .npz file ("),
        (pair(labels=npy(np.int64(0))), "labels: found int64[], expected int64[N], N ≥ 1"),
        (pair(labels=npy(np.zeros((2, 1), np.int64))), "labels: found int64[2, 1], expected int64[N], N ≥ 1"),
        (pair(npy(np.zeros((0, 3, 4), np.float32)), npy(np.zeros(0, np.int64))), "labels: found int64[0], expected"),
        (pair(labels=npy(np.zeros(2, np.int32))), "labels: found int32[2], expected int64[N]"),
        (pair(labels=npy(np.zeros(2, ">i8"))), "labels: found >i8[2], expected int64[N]"),
        (pair(labels=npy(np.zeros(3, np.int64))), "inputs: found float32[2, 3, 4], expected float32[3, 3, 4]"),
        (pair(npy(np.float32(0))), "inputs: found float32[], expected float32[2, 3, 4]"),
        (pair(npy(SAMPLES.inputs.astype(np.float64))), "inputs: found float64[2, 3, 4], expected float32[2, 3, 4]"),
        (pair(npy(SAMPLES.inputs.astype(">f4"))), "inputs: found >f4[2, 3, 4], expected float32[2, 3, 4]"),
        (pair(npy(SAMPLES.inputs[:, 0])), "inputs: found float32[2, 4], expected float32[2, 3, 4]"),
        (pair(labels=npy(np.array([0, 5]))), "labels: found 0..5, expected 0..4"),
        (pair(labels=npy(np.array([-1, 0]))), "labels: found -1..0, expected 0..4"),
        (pair(npy(np.full((2, 3, 4), np.inf, np.float32))), "inputs: found a value that is not finite"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(raw, words):
    with pytest.raises(BundleError) as caught:
        read(raw)
    assert str(caught.value).startswith("plan/eval.npz: ")
    assert words in str(caught.value)


def test_more_than_the_limit_is_not_unpacked(monkeypatch):
    monkeypatch.setattr("runtime.plan.samples.np.load", lambda *_, **__: pytest.fail("it was unpacked"))
    raw = bytearray(pair())
    at = raw.index(b"PK\x01\x02") + 24
    raw[at : at + 4] = MAX_UNPACKED_BYTES.to_bytes(4, "little")
    with pytest.raises(BundleError, match=r"unpacks to \d+ bytes, expected at most 1073741824"):
        read(bytes(raw))


PACKED = pack(SAMPLES)


@given(st.integers(0, len(PACKED) - 1), st.binary(min_size=1, max_size=4))
@example(0, b"\xff")
def test_damage_is_a_bundle_error_or_does_no_harm(place, junk):
    raw = PACKED[:place] + junk + PACKED[place + len(junk) :]
    try:
        found = read(raw)
    except BundleError:
        return
    np.testing.assert_array_equal(found.inputs, SAMPLES.inputs)
