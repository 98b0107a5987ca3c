from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from planner.export import ExportError, export_compact, export_live
from planner.network import trace
from runtime.walking.session import Session
from tests.planner.exported import LOGITS, MOVED, PRUNED, SAMPLE, Call, cut, inputs, masked, torch_answer, traced


@pytest.fixture(scope="module")
def network():
    return traced()


@pytest.fixture(scope="module")
def live(network):
    return export_live(network.module, SAMPLE, MOVED)


@pytest.fixture(scope="module")
def x():
    return inputs()


def run_compact(network, live, kept, state, x):
    session = Session(export_compact(live, kept, network.layers), cut(network, kept, state))
    return session.run(x.numpy(), session.bind({}))


@pytest.mark.parametrize("kept", PRUNED)
def test_compact_graph_answers_as_the_masked_network_does(network, live, x, kept):
    state = masked(network, kept)
    answer = run_compact(network, live, kept, state, x)
    np.testing.assert_allclose(answer, torch_answer(network.module, state, x), atol=LOGITS)


def test_compact_graph_holds_fewer_weights_and_no_weight_input(network, live):
    kept = {"conv2": [1, 3, 5, 7], "conv3": [0, 2, 3]}
    graph = onnx.load_model_from_string(export_compact(live, kept, network.layers)).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    assert [value.name for value in graph.input] == ["input"]
    assert shapes["conv1.weight"] == (6, 1, 3, 3)
    assert shapes["conv2.weight"] == (4, 6, 3, 3)
    assert shapes["conv3.weight"] == (3, 4, 3, 3)
    assert shapes["conv3.bias"] == (3,)
    assert shapes["fc1.weight"] == (12, 12)


class Between(nn.Module):
    """A convolution, an operation, and a reader of whatever shape it makes."""

    def __init__(self, operation, reader):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.operation = operation
        self.reader = reader

    def forward(self, x):
        return self.reader(self.operation(self.first(x))).flatten(1)


def chain(*operations):
    return nn.Sequential(*operations)


ACTIVATIONS = chain(nn.ReLU6(), nn.LeakyReLU(), nn.ELU(), nn.GELU(), nn.Mish(), nn.Hardswish(), nn.Softplus(),
                    nn.Softsign(), nn.Threshold(0.1, 0.2), nn.Tanhshrink(), nn.Softshrink(), nn.Dropout(), nn.PReLU(),
                    nn.LogSigmoid())  # fmt: skip
POOLS = chain(nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.ZeroPad2d(1), nn.AvgPool2d(2), nn.LPPool2d(2, 2, 1))
VIEWS = chain(
    Call(lambda x: x.view(x.shape[0], 6, 64).unsqueeze(-1).squeeze(-1).mean((2,), keepdim=True)),
    Call(lambda x: x.view(-1, 6)),
)
SHRINKABLE = {
    "activations and pools": (chain(ACTIVATIONS, POOLS), nn.Conv2d(6, 2, 1)),
    "views": (VIEWS, nn.Linear(6, 2)),
}


@pytest.mark.parametrize("case", SHRINKABLE)
def test_operations_that_keep_units_apart_can_be_made_smaller(case, x):
    torch.manual_seed(2)
    network = trace(Between(*SHRINKABLE[case]), SAMPLE)
    first, reader = network.layers
    assert first.why_fixed is None
    kept = {"first": [0, 3, 4]}
    state = masked(network, kept)
    live = export_live(network.module, SAMPLE, [first.weight, first.bias, reader.weight])
    answer = run_compact(network, live, kept, state, x)
    np.testing.assert_allclose(answer, torch_answer(network.module, state, x), atol=LOGITS)


def test_linear_layers_on_sequences_can_be_made_smaller():
    torch.manual_seed(3)
    widths = [4, 7, 5, 3]
    mlp = nn.Sequential(*(layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())))
    network = trace(mlp, torch.zeros(1, 6, 4))
    kept = {"0": [1, 5], "2": [0, 4]}
    state = masked(network, kept)
    x = torch.randn(3, 6, 4)
    answer = run_compact(network, export_live(network.module, x, ["0.weight"]), kept, state, x)
    np.testing.assert_allclose(answer, torch_answer(network.module, state, x), atol=LOGITS)


def test_a_view_with_a_fixed_number_of_channels_is_named_and_refused():
    halves = Call(lambda x: x.view(-1, 3, 2, 64)[:, :, 0].flatten(1))
    network = trace(Between(halves, nn.Linear(192, 2)), SAMPLE)
    live = export_live(network.module, SAMPLE, ["first.weight"])
    with pytest.raises(ExportError, match=r"'node_\w+' \(Reshape\).*torch\.flatten\(x, 1\)"):
        export_compact(live, {"first": [0, 1]}, network.layers)


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        ({"nowhere": [0]}, "layer 'nowhere'"),
        ({"conv2": []}, "at least one"),
        ({"conv2": [8]}, r"each of 0\.\.7"),
        ({"conv2": [0, 0]}, "none twice"),
        ({"fc2": [0]}, "'fc2' gives the network's output"),
    ],
)
def test_units_that_cannot_be_kept_are_refused(network, live, kept, text):
    with pytest.raises(ExportError, match=text):
        export_compact(live, kept, network.layers)
