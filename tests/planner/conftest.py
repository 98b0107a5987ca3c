"""One trained network and one plan of it, shared by the tests of the planner."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from torch import nn

from device_profiles import Profile, loader
from planner import checkpoint, models
from planner.datasets import Dataset, load, split
from planner.options import Options
from planner.plan import make_plan
from planner.recipes import recipe_for
from planner.training import train
from runtime.bundle import Bundle, read

SELECTION = 400
OPTIONS = Options(selection=SELECTION, torn=8, waypoints=5)


class Planned(NamedTuple):
    """A plan of the digits network and what it was made from."""

    module: nn.Module
    dataset: Dataset
    profile: Profile
    path: Path
    bundle: Bundle


@pytest.fixture(scope="session")
def digits():
    """The digits."""
    return load("digits")


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """The digits network, trained as the demo trains it."""
    path = tmp_path_factory.mktemp("trained") / "model.safetensors"
    recipe = recipe_for("digits-cnn", "digits")
    fit, selection = split(digits, 0, SELECTION)
    train(
        models.build("digits-cnn"), digits, definition="digits-cnn", epochs=recipe.epochs, seed=0,
        batch_size=recipe.batch_size, learning_rate=recipe.learning_rate, out=path, fit_indices=fit,
        selection_indices=selection, weight_decay=recipe.weight_decay, shift=recipe.shift,
    )  # fmt: skip
    module = models.build("digits-cnn")
    checkpoint.load(path, module)
    return module.eval()


@pytest.fixture(scope="session")
def planned(digits, trained, tmp_path_factory):
    """Its plan for a Raspberry Pi 5."""
    profile = loader.load("raspberry-pi-5")
    path = tmp_path_factory.mktemp("planned") / "plan"
    make_plan(trained, "digits-cnn", digits, profile, path, options=OPTIONS)
    return Planned(trained, digits, profile, path, read(path))
