"""The live graph as ONNX Runtime lays it out: the same answers, or the graph as it is."""

import dataclasses
import logging
import platform
import resource
import tempfile
from collections import OrderedDict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.errors import BundleError
from runtime.plan import graphs
from runtime.plan.bundle import read
from runtime.plan.fit import peak_bytes
from runtime.plan.graphs import live_session
from runtime.plan.onnx_edit import content, initializers, with_initializers, with_inputs
from runtime.walking.bank import Increment, InPlaceBank, ShadowBank
from runtime.walking.layout import NoLayout, observe
from runtime.walking.session import Session, lay_out
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.nets import opened
from tests.runtime.synthetic import build, synthetic_model
from tests.tolerances import FLOAT32

BLOCKS = platform.machine() in ("x86_64", "AMD64")
on_x86 = pytest.mark.skipif(not BLOCKS, reason="ONNX Runtime lays convolutions out in blocks on x86; elsewhere it may")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return read(write_bundle(tmp_path_factory.mktemp("layout") / "plan"))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=FLOAT32, atol=FLOAT32 * np.abs(expected).max())


def as_it_is(bundle):
    return Session(bundle.graph, bundle.constants)


@on_x86
@pytest.mark.parametrize("mode", ["C1", "C2", "C3"])
def test_every_mode_answers_as_the_graph_as_it_is(bundle, mode):
    session, plain = live_session(bundle, 1), as_it_is(bundle)
    assert (session.laid_out, plain.laid_out) == (True, False)
    tensors, x = bundle.table.tensors(bundle.states[mode]), bundle.evaluation.inputs[:7]
    close(session.run(x, session.bind(tensors)), plain.run(x, plain.bind(tensors)))
    close(session.run(x[:1], session.bind(tensors)), plain.run(x[:1], plain.bind(tensors)))


@pytest.mark.parametrize("make", [InPlaceBank, ShadowBank])
def test_a_walked_state_answers_in_the_bits_of_one_that_is_made_afresh(bundle, make):
    session, table, rng = live_session(bundle, 1), bundle.table, np.random.default_rng(4)
    x, seen = bundle.evaluation.inputs[:3], set()
    state = bundle.states[bundle.transitions[0].ends[0]]
    bank = make(table, state, session.bind)
    forth = [move.chunks for move in bundle.transitions]
    for chunks in (*forth, *(one.reversed() for one in reversed(forth))):
        position = 0
        while position < len(chunks):
            end = min(len(chunks), position + int(rng.integers(1, 4)))
            bank.write(Increment.gather(table, chunks, position, end))
            position = end
            fresh = session.bind(table.tensors(chunks.state_at(state, position)))
            for some in (x, x[:1]):
                with bank.read() as weights:
                    answer = session.run(some, weights).tobytes()
                assert answer == session.run(some, fresh).tobytes()
            seen.add(answer)
        state = chunks.state_at(state, len(chunks))
    assert len(seen) > 5


def test_threads_and_batches_of_one_size_give_the_same_bits(bundle):
    tensors, x = bundle.table.tensors(bundle.states["C2"]), bundle.evaluation.inputs[:5]
    found = set()
    for threads in (1, 2):
        session = live_session(bundle, threads)
        found |= {session.run(x, session.bind(tensors)).tobytes() for _ in range(2)}
    assert len(found) == 1


@on_x86
def test_what_is_written_counts_once_the_rows_are_refreshed(bundle):
    session = live_session(bundle, 1)
    tensors, x = bundle.table.tensors(bundle.states["C1"]), bundle.evaluation.inputs[:2]
    weights = session.bind(tensors)
    before = session.run(x, weights)
    tensors["conv2.weight"][[1, 4]] += 1
    assert session.run(x, weights).tobytes() == before.tobytes()
    weights.refresh(("conv2.weight", "conv2.bias", None), np.array([1, 4], np.int32))
    assert session.run(x, weights).tobytes() == session.run(x, session.bind(tensors)).tobytes() != before.tobytes()


@on_x86
def test_copies_are_counted(bundle):
    session, tensors = live_session(bundle, 1), bundle.table.tensors(bundle.states["C1"])
    copied = session.bind(tensors).copied_bytes
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert copied >= tensors["conv1.weight"].nbytes + tensors["conv2.weight"].nbytes
    assert InPlaceBank(bundle.table, bundle.states["C1"], session.bind).weight_bytes == size + copied
    assert ShadowBank(bundle.table, bundle.states["C1"], session.bind).weight_bytes == 2 * (size + copied)
    assert session.constant_bytes > as_it_is(bundle).constant_bytes


@on_x86
def test_a_network_on_the_device_is_laid_out_where_there_is_room(bundle):
    with opened(bundle) as net:
        assert net._controller._live._session.laid_out
    with opened(bundle, memory__weights_bytes=peak_bytes(bundle, 1, False)) as net:
        assert not net._controller._live._session.laid_out


def test_weights_that_must_be_read_where_they_are_stay_there(bundle):
    session = live_session(bundle, 1, aliased=True)
    assert session.bind(bundle.table.tensors(bundle.states["C1"])).copied_bytes == 0
    assert not live_session(bundle, 1, profile(bank__policy="persistent")).laid_out


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "groups"),
    [(1, 16, 3, 1), (3, 24, 5, 1), (16, 16, 3, 16), (16, 6, 1, 1), (32, 48, 3, 1), (6, 6, 3, 2)],
)
def test_convolutions_of_all_kinds_answer_as_the_graph_as_it_is(inputs, outputs, kernel, groups):
    """Whether ONNX Runtime lays one out or not: with fewer channels than a block, in groups, and depthwise."""
    rng = np.random.default_rng(outputs)
    weights = {
        "w": rng.standard_normal((outputs, inputs // groups, kernel, kernel)).astype(np.float32),
        "b": rng.standard_normal(outputs).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["c"], group=groups),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["output"]),
    ]
    model = build(nodes, ["batch", inputs, 8, 8], ["batch", outputs, 1, 1], weights, {})
    plain, session = Session(model, {}), Session(model, {}, layout=lay_out(model, {}))
    x = rng.standard_normal((2, inputs, 8, 8)).astype(np.float32)
    close(session.run(x, session.bind(weights)), plain.run(x, plain.bind(weights)))


def test_a_residual_block_of_which_one_convolution_moves_answers_as_the_graph_as_it_is():
    rng = np.random.default_rng(6)
    names = ("w1", "b1", "w2", "b2")
    tensors = {
        name: rng.standard_normal((16, 16, 3, 3) if name[0] == "w" else 16).astype(np.float32) / 10 for name in names
    }
    moved, constants = ({name: tensors[name] for name in some} for some in (names[:2], names[2:]))
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s"]),
        helper.make_node("Relu", ["s"], ["output"]),
    ]
    model = build(nodes, ["batch", 16, 8, 8], ["batch", 16, 8, 8], moved, constants)
    plain, session = Session(model, constants), Session(model, constants, layout=lay_out(model, constants))
    x = rng.standard_normal((2, 16, 8, 8)).astype(np.float32)
    close(session.run(x, session.bind(moved)), plain.run(x, plain.bind(moved)))
    assert session.laid_out or not BLOCKS


@on_x86
def test_a_layout_is_made_once_and_belongs_to_its_graph_and_constants(bundle, monkeypatch):
    made = []
    monkeypatch.setattr(graphs, "_layouts", OrderedDict())
    monkeypatch.setattr(graphs, "lay_out", lambda *given, **named: made.append(1) or lay_out(*given, **named))
    first, again = live_session(bundle, 1), live_session(bundle, 1)
    assert len(made) == 1
    assert first.laid_out == again.laid_out
    other = {**bundle.tensors, "fc2.bias": bundle.tensors["fc2.bias"] + 1}
    session = live_session(dataclasses.replace(bundle, tensors=other), 1)
    tensors, x = bundle.table.tensors(bundle.states["C1"]), bundle.evaluation.inputs[:2]
    close(session.run(x, session.bind(tensors)), first.run(x, first.bind(tensors)) + 1)
    assert len(made) == 2
    model, constants, _ = convolution(helper.make_node("Relu", ["c"], ["output"]))
    layout = lay_out(bundle.graph, bundle.constants)
    with pytest.raises(BundleError, match=r"layout: found one of .*conv1.weight.*, expected one of \['w', 'b'\]"):
        Session(model, constants, layout=layout)


def convolution(*more):
    """A convolution whose weight and bias move, and what comes after it."""
    nodes = [helper.make_node("Conv", ["input", "w", "b"], ["c"]), *more]
    moved = {"w": np.ones((16, 16, 3, 3), np.float32), "b": np.ones(16, np.float32)}
    constants = {"k": np.full((16, 1, 1), 3, np.float32)} if any("k" in node.input for node in more) else {}
    return build(nodes, ["batch", 16, 8, 8], ["batch", 16, 6, 6], moved, constants), constants, moved


@pytest.mark.parametrize(
    "more",
    [
        [helper.make_node("Mul", ["c", "k"], ["output"])],
        [helper.make_node("Add", ["c", "k"], ["output"])],
        [helper.make_node("ReduceMean", ["w"], ["m"], keepdims=0), helper.make_node("Mul", ["c", "m"], ["output"])],
        [helper.make_node("Sqrt", ["b"], ["s"]), helper.make_node("Add", ["c", "s"], ["output"])],
    ],
    ids=["scaled", "shifted", "its mean folded", "used twice"],
)  # fmt: skip
def test_what_is_computed_from_a_moving_weight_is_never_frozen(more):
    """ONNX Runtime folds all of these into constants once the weights are constant."""
    if more[0].op_type == "Sqrt":
        more = [more[0], helper.make_node("Unsqueeze", ["s", "axes"], ["u"]), more[1]]
        more[2].input[1] = "u"
    model, constants, moved = convolution(*more)
    if any("axes" in node.input for node in more):
        model = with_initializers(model, {"axes": np.array([1, 2], np.int64)})
    layout = lay_out(model, constants)
    plain, session = Session(model, constants), Session(model, constants, layout=layout)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 16, 8, 8)).astype(np.float32)
    for _ in range(2):
        weights = {name: np.abs(rng.standard_normal(one.shape)).astype(np.float32) for name, one in moved.items()}
        close(session.run(x, session.bind(weights)), plain.run(x, plain.bind(weights)))


def changed(change):
    """An optimiser that does something to the initializers of a model."""

    def optimise(model):
        parsed = onnx.load_from_string(model)
        arrays = {one.name: numpy_helper.to_array(one).copy() for one in parsed.graph.initializer}
        after = change(arrays)
        del parsed.graph.initializer[:]
        parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in after.items())
        return parsed.SerializeToString()

    return optimise


def replaced(arrays, **others):
    return {**arrays, **{name.replace("_", "."): array for name, array in others.items()}}


def permuted(arrays):
    weight = arrays["conv2.weight"]
    return replaced(arrays, conv2_weight=np.ascontiguousarray(weight.transpose(1, 0, 2, 3)))


def padded(arrays):
    weight = np.pad(arrays["conv2.weight"], [(0, 2), (0, 0), (0, 0), (0, 0)])
    return replaced(arrays, conv2_weight=weight)


def observed(change):
    model = synthetic_model()
    moved = {one.name: tuple(d.dim_value for d in one.type.tensor_type.shape.dim) for one in
             onnx.load_from_string(model.model).graph.input[1:]}  # fmt: skip
    return observe(model.model, model.constants, moved, changed(change)), moved


@pytest.mark.parametrize("change", [permuted, padded])
def test_where_elements_went_is_seen(change):
    layout, moved = observed(change)
    place = layout.places["conv2.weight"]
    weight = np.arange(np.prod(moved["conv2.weight"]), dtype=np.float32).reshape(moved["conv2.weight"]) + 1
    expected = change({"conv2.weight": weight})["conv2.weight"]
    assert np.array_equal(place.fresh(weight), expected)
    weight[[0, 3]] = -weight[[0, 3]]
    target = place.fresh(np.zeros_like(weight))
    for rows in ([0, 3], [1], [5, 4, 2]):
        place.copy(weight, target, np.array(rows, np.int32))
    assert np.array_equal(target, change({"conv2.weight": weight})["conv2.weight"])
    assert layout.places["fc1.weight"].same


def rolled(arrays):
    return np.roll(arrays["conv2.weight"].reshape(6, -1), 1).reshape(6, 4, 3, 3)


NEVER = {
    "nothing is gained": lambda a: a,
    "in no initializer": lambda a: {name: one for name, one in a.items() if name != "conv1.bias"},
    "expected each of 216 once": lambda a: replaced(a, other=a["conv2.weight"]),
    "among other numbers": lambda a: replaced(a, conv1_bias=np.r_[a["conv1.bias"], np.float32(1)]),
    "expected each of 4 once": lambda a: replaced(a, conv1_bias=a["conv1.bias"][[0, 1, 2, 2]]),
    "expected each of 36 once": lambda a: replaced(a, conv1_weight=a["conv1.weight"][:3]),
    "otherwise than in the first": lambda a: replaced(a, conv2_weight=rolled(a)),
    "depends on the values": lambda a: replaced(padded(a), other=a["conv1.bias"] * np.float32(1e6)),
    "found in no initializer": lambda a: replaced(a, conv1_bias=a["conv1.bias"] * np.float32(2**30)),
}  # fmt: skip


@pytest.mark.parametrize("why", NEVER)
def test_a_weight_that_is_not_seen_element_by_element_is_never_guessed_at(why):
    with pytest.raises(NoLayout, match=why):
        observed(NEVER[why])


@pytest.mark.parametrize("raw", [b"", b"\x00", b"no model at all"], ids=["empty", "zero", "text"])
def test_a_file_that_is_no_model_is_no_layout(raw):
    model = synthetic_model()
    with pytest.raises(NoLayout, match="cannot be read"):
        observe(model.model, model.constants, {"conv1.bias": (4,)}, lambda filled: raw)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_no_file_is_left(temporary):
    model = synthetic_model()
    assert (lay_out(model.model, model.constants) is not None) is BLOCKS
    assert list(temporary.iterdir()) == []


def test_without_a_place_for_files_the_graph_runs_as_it_is(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    model = synthetic_model()
    with caplog.at_level(logging.WARNING, "geoshift.session"):
        assert lay_out(model.model, model.constants, origin="this graph") is None
    assert "this graph: runs as it is" in caplog.text
    assert "absent" in caplog.text


def test_on_a_full_disk_the_graph_runs_as_it_is(temporary, caplog):
    model = synthetic_model()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        layout = lay_out(model.model, model.constants)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert layout is None
    assert list(temporary.iterdir()) == []


def test_initializers_and_inputs_change_places(bundle):
    model = synthetic_model()
    filled = with_initializers(model.model, model.base)
    parsed = onnx.load_from_string(filled)
    onnx.checker.check_model(parsed)
    assert [one.name for one in parsed.graph.input] == ["input"]
    found = {one.name: numpy_helper.to_array(one) for one in parsed.graph.initializer}
    assert found.keys() == model.base.keys()
    assert all(np.array_equal(found[name], array) for name, array in model.base.items())
    for one in initializers(filled):
        assert one.shape == model.base[one.name].shape
        assert one.bits.tobytes() == model.base[one.name].tobytes()
    again = onnx.load_from_string(with_inputs(filled, {"conv1.weight": (4, 1, 3, 3)}))
    described = again.graph.input[1]
    assert [one.name for one in again.graph.input] == ["input", "conv1.weight"]
    assert described.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [one.dim_value for one in described.type.tensor_type.shape.dim] == [4, 1, 3, 3]
    assert "conv1.weight" not in {one.name for one in again.graph.initializer}
    assert len(content(filled, ["conv1.weight"])) == len(content(filled, [])) - 1
