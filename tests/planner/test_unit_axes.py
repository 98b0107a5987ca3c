import pytest

from planner.unit_axes import ExportError, Facts, Operation, follow

SHAPES = {
    "x": (None, 6, 4, 4), "flat": (None, 96), "y": (None, 6, 4, 4), "mask": (4, 4), "table": (6, 1, 1), "one": (),
    "w": (3, 6, 1, 1), "b": (3,), "m": (6, 3), "seq": (None, 5, 6), "axes": (1,), "sizes": (3,), "pads": (8,),
    "short": (None, 6),
}  # fmt: skip


def step(kind, *inputs, constants=None, axes=None, **attributes):
    """Axes of the result of one operation whose input "x" has units of layer "a" along axis 1."""
    operation = Operation("node", kind, inputs, ("out",), attributes)
    facts = Facts({**SHAPES, "out": (None, 1, 6, 4, 4)}, constants or {})
    return follow([operation], axes or {"x": {1: "a"}}, facts).get("out", {})


@pytest.mark.parametrize("kind", ["Relu", "MaxPool", "GlobalAveragePool", "Flatten", "Identity"])
def test_units_stay_along_their_axis(kind):
    assert step(kind, "x") == {1: "a"}


@pytest.mark.parametrize("operands", [("x", "one"), ("x", "mask"), ("mask", "x"), ("x", "x")])
def test_operands_that_have_no_size_along_the_units_may_be_combined(operands):
    assert step("Mul", *operands) == {1: "a"}


@pytest.mark.parametrize(
    ("inputs", "axes"),
    [
        (("x", "table"), {"x": {1: "a"}}),
        (("x", "y"), {"x": {1: "a"}}),
        (("y", "x"), {"x": {1: "a"}}),
        (("x", "y"), {"x": {1: "a"}, "y": {1: "b"}}),
        (("x", "y"), {"x": {1: "a"}, "y": {2: "a"}}),
    ],
)
def test_operands_with_units_of_their_own_may_not(inputs, axes):
    with pytest.raises(ExportError, match=r"'node' \(Add\)"):
        step("Add", *inputs, axes=axes)


def test_a_layer_sums_over_the_units_it_reads_and_gives_its_own():
    axes = {"x": {1: "a"}, "w": {0: "b", 1: "a"}, "b": {0: "b"}}
    assert step("Conv", "x", "w", "b", axes=axes) == {1: "b"}
    assert step("Conv", "x", "w", axes={"x": {1: "a"}, "w": {1: "a"}}) == {}
    assert step("Gemm", "flat", "m", axes={"flat": {1: "a"}, "m": {0: "a", 1: "b"}}) == {1: "b"}
    assert step("Gemm", "flat", "m", axes={"flat": {1: "a"}, "m": {0: "b", 1: "a"}}, transB=1) == {1: "b"}
    assert step("MatMul", "seq", "m", axes={"seq": {2: "a"}, "m": {0: "a", 1: "b"}}) == {2: "b"}


@pytest.mark.parametrize(
    ("kind", "inputs", "axes", "attributes"),
    [
        ("Conv", ("x", "w"), {"x": {1: "a"}}, {}),
        ("Conv", ("x", "w"), {"x": {1: "a"}, "w": {1: "b"}}, {}),
        ("Conv", ("x", "w"), {"x": {2: "a"}, "w": {1: "a"}}, {}),
        ("Conv", ("x", "w", "b"), {"w": {0: "b"}}, {}),
        ("Conv", ("x", "w"), {"x": {1: "a"}, "w": {1: "a"}}, {"group": 6}),
        ("Gemm", ("flat", "m"), {"flat": {1: "a"}, "m": {1: "a"}}, {}),
        ("Gemm", ("flat", "m"), {"flat": {1: "a"}, "m": {1: "a"}}, {"transA": 1, "transB": 1}),
        ("MatMul", ("seq", "m"), {"seq": {1: "a"}, "m": {0: "a"}}, {}),
        ("MatMul", ("seq", "m"), {"seq": {2: "a"}}, {}),
    ],
)
def test_a_layer_that_reads_other_units_is_refused(kind, inputs, axes, attributes):
    with pytest.raises(ExportError, match=kind):
        step(kind, *inputs, axes=axes, **attributes)


def test_axes_are_counted_anew_when_others_come_and_go():
    assert step("Transpose", "x", perm=[0, 2, 3, 1]) == {3: "a"}
    assert step("Transpose", "x") == {2: "a"}
    assert step("ReduceMean", "x", "axes", constants={"axes": [-1, 2]}) == {1: "a"}
    assert step("ReduceMean", "x", "axes", constants={"axes": [0]}, keepdims=0) == {0: "a"}
    assert step("Squeeze", "x", "axes", constants={"axes": [3]}) == {1: "a"}
    assert step("Unsqueeze", "x", "axes", constants={"axes": [1]}) == {2: "a"}
    assert step("Reshape", "x", "sizes", constants={"sizes": [0, 0, 16]}) == {1: "a"}
    assert step("Pad", "x", "pads", constants={"pads": [0, 0, 1, 1, 0, 0, 1, 1]}) == {1: "a"}
    assert step("Shape", "x", start=0, end=1) == {}


@pytest.mark.parametrize(
    ("kind", "inputs", "constants", "attributes"),
    [
        ("Softmax", ("x",), {}, {}),
        ("ReduceMean", ("x", "axes"), {"axes": [1]}, {}),
        ("ReduceMean", ("x", "axes"), {"axes": [-3]}, {}),
        ("ReduceMean", ("x", "axes"), {}, {}),
        ("ReduceMean", ("x",), {}, {}),
        ("Unsqueeze", ("x", "axes"), {}, {}),
        ("Flatten", ("x",), {}, {"axis": 2}),
        ("Reshape", ("x", "sizes"), {"sizes": [-1, 6, 16]}, {}),
        ("Reshape", ("x", "sizes"), {"sizes": [0, 0, 16]}, {"allowzero": 1}),
        ("Reshape", ("x", "sizes"), {}, {}),
        ("Pad", ("x", "pads"), {"pads": [0, 1, 0, 0, 0, 0, 0, 0]}, {}),
        ("Pad", ("x", "pads"), {"pads": [0, 0, 0, 0, 0, 1, 0, 0]}, {}),
        ("Pad", ("x", "pads", "one", "axes"), {"pads": [1, 1]}, {}),
        ("Shape", ("x",), {}, {}),
        ("Expand", ("x", "sizes"), {}, {}),
    ],
)
def test_operations_across_units_are_refused_by_name(kind, inputs, constants, attributes):
    with pytest.raises(ExportError, match=rf"'node' \({kind}\) cannot be made smaller"):
        step(kind, *inputs, constants=constants, **attributes)


def test_values_without_units_may_go_through_anything():
    assert step("Softmax", "y") == {}


def test_a_value_of_unknown_shape_is_named():
    with pytest.raises(ExportError, match="'strange' of the graph has no known shape"):
        step("Mul", "x", "strange")
