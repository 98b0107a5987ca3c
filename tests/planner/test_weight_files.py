"""Files of weights for modes: which is for which, and what is refused."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from device_profiles import Profile, from_builtins
from planner import checkpoint
from planner.checkpoint import CheckpointError
from planner.network import trace
from planner.weight_files import HEADER_BYTES, WeightFileError, by_mode, read_given


def profile(**modes: dict[str, object]) -> Profile:
    """A small device with modes that are all reached from the dense one."""
    return from_builtins(
        {
            "schema": "geoshift.profile/1",
            "name": "bench",
            "description": "",
            "threads": 1,
            "memory": {"weights_bytes": 1 << 22},
            "writes": {"bytes_per_increment": 4096, "increments_per_second": 1e5, "stall_budget_ms": 1e3},
            "bank": {"policy": "in-place", "snap": False},
            "guard": {"max_drop_points": 4.0},
            "modes": modes,
            "transitions": [["C1", name] for name in modes if name != "C1"],
        },
        "test",
    )


SAMPLE = torch.zeros(2, 1, 4, 4)
DEVICE = profile(C1={}, S={"from": "C1", "sparsity": 0.5}, new={"from": "C1", "weights": "given"})


class Net(nn.Module):
    """A convolution with a batch norm, a linear layer, a table that no path writes, and a layer that nobody calls."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(3)
            self.fc = nn.Linear(48, 2)
            self.unused = nn.Linear(2, 2)
            self.norm.running_mean.copy_(torch.randn(3))
        self.register_buffer("table", torch.ones(48))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1) * self.table)


@pytest.fixture(scope="module")
def own() -> Net:
    return Net().eval()


def written(path: Path, module: nn.Module) -> Path:
    checkpoint.save(path, module, {"definition": "net"})
    return path


def given(own, path):
    return read_given({"new": path}, DEVICE, own, trace(own, SAMPLE), SAMPLE)["new"]


def test_each_file_goes_to_its_mode_and_one_without_a_mode_to_the_dense_network():
    assert by_mode([], DEVICE) == (None, {})
    assert by_mode(["a.safetensors", "new=b/c=d"], DEVICE) == (Path("a.safetensors"), {"new": Path("b/c=d")})
    assert by_mode(["C1=a"], DEVICE) == (Path("a"), {})
    assert by_mode(["runs/lr=0.1/a"], DEVICE) == (Path("runs/lr=0.1/a"), {})
    assert by_mode(["./new=a"], DEVICE) == (Path("new=a"), {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nwe=a"], "unknown mode 'nwe', expected one of C1, new: did you mean 'new'"),
        (["lr=0.1"], r"for a file of that name write \./lr=0\.1"),
        (["S=a"], "found mode 'S', which is no other network"),
        (["a", "b"], "a second file for mode 'C1', after a"),
        (["a", "C1=b"], "a second file for mode 'C1', after a"),
        (["new=a", "new=b"], "a second file for mode 'new', after a"),
        (["new="], "found no file"),
    ],
)
def test_what_is_for_no_mode_is_refused(arguments, said):
    with pytest.raises(WeightFileError, match=said):
        by_mode(arguments, DEVICE)


def test_weights_are_those_of_the_file_with_the_norm_folded_in(own, tmp_path):
    other = Net(1).eval()
    path = written(tmp_path / "other.safetensors", other)
    found = given(own, path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.tensors.keys() == trace(own, SAMPLE).module.state_dict().keys()
    x = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = torch.func.functional_call(trace(own, SAMPLE).module, dict(found.tensors), (x,))
        assert torch.equal(outputs, trace(other, SAMPLE).module(x))
        assert (outputs - other(x)).abs().max() < 1e-5


def test_a_mode_without_its_file_and_a_file_without_its_mode_are_refused(own):
    network = trace(own, SAMPLE)
    with pytest.raises(WeightFileError, match=r"mode 'new': found no file.*--weights new=FILE"):
        read_given({}, DEVICE, own, network, SAMPLE)
    with pytest.raises(WeightFileError, match="weights of mode 'x': found the unknown mode 'x', expected one of new"):
        read_given({"new": "a", "x": "b"}, DEVICE, own, network, SAMPLE)
    with pytest.raises(WeightFileError, match="found mode 'C1', which is no other network"):
        read_given({"C1": "a"}, DEVICE, own, network, SAMPLE)


def test_files_that_do_not_fit_are_refused(own, tmp_path):
    path = tmp_path / "f"
    with pytest.raises(WeightFileError, match="there is no such file"):
        given(own, path)
    with pytest.raises(WeightFileError, match="there is no such file"):
        given(own, tmp_path)
    for content in (b"", b"x" * 100, struct.pack("<Q", 10) + b"{}", struct.pack("<Q", 2) + b"[]"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="f is not a whole safetensors file"):
            given(own, path)
    with pytest.raises(CheckpointError, match=r"missing conv\.weight.*unexpected weight"):
        given(own, written(path, nn.Linear(2, 2, bias=False)))
    wide = Net(1)
    wide.fc = nn.Linear(48, 3)
    with pytest.raises(CheckpointError, match=r"fc\.weight has shape \[3, 48\], expected \[2, 48\]"):
        given(own, written(path, wide))
    double = Net(1).double()
    with pytest.raises(CheckpointError, match="is float64, expected float32"):
        given(own, written(path, double))


def test_a_file_too_large_for_the_network_is_refused_unread(own, tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(HEADER_BYTES + (1 << 20))
    with pytest.raises(WeightFileError, match=f"found {HEADER_BYTES + (1 << 20)} bytes, expected at most"):
        given(own, path)


def test_the_dense_networks_own_weights_are_no_other_network(own, tmp_path):
    other = Net()
    other.unused = nn.Linear(2, 2)
    with pytest.raises(WeightFileError, match="the dense network's own weights"):
        given(own, written(tmp_path / "f", other))


def test_a_tensor_that_no_path_writes_must_agree_and_one_that_nothing_reads_need_not(own, tmp_path):
    other = Net(1)
    assert not torch.equal(other.unused.weight, own.unused.weight)
    found = given(own, written(tmp_path / "f", other))
    assert torch.equal(found.tensors["unused.weight"], own.unused.weight)
    other.table[3] = 2.0
    with pytest.raises(WeightFileError, match="table differs from the dense network's"):
        given(own, written(tmp_path / "f", other))


def test_weights_that_are_finite_only_before_the_norm_is_folded_in_are_refused(own, tmp_path):
    other = Net(1)
    with torch.no_grad():
        other.norm.weight.fill_(1e38)
        other.conv.weight.fill_(1e10)
    with pytest.raises(WeightFileError, match=r"conv\.weight is not finite once its batch norm is folded in"):
        given(own, written(tmp_path / "f", other))
