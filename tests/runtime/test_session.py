import ast
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import runtime
from runtime.errors import BundleError
from runtime.walking import session as module
from runtime.walking.session import InputError, Session
from tests.runtime.synthetic import (
    TORN,
    build,
    code_rows,
    external,
    forward,
    revealed_versions,
    state_revealing_model,
    synthetic_model,
)

FLOAT32_FORWARD = 1e-4
"""Sums of up to 36 products near 1 in float32, three layers deep, against float64: errors of 1e-6 were seen."""


@pytest.fixture(scope="module")
def synthetic():
    return synthetic_model()


@pytest.fixture(scope="module")
def session(synthetic):
    return Session(synthetic.model, synthetic.constants)


def moved(synthetic):
    return {name: one.copy() for name, one in synthetic.base.items() if name not in synthetic.constants}


def doubled(x):
    return helper.make_node("Add", [x, x], ["output"])


def edited(change):
    model = onnx.load_model_from_string(synthetic_model().model)
    change(model)
    return model.SerializeToString()


def test_a_session_says_what_it_reads_and_answers(synthetic, session):
    assert (session.input_name, session.input_shape, session.input_dtype) == ("input", (None, 1, 4, 4), np.float32)
    assert (session.output_name, session.output_shape) == ("output", (None, 3))
    assert session.weight_names == tuple(moved(synthetic))
    assert session.constant_bytes == sum(one.nbytes for one in synthetic.constants.values())


def test_answers_equal_a_forward_pass_in_numpy(synthetic, session):
    answer = session.run(synthetic.sample, session.bind(moved(synthetic)))
    np.testing.assert_allclose(answer, forward(synthetic.base, synthetic.sample), atol=FLOAT32_FORWARD)


def test_what_is_written_to_an_array_is_in_the_next_answer(synthetic, session):
    arrays = moved(synthetic)
    weights = session.bind(arrays)
    for name in arrays:
        arrays[name][0] = 0
        expected = forward({**synthetic.base, **arrays}, synthetic.sample)
        np.testing.assert_allclose(session.run(synthetic.sample, weights), expected, atol=FLOAT32_FORWARD)


def test_the_answer_to_one_sample_is_the_caller_s_and_that_of_its_own_input(synthetic, session):
    weights = session.bind(moved(synthetic))
    inputs = np.random.default_rng(0).standard_normal((8, 1, 4, 4)).astype(np.float32)
    expected = [one.tobytes() for one in (session.run(inputs[i : i + 1], weights) for i in range(8))]
    answers = [session.run(inputs[i : i + 1], weights) for i in range(8)]
    assert [one.tobytes() for one in answers] == expected  # later calls changed none of them
    assert len({one.tobytes() for one in answers}) == 8
    turned = np.asfortranarray(inputs[:1].transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert session.run(turned, weights).tobytes() == expected[0]
    for shape in ((1, 4, 4), (1, 1, 4, 4, 1), (1, 1, 4, 5), (0, 1, 4, 4)):
        with pytest.raises(InputError):
            session.run(np.zeros(shape, np.float32), weights)


def test_callers_at_once_get_answers_to_their_own_samples(synthetic, session):
    weights = session.bind(moved(synthetic))
    inputs = np.random.default_rng(1).standard_normal((8, 1, 4, 4)).astype(np.float32)
    expected = [session.run(inputs[i : i + 1], weights).tobytes() for i in range(8)]
    wrong = []

    def ask(which):
        wrong.extend(
            1 for _ in range(300) if session.run(inputs[which : which + 1], weights).tobytes() != expected[which]
        )

    callers = [threading.Thread(target=ask, args=(which,)) for which in range(8)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert not wrong


def test_writing_back_gives_the_old_answer_bit_for_bit(synthetic, session):
    arrays = moved(synthetic)
    weights = session.bind(arrays)
    before = session.run(synthetic.sample, weights)
    for array in arrays.values():
        array[...] = 1
    assert not np.array_equal(session.run(synthetic.sample, weights), before)
    for name, array in arrays.items():
        np.copyto(array, synthetic.base[name])
    assert np.array_equal(session.run(synthetic.sample, weights), before)


def test_constants_are_copied(synthetic):
    constants = {name: one.copy() for name, one in synthetic.constants.items()}
    session = Session(synthetic.model, constants)
    weights = session.bind(moved(synthetic))
    before = session.run(synthetic.sample, weights)
    for one in constants.values():
        one[...] = np.nan
    constants.clear()
    assert np.array_equal(session.run(synthetic.sample, weights), before)


def test_an_answer_belongs_to_the_caller(synthetic, session):
    weights = session.bind(moved(synthetic))
    first = session.run(synthetic.sample, weights)
    kept = first.copy()
    session.run(synthetic.sample + 1, weights)
    assert np.array_equal(first, kept)
    first[...] = 0
    assert np.array_equal(session.run(synthetic.sample, weights), kept)


def test_weights_keep_their_arrays_alive(synthetic, session):
    expected = session.run(synthetic.sample, session.bind(moved(synthetic)))
    weights = session.bind(moved(synthetic))
    noise = [np.full(one.shape, np.nan, np.float32) for one in weights.arrays.values() for _ in range(20)]
    assert np.array_equal(session.run(synthetic.sample, weights), expected)
    assert len(noise)


@pytest.mark.parametrize("threads", [1, 2])
def test_answers_are_the_same_bits_whoever_asks(synthetic, session, threads):
    expected = session.run(synthetic.sample, session.bind(moved(synthetic)))
    other = Session(synthetic.model, synthetic.constants, threads=threads)
    weights = other.bind(moved(synthetic))
    answers = []

    def ask():
        answers.extend(other.run(synthetic.sample, weights) for _ in range(50))

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(answers) == 200
    assert all(np.array_equal(answer, expected) for answer in answers)


def test_strided_and_reversed_samples_are_read_as_numpy_reads_them(synthetic, session):
    weights = session.bind(moved(synthetic))
    views = [synthetic.sample[::-1], synthetic.sample.swapaxes(2, 3), np.asfortranarray(synthetic.sample)]
    for view in views:
        assert np.array_equal(session.run(view, weights), session.run(np.ascontiguousarray(view), weights))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.zeros((1, 1, 4, 4)), "float64"),
        (np.zeros((1, 1, 4, 4), np.int64), "int64"),
        (np.zeros((1, 1, 4, 4), ">f4"), ">f4"),
        (np.zeros((1, 4, 4), np.float32), r"\[1, 4, 4\], expected \[any, 1, 4, 4\]"),
        (np.zeros((2, 1, 5, 4), np.float32), r"\[2, 1, 5, 4\]"),
        (np.zeros((0, 1, 4, 4), np.float32), "at least one sample"),
        ([[[[0.0] * 4] * 4]], "list"),
    ],
)
def test_an_unfit_sample_is_refused(synthetic, session, x, text):
    with pytest.raises(InputError, match=text):
        session.run(x, session.bind(moved(synthetic)))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: w.pop("conv1.bias"), "moved tensors: found"),
        (lambda w: w.update(odd=w["conv1.bias"]), "odd"),
        (lambda w: w.update({"conv1.bias": w["conv1.bias"][:3]}), r"float32\[3\], expected float32\[4\]"),
        (lambda w: w.update({"conv1.bias": w["conv1.bias"].astype(np.float64)}), "found float64"),
        (lambda w: w.update({"fc1.weight": np.asfortranarray(w["fc1.weight"])}), "C order"),
        (lambda w: w.update({"conv1.bias": np.zeros(8, np.float32)[::2]}), "C order"),
    ],
)
def test_arrays_that_cannot_be_shared_are_refused(synthetic, session, change, text):
    arrays = moved(synthetic)
    change(arrays)
    with pytest.raises(BundleError, match=text):
        session.bind(arrays)


def test_missing_and_unfit_constants_are_refused(synthetic):
    with pytest.raises(BundleError, match=r"'fc2\.weight': found none, expected float32\[3, 5\]"):
        Session(synthetic.model, {"fc2.bias": synthetic.base["fc2.bias"]})
    with pytest.raises(BundleError, match=r"found float32\[5, 3\]"):
        Session(synthetic.model, {**synthetic.constants, "fc2.weight": np.zeros((5, 3), np.float32)})


def test_constants_the_graph_does_not_use_are_ignored(synthetic):
    Session(synthetic.model, synthetic.base)


def in_subgraph(model):
    inner = helper.make_graph([doubled("r1")], "g", [], [helper.make_empty_tensor_value_info("output")])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))


def in_constant(model):
    model.graph.node.append(helper.make_node("Constant", [], ["z"], value=external("hidden", (1,), "/etc/hostname")))


REFUSED = {
    "domain 'com.microsoft'": lambda model: setattr(model.graph.node[1], "domain", "com.microsoft"),
    "domain 'ai.onnx.ml'": lambda model: model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1)),
    "subgraphs": in_subgraph,
    "external data inside a node": in_constant,
    "'stray': found none": lambda model: model.graph.initializer.append(external("stray", (2,), "/etc/hostname")),
    "functions": lambda model: model.functions.append(onnx.FunctionProto(name="f", domain="x")),
    "training steps": lambda model: model.training_info.append(onnx.TrainingInfoProto()),
    "sparse tensors": lambda model: model.graph.sparse_initializer.append(onnx.SparseTensorProto()),
    "ONNX type 16": lambda model: setattr(model.graph.initializer[0], "data_type", TensorProto.BFLOAT16),
    "two initializers": lambda model: model.graph.initializer.append(model.graph.initializer[0]),
    "ONNX Runtime refuses it": lambda model: setattr(model.graph.node[1], "op_type", "NoSuchOperator"),
    "and outputs .*output.*r3": lambda model: (
        model.graph.output.append(helper.make_tensor_value_info("r3", 1, ["n", 5])),
        model.graph.initializer.extend([external(v.name, [d.dim_value for d in v.type.tensor_type.shape.dim])
                                        for v in model.graph.input[1:]]),
        model.graph.ClearField("input"),
        model.graph.input.append(helper.make_tensor_value_info("input", 1, ["n", 1, 4, 4])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_a_graph_that_asks_for_more_than_a_plan_needs_is_refused(synthetic, text):
    with pytest.raises(BundleError, match=text):
        Session(edited(REFUSED[text]), synthetic.base)


def test_a_second_graph_field_cannot_hide_the_first(synthetic):
    evil = helper.make_model(helper.make_graph([], "evil", [], []))
    with pytest.raises(BundleError, match="2 times a graph"):
        Session(synthetic.model + evil.SerializeToString(), synthetic.constants)


@pytest.mark.parametrize("raw", [b"", b"\xff" * 20, b"not a model", b"\x3a\xff\xff\x7f", b"\x0b"])
def test_bytes_that_are_no_model_are_refused(raw):
    with pytest.raises(BundleError, match="found no ONNX model"):
        Session(raw, {})


def test_every_cut_of_a_model_is_refused_or_named_incomplete(synthetic):
    for size in range(0, len(synthetic.model), 37):
        with pytest.raises(BundleError):
            Session(synthetic.model[:size], {})


def test_a_moved_tensor_of_free_size_is_refused():
    nodes = [helper.make_node("Add", ["input", "w"], ["output"])]
    raw = onnx.load_model_from_string(build(nodes, ["n", 2], ["n", 2], {"w": np.zeros((1, 2), np.float32)}, {}))
    raw.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "n"
    with pytest.raises(BundleError, match="expected fixed sizes"):
        Session(raw.SerializeToString(), {})


def test_half_written_rows_show():
    model = state_revealing_model(3, 8)
    session = Session(model.model, {})
    weight = model.base["layer.weight"].copy()
    weights = session.bind({"layer.weight": weight})
    assert revealed_versions(session.run(model.sample, weights)).tolist() == [0, 0, 0]
    weight[1] = code_rows(1, 8, 1)
    weight[2] = code_rows(1, 8, 5)
    assert revealed_versions(session.run(model.sample, weights)).tolist() == [0, 1, 5]
    weight[0, 4:] = 7
    assert revealed_versions(session.run(model.sample, weights)).tolist() == [TORN, 1, 5]


def test_one_file_imports_onnxruntime_and_only_when_it_is_used():
    root = Path(runtime.__file__).parent
    (door,) = (file for file in root.rglob("*.py") if "import onnxruntime" in file.read_text())
    assert door == Path(module.__file__)
    top = [node for node in ast.parse(door.read_text()).body if isinstance(node, ast.Import)]
    assert all(alias.name != "onnxruntime" for node in top for alias in node.names)
    code = (
        "import sys, runtime.walking.session; sys.exit(any(m in sys.modules for m in ('onnxruntime', 'onnx', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root.parent).returncode == 0
