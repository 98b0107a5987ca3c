"""Bundles whose files are listed as they are and hold what they must not: each refused in its own words."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import geoshift
from runtime.errors import BundleError
from runtime.plan import bundle as bundles
from runtime.plan.bundle import CANARY, EVALUATION, GRAPH, ROWS
from runtime.plan.bundle_parts import BASE, MODES
from runtime.plan.verification import verify
from runtime.simulation.simulator import simulate
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.damage import PATHS, change, put, refused, replace, safetensors, tensors
from tests.runtime.synthetic import build, state_revealing_model

FIRST = PATHS[0]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("sound") / "plan")


@pytest.fixture
def plan(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "plan"))


def chunk(**values):
    """Change one chunk of the first path: its second one writes conv2 row 1 from version 0 to 3."""
    return {name: put(1, value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("name", "arrays", "words"),
    [
        (BASE, {"conv1.weight": None}, "tensor conv1.weight: found shape None, expected (4, 1, 3, 3)"),
        (BASE, {"conv1.bias": np.zeros(5, np.float32)}, "tensor conv1.bias: found shape (5,), expected (4,)"),
        (BASE, {"fc2.bias": np.zeros(3)}, "tensor fc2.bias: found float64, expected float32"),
        (BASE, {"fc2.bias": np.zeros(3, np.int32)}, "tensor fc2.bias: found int32, expected float32"),
        (BASE, {"fc2.bias": put(0, np.nan)}, "tensor fc2.bias: found a value that is not finite"),
        (BASE, {"conv1.weight": put((0, 0, 0, 0), -np.inf)}, "tensor conv1.weight: found a value that is not finite"),
        (ROWS, {"conv2": put((0, 0), np.inf)}, "tensor conv2: found a value that is not finite"),
        (ROWS, {"conv2": lambda rows: rows.astype(np.float16)}, "tensor conv2: found float16, expected float32"),
        (ROWS, {"conv2": lambda rows: rows[:, 1:]}, "rows of 'conv2': found shape [6, 36], expected [rows, 37]"),
        (ROWS, {"conv2": lambda rows: rows[0]}, "rows of 'conv2': found shape [37], expected [rows, 37]"),
        (ROWS, {"conv9": np.zeros((1, 1), np.float32)}, "rows of 'conv9': found shape [1, 1], expected [rows, no such"),
        (MODES, {"C2/conv2": None}, "mode C2: found layers ['conv1', 'fc1'], expected ['conv1', 'conv2', 'fc1']"),
        (MODES, {"C2/conv9": np.zeros(1, np.int32)}, "mode C2: found layers ['conv1', 'conv2', 'conv9', 'fc1']"),
        (MODES, {"C9/conv1": np.zeros(4, np.int32)}, "found array 'C9/conv1', expected those of modes C1, C2, C3 only"),
        (MODES, {"C2/conv1": np.zeros(4, np.int64)}, "layer conv1: found versions int64[4], expected int32[4]"),
        (MODES, {"C2/conv1": np.zeros(3, np.int32)}, "layer conv1: found versions int32[3], expected int32[4]"),
        (MODES, {"C2/conv1": put(0, -1)}, "layer conv1: found version -1..1, expected 0..1"),
        (MODES, {"C2/conv2": put(0, 2**31 - 1)}, "layer conv2: found version 3..2147483647, expected 0..7"),
        (MODES, {"C2/conv1": put(0, 1)}, "layer conv1: found rows of 2 units, expected those of the 3 that plan.json"),
        (MODES, {"C1/fc1": put(0, 2)}, "mode C1: found rows that are not the dense network's, expected the first mode"),
        (FIRST, {"old": None}, "found arrays ['layer', 'new', 'row'], expected ['layer', 'new', 'old', 'row']"),
        (FIRST, {"more": np.zeros(7, np.int32)}, "found arrays ['layer', 'more', 'new', 'old', 'row']"),
        (FIRST, {"row": np.zeros(7, np.int64)}, "array row: found int64[7], expected int32 and one length for all"),
        (FIRST, {"row": np.zeros(6, np.int32)}, "array row: found int32[6], expected int32 and one length for all"),
        (FIRST, {"layer": np.zeros((7, 1), np.int32)}, "array layer: found int32[7, 1], expected int32 and one length"),
        (FIRST, chunk(layer=3), "chunk 1: found layer 3, expected 0..2"),
        (FIRST, chunk(layer=-1), "chunk 1: found layer -1, expected 0..2"),
        (FIRST, chunk(row=6), "chunk 1: found row 6, expected 0..5"),
        (FIRST, chunk(row=-1), "chunk 1: found row -1, expected 0..5"),
        (FIRST, chunk(new=8), "chunk 1: found version 8, expected 0..7"),
        (FIRST, chunk(new=-2), "chunk 1: found version -2, expected 0..7"),
        (FIRST, chunk(old=5), "chunk 1: found conv2 row 1 written from version 5, expected from 0, where"),
        (FIRST, chunk(new=4), "after the last chunk: found conv2 row 1 at version 4, expected 3 as in the mode"),
        (FIRST, dict.fromkeys(("layer", "row", "old", "new"), lambda one: one[:6]), "found conv1 row 1 at version 0"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(plan, name, arrays, words):
    tensors(plan, name, **arrays)
    refused(plan, f"plan/{name}: ", words)


def test_versions_without_a_row_are_refused(plan):
    tensors(plan, ROWS, conv2=lambda rows: rows[:5])
    refused(plan, f"plan/{MODES}: mode C2: layer conv2: found version 2..7, expected 0..6")


def test_a_path_that_ends_beside_its_mode_is_refused(plan):
    tensors(plan, MODES, **{"C2/fc1": put(0, 2)})
    refused(plan, f"plan/{FIRST}: after the last chunk: found fc1 row 0 at version 0, expected 2 as in the mode")


@pytest.mark.parametrize(
    ("steps", "value", "words"),
    [
        (("modes", 1, "name"), "C1", "modes: found 'C1' twice, expected each once"),
        (("modes", 1, "kept"), {}, "layer conv1: found rows of 3 units, expected those of the 4 that plan.json"),
        (("modes", 1, "kept"), {"conv1": [3, 2, 0]}, "that plan.json says are kept, in ascending order"),
        (("modes", 1, "kept"), {"conv1": []}, "layer conv1: found no unit kept, expected at least one"),
        (("modes", 1, "kept", "conv9"), [1], "found 'conv9' among the layers that lost units, expected some of"),
        (("transitions", 0, "to"), "C9", "transition C1 → C9: found no mode 'C9', expected one of C1, C2, C3"),
        (("transitions", 0, "from"), "C9", "transition C9 → C2: found no mode 'C9', expected one of C1, C2, C3"),
        (("transitions", 0, "chunks"), 8, "found 7 chunks of 928 bytes, expected 8 of 928"),
        (("transitions", 0, "bytes_written"), 0, "found 7 chunks of 928 bytes, expected 7 of 0"),
        (("transitions", 0, "waypoints", 2, "position"), 8, "waypoints at chunks [0, 3, 8], expected them in walking"),
        (("transitions", 0, "waypoints", 1, "position"), 7, None),
        (("transitions", 0, "waypoints", 0, "position"), 4, "waypoints at chunks [4, 3, 7], expected them in walking"),
        (("layers", 0, "shape"), [9, 1, 2, 2], "tensor conv1.weight: found shape (4, 1, 3, 3), expected (9, 1, 2, 2)"),
        (("layers", 1, "name"), "conv1", "layers: found 'conv1' twice, expected each once"),
        (("layers", 1, "weight"), "conv9", "tensor conv9: found shape None, expected (6, 4, 3, 3)"),
        (("layers", 1, "columns_per_unit"), 8, "layer conv2: found 8 columns for each of the 4 units of conv1"),
        (("layers", 1, "columns_per_unit"), 10**18, "columns for each of the 4 units of conv1"),
        (("layers", 1, "reads"), "fc1", "layer conv2: found 9 columns for each of the 5 units of fc1"),
        (("labels",), ["a"], ", expected 0..0"),
        (("labels",), [], ", expected 0..-1"),
        (("model", "input_shape"), [1, 4, 5], "inputs: found float32[16, 1, 4, 4], expected float32[16, 1, 4, 5]"),
        (("model", "input_shape"), [], "inputs: found float32[16, 1, 4, 4], expected float32[16]"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_its_files_is_refused(plan, steps, value, words):
    change(plan, *steps, to=value)
    if words is None:
        bundles.read(plan)
    else:
        refused(plan, words)


@pytest.mark.parametrize(
    ("reads", "shares", "words"),
    [
        (None, [("conv2", 0, 4)], None),
        (None, [("conv1", 0, 3), ("conv1", 12, 3)], None),
        (None, [("conv1", 0, 3), ("conv1", 11, 3)], "layer fc1: found 3 columns for each of the 4 units of conv1"),
        (None, [("conv1", 13, 3)], "make up its 24 columns, from column 0 on"),
        (None, [("conv2", 1, 4)], "layer fc1: found 4 columns for each of the 6 units of conv2"),
        (None, [("conv1", 0, 10**18)], "columns for each of the 4 units of conv1"),
        ("conv2", [("conv2", 0, 4)], "layer fc1: found both reads and concatenated"),
    ],
)
def test_shares_of_a_concatenation_must_lie_side_by_side(plan, reads, shares, words):
    names = ("layer", "first", "columns_per_unit")
    change(plan, "layers", 2, "reads", to=reads)
    change(plan, "layers", 2, "concatenated", to=[dict(zip(names, share, strict=True)) for share in shares])
    if words is None:
        bundles.read(plan)
    else:
        refused(plan, words)


def test_columns_must_be_whole_input_channels(plan):
    # 4 units of 6 columns make up the 24 of fc1, seen as an input of 12 channels of 2: half a channel each.
    change(plan, "layers", 2, to=lambda layer: {**layer, "shape": [5, 2, 12]})
    tensors(plan, BASE, **{"fc1.weight": lambda array: array.reshape(5, 2, 12)})
    refused(plan, "layer fc1: found 4 columns for each of the 6 units of conv2, expected shares of shape [5, 2, 12]")


def test_two_layers_may_not_share_a_tensor(plan):
    change(plan, "layers", 1, "bias", to="fc2.bias")
    change(plan, "layers", 2, "bias", to="fc2.bias")
    tensors(plan, BASE, **{"fc2.bias": np.zeros(6, np.float32), "fc1.weight": np.zeros((6, 24), np.float32)})
    change(plan, "layers", 2, "shape", to=[6, 24])
    refused(plan, "plan.json: weights and biases of layers: found 'fc2.bias' twice, expected each once")


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize("name", [BASE, ROWS, MODES, *PATHS])
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "header too small"),
        (b"\xff" * 16, "header too large"),
        (safetensors(b"no JSON"), "invalid JSON in header"),
        (safetensors(b"\xff"), "invalid UTF-8 in header"),
        (safetensors(b'{"a": ' + b"[" * 10_000 + b"}"), "invalid JSON in header"),
        (safetensors({"a": F32}, b"1234"), "incomplete metadata, file not fully covered"),
        (safetensors({"a": F32}, b"12345678" + b"x"), "incomplete metadata, file not fully covered"),
        (safetensors({"a": {**F32, "shape": [3]}}, b"12345678"), "invalid shape, data type, or offset"),
        (safetensors({"a": {**F32, "shape": [-2]}}, b"12345678"), "invalid JSON in header"),
        (safetensors({"a": {**F32, "shape": [2**62, 2**62]}}, b"12345678"), "overflow computing buffer size"),
        (safetensors({"a": {**F32, "shape": [0, 2**62], "data_offsets": [0, 0]}}), "found no safetensors file ("),
        (safetensors({"a": {**F32, "shape": [2] + [1] * 70}}, b"12345678"), "maximum supported dimension"),
        (safetensors({"a": F32, "b": F32}, b"12345678"), "invalid offset"),
        (safetensors({"a": {**F32, "data_offsets": [8, 0]}}, b"12345678"), "invalid offset"),
        (safetensors({"a": {**F32, "dtype": "BF16", "shape": [4]}}, b"12345678"), "found tensors of type 'BF16'"),
        (safetensors({"a": {**F32, "dtype": "EVIL"}}, b"12345678"), "invalid JSON in header"),
    ],
)
def test_a_hostile_safetensors_file_is_refused(plan, name, raw, words):
    replace(plan, name, raw)
    refused(plan, f"plan/{name}: found ", words)


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


INPUTS, LABELS = np.zeros((2, 1, 4, 4), np.float32), np.zeros(2, np.int64)


@pytest.mark.parametrize("name", [CANARY, EVALUATION])
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"no archive", "found no .npz file (File is not a zip file), expected one; copy the bundle again"),
        (npz(inputs=INPUTS, labels=np.array([0, 3])), "labels: found 0..3, expected 0..2"),
        (npz(inputs=INPUTS, labels=np.array([-1, 0])), "labels: found -1..0, expected 0..2"),
        (npz(inputs=INPUTS, labels=np.array([None, 0])), "Object arrays cannot be loaded when allow_pickle=False"),
        (npz(inputs=INPUTS[:, :, 1:], labels=LABELS), "found float32[2, 1, 3, 4], expected float32[2, 1, 4, 4]"),
        (npz(inputs=INPUTS * np.nan, labels=LABELS), "inputs: found a value that is not finite, expected finite"),
    ],
)
def test_hostile_samples_are_refused(plan, name, raw, words):
    replace(plan, name, raw)
    refused(plan, f"plan/{name}: ", words)


def test_a_bomb_is_not_unpacked(plan):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("inputs.npy", "labels.npy"):
            archive.writestr(name, b"\0" * 10_000)
    for where in (b"PK\x01\x02", b"PK\x03\x04"):  # say in both directories that the first one is of 1 GiB
        raw = bytearray(buffer.getvalue())
        at = raw.index(where) + (24 if where == b"PK\x01\x02" else 22)
        raw[at : at + 4] = (1 << 30).to_bytes(4, "little")
        buffer = io.BytesIO(raw)
    replace(plan, EVALUATION, buffer.getvalue())
    refused(plan, f"plan/{EVALUATION}: unpacks to {(1 << 30) + 10_000} bytes, expected at most {1 << 30}")


OTHER = state_revealing_model(4)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "found no ONNX model (0 times a graph), expected one; copy the bundle again"),
        (b"no ONNX model", "found no ONNX model ("),
        (OTHER.model, "found inputs layer.weight, expected beside the sample conv1.bias, "),
    ],
)
def test_a_graph_that_is_not_the_network_is_refused_when_it_is_opened(plan, raw, words):
    replace(plan, GRAPH, raw)
    uses = (
        lambda path: Net(bundles.read(path), profile(bank__snap=False)),
        lambda path: verify(bundles.read(path), profile()),
        lambda path: simulate(bundles.read(path), profile()),
    )
    for use in uses:
        refused(plan, f"plan/{GRAPH}: ", words, read=use)


def test_graphs_in_each_other_s_places_are_refused(plan):
    live, compact = ((plan / name).read_bytes() for name in (GRAPH, "graphs/C1.onnx"))
    replace(plan, "graphs/C1.onnx", live)
    refused(
        plan, "plan/graphs/C1.onnx: found inputs conv1.bias, ", "expected beside the sample none", read=geoshift.open
    )
    replace(plan, GRAPH, compact)
    refused(
        plan,
        f"plan/{GRAPH}: tensor 'conv1.weight': found none, expected float32[4, 1, 3, 3]",
        read=lambda path: verify(bundles.read(path), profile()),
    )


def test_a_bad_live_graph_leaves_the_compact_network_answering(plan):
    replace(plan, GRAPH, OTHER.model)
    with geoshift.open(plan) as net:
        x = net.bundle.evaluation.inputs[:5]
        before = net.infer(x)
        for _ in range(2):
            result = net.switch("C2").wait(30)
            assert (result.outcome, result.mode, result.bytes_written) == (Outcome.ROLLED_BACK, "C1", 0)
            assert f"{plan}/{GRAPH}: " in result.reason
            assert net.infer(x).tobytes() == before.tobytes()


def flatten(input_shape, output_shape):
    return build([helper.make_node("Flatten", ["input"], ["output"])], input_shape, output_shape, {}, {})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"no ONNX model", "found no ONNX model ("),
        (OTHER.model, "found inputs layer.weight, expected beside the sample none"),
        (flatten(["batch", 9], ["batch", 9]), "input: found shape ['any', 9], expected ['any', 1, 4, 4]; plan again"),
        (flatten([1, 1, 4, 4], [1, 16]), "input: found shape [1, 1, 4, 4], expected ['any', 1, 4, 4]"),
        (flatten(["batch", 1, 4, 4], ["batch", 16]), "output: found shape ['any', 16], expected ['any', 3]"),
    ],
)
def test_a_bad_compact_graph_leaves_the_network_at_its_mode(plan, raw, words):
    replace(plan, "graphs/C2.onnx", raw)
    with geoshift.open(plan) as net:
        x = net.bundle.evaluation.inputs[:5]
        before = net.infer(x)
        result = net.switch("C2").wait(30)
        assert (result.outcome, result.mode, net.mode) == (Outcome.ROLLED_BACK, "C1", "C1")
        assert f"BundleError: {plan}/graphs/C2.onnx: {words}" in result.reason
        assert net.infer(x).tobytes() == before.tobytes()
        assert net.switch("C3").wait(30).outcome is Outcome.COMMITTED


def test_every_case_above_is_a_bundle_error_for_the_writer_too(plan):
    bundle = bundles.read(plan)
    files = {name: raw for name, raw in bundle.files.items() if name != "plan.json"}
    target = plan.parent / "copy"
    with pytest.raises(BundleError, match=f"{BASE}: found no safetensors file"):
        bundles.write(target, bundle.manifest, {**files, BASE: b""}, replace=False)
    with pytest.raises(BundleError, match=r"files: found path '../x', expected one inside the bundle"):
        bundles.write(target, bundle.manifest, {**files, "../x": b""}, replace=False)
    assert not target.exists()
