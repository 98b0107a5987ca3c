"""Batch norm: folded, and the network computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from planner.fold import FoldError
from planner.network import trace
from tests.planner import coupled

ROUNDING = 1e-5
"""Outputs of order one; the weights are rounded once more than those of the network itself."""


def lively(module: nn.Module) -> nn.Module:
    """The module in eval mode, with statistics and scales that make a difference."""
    torch.manual_seed(3)
    for one in module.modules():
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.running_mean is not None:
            one.running_mean.uniform_(-1, 1)
            one.running_var.uniform_(0.3, 2)
            if one.affine:
                nn.init.uniform_(one.weight, 0.5, 1.5)
                nn.init.uniform_(one.bias, -0.5, 0.5)
    return module.eval()


class Called(nn.Module):
    """Layers and norms that `wire` calls in its own way."""

    def __init__(self, wire) -> None:
        super().__init__()
        self.wire = wire
        self.conv, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norm, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.wire(self, x).mean((2, 3)))


MLP = (4,)
IMAGE = (3, 6, 6)
FOLDED = {
    "convolution": (Called(lambda m, x: m.norm(m.conv(x))), IMAGE, ["conv", "fc"]),
    "two norms": (Called(lambda m, x: m.second(m.norm(m.conv(x)))), IMAGE, ["conv", "fc"]),
    "no bias, no scale": (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 2)),
        IMAGE,
        ["0", "3"],
    ),
    "grouped": (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 4)), IMAGE, ["0", "2"]),
    "behind linear": (nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 2)), MLP, ["0", "2"]),
    "no scale": (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.Tanh(), nn.Linear(5, 2)), MLP,
                 ["0", "3"]),
    "dropout between": (nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)),
                        MLP, ["0", "4"]),
    "before linear": (
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2, bias=False)), MLP,
        ["0", "4"],
    ),
    "on the input": (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), MLP, ["1"]),
}  # fmt: skip
KEPT = {
    "behind relu": (Called(lambda m, x: m.other(m.norm(m.conv(x).relu()))), IMAGE, ["conv", "norm", "other", "fc"]),
    "read twice": (Called(lambda m, x: m.norm(c := m.conv(x)) + c), IMAGE, ["conv", "norm", "fc"]),
    "called twice": (Called(lambda m, x: m.norm(m.other(m.norm(m.conv(x))))), IMAGE, ["conv", "norm", "other", "fc"]),
    "layer called twice": (Called(lambda m, x: m.norm(m.conv(m.conv(x)))), IMAGE, ["conv", "norm", "fc"]),
    "image": (Called(lambda m, x: m.conv(m.norm(x))), IMAGE, ["norm", "conv", "fc"]),
    "steps": (nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(36, 2)), (6, 3), ["0", "3"]),
    "before steps": (nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)), (6, 6), ["1"]),
}


@pytest.mark.parametrize(("module", "shape", "layers"), [*FOLDED.values(), *KEPT.values()], ids=[*FOLDED, *KEPT])
def test_a_network_without_its_norms_computes_the_same(module: nn.Module, shape, layers: list[str]) -> None:
    module = lively(module)
    x = torch.randn(5, *shape)
    before = copy.deepcopy(module.state_dict())
    network = trace(module, x)
    with torch.no_grad():
        assert torch.allclose(network.module(x), module(x), atol=ROUNDING)
        assert torch.allclose(network.graph(x), module(x), atol=ROUNDING)
    assert [layer.name for layer in network.layers] == layers
    assert all(tensor.dtype == torch.float32 for tensor in network.module.state_dict().values())
    assert before.keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("name", FOLDED)
def test_a_norm_beside_a_layer_leaves_nothing_behind(name: str) -> None:
    module, shape, layers = FOLDED[name]
    keys = set(trace(lively(module), torch.zeros(1, *shape)).module.state_dict())
    assert keys - {"other.weight", "other.bias"} == {
        f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("name", coupled.NETWORKS)
def test_coupled_networks_compute_the_same(name: str) -> None:
    module, x = coupled.build(name), coupled.images()
    with torch.no_grad():
        assert torch.allclose(trace(module, x).module(x), module(x), atol=ROUNDING)


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(),
                       nn.Linear(64, 2)), IMAGE, "'1' keeps no running statistics"),
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)), MLP,
         "'2' reads vectors, and no linear layer stands directly before or behind"),
    ],
)  # fmt: skip
def test_what_cannot_be_folded_says_so(module: nn.Module, shape, message: str) -> None:
    with pytest.raises(FoldError, match=message):
        trace(module, torch.zeros(1, *shape))
