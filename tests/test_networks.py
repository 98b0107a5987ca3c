"""The networks that benchmarks measure: from the store, the cache or the user's own file."""

import os
from pathlib import Path

import pytest
import torch

from benchmarks import networks
from planner import checkpoint, models
from planner.datasets import load
from planner.recipes import Recipe
from planner.training import check_selection


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty cache and store, and a recipe that takes no time."""
    monkeypatch.setenv("GEOSHIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(networks, "STORED", tmp_path / "stored")
    monkeypatch.setattr(networks, "recipe_for", lambda *_: Recipe(epochs=1, batch_size=64, learning_rate=0.05))
    return tmp_path


def test_network_is_trained_once_and_stored_in_half_the_bytes(folders):
    data = load("digits")

    first = networks.trained("digits-cnn", data)
    (path,) = (folders / "cache" / "benchmarks").iterdir()
    again = networks.trained("digits-cnn", data)
    right = networks.store("digits-cnn", data)
    path.unlink()
    stored = networks.trained("digits-cnn", data)

    assert not first.training
    assert path.name == "digits-cnn-digits-400-seed0.safetensors"
    assert torch.equal(first.fc1.weight, again.fc1.weight)
    assert torch.equal(stored.fc1.weight, first.fc1.weight.half().float())
    assert not path.exists()
    half = folders / "stored" / "digits-cnn-digits.safetensors"
    metadata = checkpoint.load(half, models.build("digits-cnn"))
    assert float(metadata["accuracy"]) == right
    check_selection(metadata, data, 0, 400)
    assert os.listdir(folders / "stored") == [half.name]
    networks.trained("digits-cnn", data, 1)  # the stored one is of another seed
    assert [path.name for path in (folders / "cache" / "benchmarks").iterdir()] == [
        "digits-cnn-digits-400-seed1.safetensors"
    ]


def test_own_vgg11_is_read(folders, monkeypatch):
    own = models.build("digits-cnn", seed=5)
    checkpoint.save(folders / "own.safetensors", own, {})
    monkeypatch.setenv(networks.VGG11_VARIABLE, str(folders / "own.safetensors"))
    monkeypatch.setitem(models.BUILTIN, "vgg11", models.DigitsCNN)  # the real one has 28 million weights

    found = networks.vgg11(load("digits"))

    assert torch.equal(found.fc1.weight, own.fc1.weight)
    assert not found.training


def test_parts_are_disjoint_and_of_the_stated_size():
    data = load("digits")

    fit, held = networks.fit_and_selection(data, 2)

    assert len(held) == networks.selection_size(data) == 400
    assert len(fit) + len(held) == len(data.train_y)
