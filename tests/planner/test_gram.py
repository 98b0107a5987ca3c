"""Second moments against sums written out position by position."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import planner.gram
from planner.cost import CostMeter
from planner.gram import CompensationError, Statistics, collect, row_matrix
from planner.network import Network, trace

# Sums of some thousand float64 products of order 1, in another order: 1e-16 × 1e3 with room.
SUMMATION = 1e-11


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads cost such small networks more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    def __init__(self, second: nn.Conv2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = second
        self.head = nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(torch.relu(self.conv1(x)))
        return self.head(torch.relu(x).mean((2, 3)))


CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "strided": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2)},
    "dilated": {"kernel_size": 3, "dilation": (2, 1), "bias": False},
    "same": {"kernel_size": (2, 4), "padding": "same"},
    "valid": {"kernel_size": 2, "padding": "valid"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "reflect": {"kernel_size": 3, "padding": "same", "padding_mode": "reflect", "dilation": 2},
}


def example(**convolution: object) -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(7, 1, 9, 9, dtype=torch.float64)
    return trace(Net(nn.Conv2d(4, 5, **convolution)).double(), x), x


def pruned(network: Network) -> dict[str, Tensor]:
    """The state without unit 1 of conv1, and with other values in its other units."""
    state = {key: value.clone() for key, value in network.module.state_dict().items()}
    state["conv1.weight"] = state["conv1.weight"] * 1.1
    state["conv1.weight"][1], state["conv1.bias"][1] = 0, 0
    return state


def hidden(network: Network, state: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.relu(functional_call(network.module.conv1, {k[6:]: state[k] for k in state if "conv1" in k}, (x,)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own copy, the case is meant
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_moments_of_a_convolution_answer_for_its_pre_activations(kind: str) -> None:
    """⟨C, W⟩ and ⟨W G, W⟩ of any rows W equal what the convolution itself computes with these weights."""
    network, x = example(**CONVOLUTIONS[kind])
    dense, current = network.module.state_dict(), pruned(network)
    stats = collect(network, network.layer("conv2"), x, current=current, batch=3)
    rows = torch.randn_like(stats.original)
    convolution = network.module.conv2
    own = {"weight": rows[:, : stats.columns].reshape(convolution.weight.shape)}
    own |= {"bias": rows[:, -1]} if stats.bias else {}
    with torch.no_grad():
        answer = functional_call(convolution, own, (hidden(network, current, x),)).transpose(0, 1).flatten(1)
        target = convolution(hidden(network, dense, x)).transpose(0, 1).flatten(1)
    assert stats.patches == answer.shape[1]
    assert stats.gram.dtype == torch.float64
    assert torch.allclose(stats.power, target.square().mean(1), rtol=SUMMATION)
    assert torch.allclose((stats.cross * rows).sum(1), (target * answer).mean(1), atol=SUMMATION)
    assert torch.allclose((rows @ stats.gram * rows).sum(1), answer.square().mean(1), rtol=SUMMATION)
    relative = (target - answer).square().sum() / target.square().sum()
    assert stats.error(rows) == pytest.approx(float(relative), rel=SUMMATION)


def test_moments_of_a_linear_layer_on_vectors_and_on_sequences() -> None:
    torch.manual_seed(0)
    network = trace(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.zeros(1, 3))
    for x in (torch.randn(20, 3), torch.randn(4, 5, 3)):  # float32 in, float64 sums
        stats = collect(network, network.layer("2"), x, current=network.module.state_dict())
        with torch.no_grad():
            read = torch.tanh(network.module[0](x)).flatten(0, -2).double()
        read = torch.cat([read, torch.ones(20, 1, dtype=torch.float64)], 1)
        assert torch.allclose(stats.gram, read.T @ read / 20, atol=SUMMATION)
        assert stats.gram[-1, -1] == 1


def test_on_dense_inputs_the_dense_rows_have_no_error() -> None:
    network, x = example(kernel_size=3)
    state = network.module.state_dict()
    layer = network.layer("conv2")
    stats = collect(network, layer, x, current=state)
    assert torch.equal(stats.original, row_matrix(layer, state))
    assert torch.equal(stats.cross, stats.original @ stats.gram)
    assert stats.error(stats.original) < SUMMATION
    with torch.no_grad():
        z = network.module.conv2(hidden(network, state, x))
    assert torch.allclose(stats.power, z.square().mean((0, 2, 3)), rtol=SUMMATION)


@pytest.mark.parametrize("same", [True, False])
def test_batches_and_memory_bounds_do_not_matter(monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    network, x = example(kernel_size=3)
    state = network.module.state_dict() if same else pruned(network)
    layer = network.layer("conv2")
    whole = collect(network, layer, x, current=state)
    monkeypatch.setattr(planner.gram, "_PATCH_BYTES", 1)  # one image at a time
    parts = collect(network, layer, x, current=state, batch=4)
    for field in ("gram", "cross", "power"):
        assert torch.allclose(getattr(whole, field), getattr(parts, field), atol=SUMMATION)


def test_drawn_positions_are_seeded_and_paired() -> None:
    """The same positions of current and dense activations: else the dense rows could not explain their own output."""
    network, x = example(kernel_size=3)
    layer = network.layer("conv2")
    dense = {key: value.clone() for key, value in network.module.state_dict().items()}
    dense["conv1.bias"][0] += 1e-9  # another state, but the same activations for all that this test can tell

    def draw(seed: int) -> Statistics:
        return collect(network, layer, x, current=network.module.state_dict(), dense=dense, positions=6, seed=seed)

    first, again, other = draw(0), draw(0), draw(1)
    assert first.patches == 7 * 6
    assert torch.equal(first.gram, again.gram)
    assert torch.equal(first.cross, again.cross)
    assert not torch.equal(first.gram, other.gram)
    assert first.error(first.original) < SUMMATION
    everything = collect(network, layer, x, current=dense, positions=10_000)
    assert everything.patches == 7 * layer.positions


def test_forward_passes_are_counted_and_states_left_alone() -> None:
    network, x = example(kernel_size=3)
    dense, current = network.module.state_dict(), pruned(network)
    before = [{key: value.clone() for key, value in state.items()} for state in (dense, current)]
    cost = CostMeter()
    collect(network, network.layer("conv2"), x, current=dense, cost=cost)
    assert cost.forward_passes == 7
    collect(network, network.layer("conv2"), x, current=current, batch=2, cost=cost)
    assert cost.forward_passes == 7 + 2 * 7
    for old, new in zip(before, (dense, current), strict=True):
        assert all(torch.equal(old[key], new[key]) for key in old)


def test_only_some_rows() -> None:
    network, x = example(kernel_size=3)
    stats = collect(network, network.layer("conv2"), x, current=pruned(network))
    some = stats.only([0, 3])
    rows = torch.zeros_like(stats.original)
    assert some.error(rows[:2]) == pytest.approx(1)
    assert some.cross.shape == (2, stats.columns + 1)
    assert torch.equal(some.gram, stats.gram)
    assert some.power.sum() == stats.power[0] + stats.power[3]


def test_what_cannot_be_collected_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = example(kernel_size=3)
    layer, state = network.layer("conv2"), network.module.state_dict()
    with pytest.raises(CompensationError, match="no calibration inputs for layer 'conv2'"):
        collect(network, layer, x[:0], current=state)
    with pytest.raises(CompensationError, match=r"inputs of layer 'conv2' are not finite"):
        collect(network, layer, x * torch.inf, current=state)
    monkeypatch.setattr(planner.gram, "MAX_COLUMNS", 36)
    with pytest.raises(CompensationError, match="'conv2' has 37 columns; compensation takes at most 36"):
        collect(network, layer, x, current=state)
