"""One trained network and one plan of it, shared by the tests of the planner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from device_profiles import Profile, loader
from planner import checkpoint, models
from planner.cost import CostMeter
from planner.datasets import Dataset, load, split
from planner.deploy import deploy, row_table
from planner.endpoint_search import EndPointSearch
from planner.modes import resolve
from planner.network import trace
from planner.options import Options
from planner.plan import make_plan
from planner.progress import Silent
from planner.recipes import recipe_for
from planner.study import Study
from planner.training import train
from runtime.plan.bundle import Bundle, read
from runtime.plan.samples import Samples

SELECTION = 400
OPTIONS = Options(selection=SELECTION, torn=8, waypoints=5, fit=600, probes=8, certified=20)
EVERY = replace(OPTIONS, every_candidate=True)


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
    make_plan(trained, "digits-cnn", digits, profile, path, options=EVERY)
    return Planned(trained, digits, profile, path, read(path))


@pytest.fixture(scope="session")
def study(digits, trained):
    """Everything that walking the candidates of a Raspberry Pi 5's transitions needs."""
    fit, held = split(digits, 0, SELECTION)
    inputs = torch.from_numpy(digits.train_x)
    network = trace(trained, inputs[:2])
    profile = loader.load("raspberry-pi-5")
    search = EndPointSearch(network, inputs[fit[:500]], inputs[held], CostMeter())
    ends = search.find(resolve(profile, network), Silent().step)
    table, states = row_table(network, ends)
    deployed = deploy(network, ends, table, states, inputs[:2], Silent())
    return Study(
        network=network, points=ends, table=table, states=states, ways={}, live=deployed.live,
        constants=deployed.constants, threads=1, torch_threads=1, pool=inputs[fit[:64]], probes=16,
        samples=Samples(digits.train_x[held], digits.train_y[held]),
        max_drop=0.025, seed=0,
    )  # fmt: skip
