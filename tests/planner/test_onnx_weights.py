"""Weights from ONNX files: exporters that keep names and ones that do not, smaller networks, and what is refused."""

from __future__ import annotations

import copy
import os

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from planner import models
from planner.endpoint import EndPoint
from planner.narrow import narrow
from planner.network import trace
from planner.onnx_data import OnnxFileError
from planner.onnx_match import OnnxWeightsError
from planner.onnx_weights import load, without_dead

pytestmark = pytest.mark.xdist_group("onnx weights")  # what they share takes long: made once, in one process

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Twins(nn.Module):
    """Two branches alike, and a residual."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(1, 4, 3, padding=1)
            self.left = nn.Conv2d(4, 4, 3, padding=1)
            self.right = nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(256, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.flatten(torch.relu(self.left(x)) * torch.sigmoid(self.right(x)), 1))


class Sigmoid(nn.Module):
    """A network whose removed units would still say a half."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.two(torch.sigmoid(self.one(x)))


def net(seed=0):
    return models.build("digits-cnn", seed=seed).eval()


def exported(path, module, x=X, *, external=False, **options):
    """As somebody exports it, all in one file unless told otherwise."""
    batch = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    torch.onnx.export(
        module.eval(), (x,), str(path), dynamo=True, verbose=False, external_data=external, **batch, **options
    )
    return path


def rebuilt(path, change):
    """Change a file as another exporter might have written it."""
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path


def anonymous(graph):
    """Lose all names of weights, as constant folding does."""
    new = {tensor.name: f"onnx::Any_{number}" for number, tensor in enumerate(graph.initializer)}
    for tensor in graph.initializer:
        tensor.name = new[tensor.name]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = new.get(name, name)


def as_products(graph):
    """Write linear layers as a product with a transposed matrix and an addition."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        matrix = weights[node.input[1]]
        matrix.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(matrix).T.copy(), matrix.name))
        product = f"{node.output[0]}_product"
        nodes.append(helper.make_node("MatMul", [node.input[0], node.input[1]], [product]))
        nodes.append(helper.make_node("Add", [node.input[2], product], [node.output[0]]))
    del graph.node[:]
    graph.node.extend(nodes)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One network as one file, and as one with its weights beside it."""
    folder = tmp_path_factory.mktemp("files")
    exported(folder / "net.onnx", net())
    exported(folder / "beside.onnx", net(), external=True)
    return folder


@pytest.mark.parametrize("changes", [(), (anonymous,), (as_products,), (as_products, anonymous)])
def test_weights_are_read_bit_for_bit_whatever_the_exporter_made_of_names_and_layout(files, tmp_path, changes):
    path = tmp_path / "net.onnx"
    path.write_bytes((files / "net.onnx").read_bytes())
    for change in changes:
        rebuilt(path, change)
    own = net(1)
    before = copy.deepcopy(own.state_dict())
    found = load(path, own, X)
    assert same(found.module.state_dict(), net().state_dict())
    assert same(own.state_dict(), before)  # what was given is not changed


def test_weights_beside_the_model_are_read_and_count_in_the_digest(files):
    found = load(files / "beside.onnx", net(1), X)
    assert (files / "beside.onnx.data").exists()
    assert same(found.module.state_dict(), net().state_dict())
    assert found.sha256 != load(files / "net.onnx", net(1), X).sha256


def test_batch_norms_that_the_exporter_folded_are_taken_folded(tmp_path):
    module, x = models.build("resnet8").eval(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    path = rebuilt(exported(tmp_path / "r.onnx", module, x), anonymous)
    found = load(path, models.build("resnet8", seed=1), x)
    mine, theirs = trace(module, x).module.state_dict(), found.module.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in mine)


@pytest.mark.parametrize("lost", [False, True])
def test_a_smaller_network_takes_the_places_of_the_nearest_dense_units(tmp_path, lost):
    dense = trace(net(), X)
    kept = {"conv1": (9, 0, 4, 15), "fc1": (3, 1, 60)}
    gone = {
        name: tuple(unit for unit in range(dense.layer(name).units) if unit not in units)
        for name, units in kept.items()
    }
    end = EndPoint("small", gone, dense.module.state_dict(), {})
    small = narrow(dense, end)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        small.conv1.weight.copy_(small.conv1.weight[order] * 1.01)
        small.conv1.bias.copy_(small.conv1.bias[order])
        small.conv2.weight.copy_(small.conv2.weight[:, order])
    path = exported(tmp_path / "small.onnx", small)
    if lost:
        rebuilt(path, anonymous)
    found = load(path, net(1), X, dense)
    with torch.no_grad():
        assert torch.allclose(found.module(X), small(X), atol=1e-5)
    tensors, removed = without_dead(dense, found.module.state_dict(), X)
    assert {name: sorted(units) for name, units in removed.items()} == {
        name: sorted(units) for name, units in gone.items()
    }
    left = sorted(kept["conv1"])
    assert torch.allclose(tensors["conv1.weight"][left], dense.module.state_dict()["conv1.weight"][left] * 1.01)


def test_units_that_a_mask_left_empty_are_taken_for_removed_and_read_by_nobody(files):
    masked = net()
    with torch.no_grad():
        masked.conv1.weight[:8], masked.conv1.bias[:8] = 0.0, 0.0
    dense = trace(net(), X)
    tensors, removed = without_dead(dense, masked.state_dict(), X)
    assert removed == {"conv1": tuple(range(8))}
    assert not tensors["conv2.weight"][:, :8].any()
    assert torch.equal(tensors["conv2.weight"][:, 8:], masked.conv2.weight[:, 8:])


def test_empty_units_that_still_say_something_are_no_removed_ones():
    module, x = Sigmoid().eval(), torch.randn(3, 6)
    with torch.no_grad():
        module.one.weight[0], module.one.bias[0] = 0.0, 0.0
    tensors, removed = without_dead(trace(module, x), module.state_dict(), x)
    assert removed == {}
    assert same(tensors, module.state_dict())


def test_branches_alike_are_told_apart_by_name_and_refused_without(tmp_path):
    path = exported(tmp_path / "twins.onnx", Twins())
    assert same(load(path, Twins(1), X).module.state_dict(), Twins().state_dict())
    with pytest.raises(
        OnnxWeightsError, match=r"in the place of convolution left .* expected names to tell them apart"
    ):
        load(rebuilt(path, anonymous), Twins(1), X)


def test_another_network_or_another_function_is_refused(files, tmp_path):
    with pytest.raises(OnnxWeightsError, match=r"found no weights for convolution conv1 of 20 units"):
        load(files / "net.onnx", models.build("lenet5"), torch.zeros(2, 1, 28, 28))
    with pytest.raises(OnnxWeightsError, match=r"found 4 convolutions and matrices .*, expected 3"):
        load(files / "net.onnx", models.build("lenet-300-100"), torch.zeros(2, 1, 28, 28))
    odd = net()
    odd.relu1 = nn.LeakyReLU(0.3)
    with pytest.raises(OnnxWeightsError, match=r"away from those of DigitsCNN .* such as other activations"):
        load(exported(tmp_path / "odd.onnx", odd), net(1), X)
    other = narrow(trace(net(5), X), EndPoint("o", {"conv1": tuple(range(8))}, net(5).state_dict(), {}))
    with pytest.raises(OnnxWeightsError, match=r"nearest 8 of 16 in conv1 .* expected less than 0\.5"):
        load(exported(tmp_path / "other.onnx", other), net(1), X, trace(net(), X))
    with pytest.raises(OnnxWeightsError, match=r"found no weights for convolution conv1"):
        load(tmp_path / "other.onnx", net(1), X)  # the dense network's own file has to have all units


def located(path, location):
    """The file with its external data somewhere else."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link", "", "nothing.data", "."])
def test_external_data_elsewhere_is_not_read(files, tmp_path, location):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("beside.onnx", "beside.onnx.data"):
        (folder / name).write_bytes((files / name).read_bytes())
    (tmp_path / "secret").write_bytes(b"x" * 100_000)
    os.symlink(tmp_path / "secret", folder / "link")
    located(folder / "beside.onnx", location)
    with pytest.raises(OnnxFileError, match="beside the model"):
        load(folder / "beside.onnx", net(1), X)


def test_damaged_files_are_refused(files, tmp_path):
    path = tmp_path / "f.onnx"
    with pytest.raises(OnnxFileError, match="No such file"):
        load(path, net(1), X)
    whole = (files / "net.onnx").read_bytes()
    for content in (b"", b"x" * 100, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(OnnxFileError, match=r"f\.onnx: found"):
            load(path, net(1), X)
    path.write_bytes((files / "beside.onnx").read_bytes())
    (tmp_path / "beside.onnx.data").write_bytes((files / "beside.onnx.data").read_bytes()[:-4])
    with pytest.raises(OnnxFileError, match="copy the file again"):
        load(path, net(1), X)
    path.write_bytes(whole + b"\0" * (17 << 20))
    with pytest.raises(OnnxFileError, match=r"found \d+ bytes, expected at most"):
        load(path, net(1), X)


def test_weights_that_are_not_finite_or_quantised_are_refused(files, tmp_path):
    def spoil(graph):
        values = numpy_helper.to_array(graph.initializer[0]).copy()
        values.flat[0] = np.nan
        graph.initializer[0].CopyFrom(numpy_helper.from_array(values, graph.initializer[0].name))

    def quantise(graph):
        graph.node[0].op_type = "QLinearConv"

    for change, said in ((spoil, "1 weights that are not finite"), (quantise, "quantised operation QLinearConv")):
        path = tmp_path / "f.onnx"
        path.write_bytes((files / "net.onnx").read_bytes())
        with pytest.raises(OnnxFileError, match=said):
            load(rebuilt(path, change), net(1), X)
