"""Weights on disk."""

import os

import pytest
import safetensors.torch
import torch
from torch import nn

from planner import checkpoint
from planner.checkpoint import CheckpointError

METADATA = {"definition": "linear", "dataset": "none", "seed": "3", "accuracy": "0.5", "epochs": "1"}


def linear(seed: int = 0) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


def test_loading_gives_back_every_bit_and_the_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))  # an integer buffer too

    checkpoint.save(path, module, METADATA)
    fresh = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    metadata = checkpoint.load(path, fresh)

    assert same(module, fresh)
    assert metadata == {**METADATA, "format": "geoshift.checkpoint/1"}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_same_weights_give_same_bytes(tmp_path):
    contents = set()
    for number in range(10):  # the library alone orders metadata at random
        checkpoint.save(tmp_path / f"{number}", linear(), METADATA)
        contents.add((tmp_path / f"{number}").read_bytes())

    assert len(contents) == 1


def test_tied_weights_survive(tmp_path):
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight

    checkpoint.save(tmp_path / "a", module, METADATA)
    expected = module[0].weight.detach().clone()
    with torch.no_grad():
        module[0].weight.zero_()
    checkpoint.load(tmp_path / "a", module)

    assert torch.equal(module[1].weight, expected)


def test_channels_last_weights_are_written_as_stored_row_by_row(tmp_path):
    module = nn.Conv2d(3, 4, 3)
    expected = module.weight.detach().clone()

    checkpoint.save(tmp_path / "a", module.to(memory_format=torch.channels_last), METADATA)

    assert torch.equal(checkpoint.read_tensors(tmp_path / "a")[0]["weight"], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(tmp_path, dtype):
    half = {name: tensor.to(dtype) for name, tensor in linear().state_dict().items()}
    safetensors.torch.save_file(half, tmp_path / "a")
    module = linear(1)

    checkpoint.load(tmp_path / "a", module)

    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, half["weight"].float())


def test_file_of_another_tool_is_read(tmp_path):
    safetensors.torch.save_file(linear().state_dict(), tmp_path / "a", {"format": "pt"})
    module = linear(1)

    checkpoint.load(tmp_path / "a", module)

    assert same(module, linear())


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in {**linear().state_dict(), **changes}.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (changed(bias=None), "missing bias; unexpected none; expected weights of Linear"),
        (changed(more=torch.zeros(1)), "missing none; unexpected more"),
        (changed(weight=torch.zeros(2, 4)), "weight has shape [2, 4], expected [2, 3]: weights of Linear"),
        (changed(weight=torch.zeros(2, 3, dtype=torch.float64)), "weight is float64, expected float32"),
        (changed(weight=torch.zeros(2, 3, dtype=torch.int32)), "weight is int32, expected float32"),
        (changed(bias=torch.tensor([1.0, torch.nan])), "bias has 1 values that are not finite"),
        (changed(bias=torch.tensor([torch.inf, 1.0], dtype=torch.float16)), "bias has 1 values that are not finite"),
    ],
)
def test_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path, tensors, message):
    safetensors.torch.save_file(tensors, tmp_path / "a")
    module = linear(1)

    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(tmp_path / "a", module)

    assert message in str(caught.value)
    assert str(tmp_path / "a") in str(caught.value)
    assert same(module, linear(1))


def test_definition_in_the_file_is_named_when_it_does_not_fit(tmp_path):
    checkpoint.save(tmp_path / "a", nn.PReLU(), {**METADATA, "definition": "prelu"})

    with pytest.raises(CheckpointError, match="the file says it holds 'prelu'"):
        checkpoint.load(tmp_path / "a", linear())
    with pytest.raises(CheckpointError, match="the file says it holds 'prelu'"):
        checkpoint.load(tmp_path / "a", nn.PReLU(2))


def test_training_state_is_no_checkpoint(tmp_path):
    checkpoint.write_tensors(tmp_path / "a", linear().state_dict(), {"format": "geoshift.training/1"})

    with pytest.raises(CheckpointError, match=r"format is 'geoshift\.training/1', expected 'geoshift\.checkpoint/1'"):
        checkpoint.load(tmp_path / "a", linear())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle in a zip", b"\xff" * 64])
def test_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)

    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load(tmp_path / "a", linear())


def test_cut_file_missing_file_and_folder_are_refused(tmp_path):
    checkpoint.save(tmp_path / "a", linear(), METADATA)
    (tmp_path / "cut").write_bytes((tmp_path / "a").read_bytes()[:-1])

    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load(tmp_path / "cut", linear())
    with pytest.raises(CheckpointError, match="there is no such file"):
        checkpoint.load(tmp_path / "none", linear())
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load(tmp_path, linear())


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    checkpoint.save(tmp_path / "a", linear(), METADATA)
    broken = linear()
    with torch.no_grad():
        broken.bias[0] = torch.nan

    with pytest.raises(CheckpointError, match="bias has 1 values that are not finite; nothing was written"):
        checkpoint.save(tmp_path / "a", broken, METADATA)

    module = linear(1)
    checkpoint.load(tmp_path / "a", module)
    assert same(module, linear())


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_write_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch, failure):
    checkpoint.save(tmp_path / "a", linear(), METADATA)
    before = (tmp_path / "a").read_bytes()

    def fail(_descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    expected = CheckpointError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        checkpoint.save(tmp_path / "a", linear(1), METADATA)

    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == before


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.a cannot be written: No such file or directory"):
        checkpoint.save(tmp_path / "none" / "a", linear(), METADATA)
