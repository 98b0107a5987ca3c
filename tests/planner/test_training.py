"""Training: the same bits from the same seed, stopped or not."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from planner import checkpoint, models
from planner.datasets import Dataset, load, split
from planner.recipes import GENERIC, recipe_for
from planner.training import Epoch, TrainingError, TrainingInterrupted, TrainingResult, accuracy, train

IMAGES = 300


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """A few of the digits, so that an epoch takes milliseconds."""
    whole = load("digits")
    return replace(whole, train_x=whole.train_x[:IMAGES], train_y=whole.train_y[:IMAGES])


class Normalised(nn.Module):
    """A network with all that has a state of its own: batch normalisation, dropout, a frozen and an unused weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(144, 10)
        self.fc.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(torch.flatten(torch.relu(self.norm(self.conv(x))), 1)))


def normalised() -> Normalised:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return Normalised()


def run(data: Dataset, path: Path, **changes: object) -> TrainingResult:
    fit, selection = split(data, 0, 60)
    arguments = {
        "module": normalised(),
        "definition": "normalised",
        "epochs": 4,
        "seed": 2,
        "batch_size": 32,
        "learning_rate": 0.05,
        "shift": 1,
        "threads": 1,
        "out": path,
        "fit_indices": fit,
        "selection_indices": selection,
    }
    return train(dataset=data, **{**arguments, **changes})


def stop_after(number: int) -> Callable[[Epoch], None]:
    def progress(epoch: Epoch) -> None:
        if epoch.number == number:
            raise KeyboardInterrupt

    return progress


def test_digits_recipe_reaches_its_accuracy(tmp_path):
    data = load("digits")
    fit, selection = split(data, 0, 400)
    recipe = recipe_for("digits-cnn", "digits")
    module = models.build("digits-cnn", seed=0)

    result = train(
        module,
        data,
        definition="digits-cnn",
        epochs=recipe.epochs,
        seed=0,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        out=tmp_path / "a.safetensors",
        fit_indices=fit,
        selection_indices=selection,
    )

    assert result.test_accuracy >= 0.97
    assert result.epochs[-1].selection_accuracy >= 0.96
    assert result.samples == 20 * 897
    assert result.seconds == sum(epoch.seconds for epoch in result.epochs)
    fresh = models.build("digits-cnn", seed=1)
    metadata = checkpoint.load(result.path, fresh)
    assert accuracy(fresh, torch.from_numpy(data.test_x), torch.from_numpy(data.test_y)) == result.test_accuracy
    assert float(metadata["accuracy"]) == result.test_accuracy
    assert (metadata["definition"], metadata["dataset"], metadata["seed"]) == ("digits-cnn", "digits", "0")


def test_same_seed_gives_the_same_file_and_another_seed_another(digits, tmp_path):
    for name, seed in (("a", 2), ("b", 2), ("c", 3)):
        run(digits, tmp_path / name, seed=seed)

    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_nothing_global_is_left_changed(digits, tmp_path):
    before = torch.random.get_rng_state(), torch.get_num_threads(), np.random.get_state()[1].tolist()  # noqa: NPY002

    run(digits, tmp_path / "a")

    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002


@pytest.mark.parametrize("stops", [[1], [3], [4], [1, 2, 3]])
def test_resumed_run_ends_in_the_same_bits(digits, tmp_path, stops):
    whole = run(digits, tmp_path / "whole")
    out = tmp_path / "resumed"
    for number in stops:
        with pytest.raises(TrainingInterrupted, match=f"after epoch {number} of 4; .*resumed.partial.*--resume"):
            run(digits, out, progress=stop_after(number), resume=number != stops[0])
        assert not out.exists()
        torch.rand(3)  # what else the process does with the global generator has no influence

    result = run(digits, out, resume=True)

    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    assert result.resumed_after == stops[-1]
    assert [(e.number, e.loss, e.selection_accuracy) for e in result.epochs] == [
        (e.number, e.loss, e.selection_accuracy) for e in whole.epochs
    ]
    assert sorted(os.listdir(tmp_path)) == ["resumed", "whole"]


class Stopping(Normalised):
    """Is interrupted in the middle of its third epoch."""

    batches = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches += self.training
        if self.batches == 2 * 8 + 4:
            raise KeyboardInterrupt
        return super().forward(x)


def test_stop_within_an_epoch_keeps_the_epochs_before_it(digits, tmp_path):
    module = Stopping()
    module.load_state_dict(normalised().state_dict())
    with pytest.raises(TrainingInterrupted, match="after epoch 2 of 4"):
        run(digits, tmp_path / "a", module=module)

    result = run(digits, tmp_path / "a", resume=True)

    run(digits, tmp_path / "whole")
    assert result.resumed_after == 2
    assert (tmp_path / "a").read_bytes() == (tmp_path / "whole").read_bytes()


def test_stop_before_the_first_epoch_is_over_leaves_nothing(digits, tmp_path):
    module = Stopping()
    module.batches = 2 * 8

    with pytest.raises(TrainingInterrupted, match="before the first of 4 epochs was over; nothing was kept"):
        run(digits, tmp_path / "a", module=module)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "seed is 3, was 2"),
        ({"epochs": 5}, "epochs is 5, was 4"),
        ({"learning_rate": 0.1}, r"learning rate is 0\.1, was 0\.05"),
        ({"batch_size": 16}, "batch size is 16, was 32"),
        ({"weight_decay": 0.0}, r"weight decay is 0\.0, was 0\.0005"),
        ({"shift": 0}, "shift is 0, was 1"),
        ({"threads": 2}, "threads is 2, was 1"),
        ({"flip": True}, "flip is True, was False"),
        ({"definition": "other"}, "definition is other, was normalised"),
        ({"fit_indices": np.arange(100)}, "images to fit on is "),
        ({"selection_indices": np.array([], int)}, "selection images: 0 indices"),
    ],
)
def test_resuming_with_other_arguments_is_refused(digits, tmp_path, changes, message):
    with pytest.raises(TrainingInterrupted):
        run(digits, tmp_path / "a", progress=stop_after(1))
    before = (tmp_path / "a.partial").read_bytes()
    if "fit_indices" in changes:
        changes = {**changes, "selection_indices": np.arange(100, 110)}

    with pytest.raises(TrainingError, match=message):
        run(digits, tmp_path / "a", resume=True, **changes)

    assert (tmp_path / "a.partial").read_bytes() == before


def test_resuming_on_other_data_or_other_fresh_weights_is_refused(digits, tmp_path):
    with pytest.raises(TrainingInterrupted):
        run(digits, tmp_path / "a", progress=stop_after(1))
    other = normalised()
    with torch.no_grad():
        other.fc.weight[0, 0] += 1

    with pytest.raises(TrainingError, match=r"fresh weights is .*, was"):
        run(digits, tmp_path / "a", resume=True, module=other)
    with pytest.raises(TrainingError, match=r"data is .*, was"):
        run(replace(digits, test_x=digits.test_x + 1), tmp_path / "a", resume=True)


def test_interrupted_run_is_not_overwritten_and_none_is_not_resumed(digits, tmp_path):
    with pytest.raises(TrainingError, match="there is no interrupted run to resume"):
        run(digits, tmp_path / "a", resume=True)
    with pytest.raises(TrainingInterrupted):
        run(digits, tmp_path / "a", progress=stop_after(1))
    with pytest.raises(TrainingError, match="go on from it with --resume, or delete it to start anew"):
        run(digits, tmp_path / "a")


def test_a_checkpoint_is_no_partial_run(digits, tmp_path):
    checkpoint.save(tmp_path / "a.partial", normalised(), {})

    with pytest.raises(TrainingError, match=r"format is 'geoshift\.checkpoint/1', expected 'geoshift\.training/1'"):
        run(digits, tmp_path / "a", resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected 1 or more"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"batch_size": 0}, "batch size is 0, expected 1 or more"),
        ({"shift": -1}, "shift is -1"),
        ({"threads": -1}, "threads is -1"),
        ({"weight_decay": -0.1}, r"weight decay is -0\.1"),
        ({"learning_rate": 0.0}, r"learning rate is 0\.0, expected a positive number"),
        ({"learning_rate": float("nan")}, "learning rate is nan"),
        ({"fit_indices": np.array([0, IMAGES])}, f"images to fit on: 2 indices, expected .* from 0 to {IMAGES - 1}"),
        ({"fit_indices": np.arange(IMAGES)}, "60 images are both to fit on and to select by"),
        ({"out": Path("no such folder") / "a"}, "expected a file in a folder that exists"),
        ({"module": nn.Flatten()}, r"normalised answers 2 images of digits with \[2, 64\], expected .*\[2, 10\]"),
        ({"module": models.build("lenet5")}, r"normalised cannot read the images of digits, of shape \[1, 8, 8\]"),
        ({"learning_rate": 1e30}, "training diverged in epoch 1: the loss is nan.*lower the learning rate"),
    ],
)
def test_wrong_argument_is_named(digits, tmp_path, changes, message):
    with pytest.raises(TrainingError, match=message):
        run(digits, tmp_path / "a", **changes)

    assert os.listdir(tmp_path) == []


class Diverging(Normalised):
    """Answers with something that is not a number from its second epoch on."""

    batches = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches += self.training
        return super().forward(x) * (torch.nan if self.batches > 8 else 1)


def test_diverged_run_leaves_nothing_to_resume(digits, tmp_path):
    with pytest.raises(TrainingError, match="training diverged in epoch 2"):
        run(digits, tmp_path / "a", module=Diverging())

    assert os.listdir(tmp_path) == []


def test_unknown_pair_gets_the_generic_recipe():
    assert recipe_for("my:net", "digits") == GENERIC


class Plain(nn.Module):
    """A network that has no batch norm of its own."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, bias=bias), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
        self.fc = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.features(x), 1))


def plain(*, bias: bool = True) -> Plain:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Plain(bias=bias)


def test_twin_is_trained_folded_and_resumed_to_the_same_bits(digits, tmp_path):
    whole = run(digits, tmp_path / "whole", module=plain(), batch_norm=True)
    with pytest.raises(TrainingInterrupted):
        run(digits, tmp_path / "a", module=plain(), batch_norm=True, progress=stop_after(2))
    run(digits, tmp_path / "a", module=plain(), batch_norm=True, resume=True)
    run(digits, tmp_path / "without", module=plain(), batch_norm=False)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "whole").read_bytes()
    module = Plain()
    checkpoint.load(tmp_path / "whole", module)  # the keys are the network's own
    found = accuracy(module, torch.from_numpy(digits.test_x), torch.from_numpy(digits.test_y))
    assert found == whole.test_accuracy > 0.5
    other = Plain()
    checkpoint.load(tmp_path / "without", other)
    assert not torch.equal(other.fc.weight, module.fc.weight)


def test_network_that_cannot_take_a_norm_over_is_named(digits, tmp_path):
    with pytest.raises(TrainingError, match=r"found no bias in features\.0, expected one to fold a batch norm into"):
        run(digits, tmp_path / "a", module=plain(bias=False), batch_norm=True)

    assert os.listdir(tmp_path) == []


def test_flip_changes_the_run_and_comes_from_the_seed(digits, tmp_path):
    for name, flip in (("a", True), ("b", True), ("c", False)):
        run(digits, tmp_path / name, flip=flip)

    a, b, c = (checkpoint.read_tensors(tmp_path / name)[0]["fc.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_bfloat16_trains_other_weights_that_stay_float32(digits, tmp_path):
    rough = run(digits, tmp_path / "a", bfloat16=True)
    run(digits, tmp_path / "b", bfloat16=False)
    module = normalised()
    checkpoint.load(tmp_path / "a", module)
    assert {one.dtype for one in module.parameters()} == {torch.float32}
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    assert rough.epochs[-1].loss < rough.epochs[0].loss
