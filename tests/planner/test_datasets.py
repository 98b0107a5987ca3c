"""Data sets: built in and the user's own, checked and split."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from planner.datasets import Dataset, DatasetError, fingerprint, load, split


def test_digits_are_preprocessed_and_divided_by_class():
    data = load("digits")

    assert data.train_x.shape == (1297, 1, 8, 8)
    assert data.test_x.shape == (500, 1, 8, 8)
    assert data.train_x.dtype == np.float32
    assert data.train_y.dtype == np.int64
    assert abs(data.train_x.mean()) < 0.01  # the constants have three digits
    assert abs(data.train_x.std() - 1) < 0.01
    assert np.bincount(data.test_y).min() >= 48
    raw = (data.train_x * data.preprocessing["std"][0] + data.preprocessing["mean"][0]) / data.preprocessing["scale"]
    assert np.abs(raw - raw.round()).max() < 1e-4  # counts of 0 to 16, through float32
    assert fingerprint(load("digits")) == fingerprint(data)


def test_split_is_stratified_disjoint_and_deterministic():
    data = load("digits")
    before = fingerprint(data)

    fit, selection = split(data, 3, 200)

    assert len(selection) == 200
    assert np.array_equal(np.sort(np.concatenate([fit, selection])), np.arange(1297))
    share = np.bincount(data.train_y) * 200 / 1297
    assert np.abs(np.bincount(data.train_y[selection]) - share).max() < 1
    assert all(np.array_equal(a, b) for a, b in zip(split(data, 3, 200), (fit, selection), strict=True))
    assert not np.array_equal(split(data, 4, 200)[1], selection)
    assert fingerprint(data) == before


@pytest.mark.parametrize("selection", [-5, 0, 9, 1290, 1297, 5000])
def test_split_that_leaves_a_class_empty_is_refused(selection):
    with pytest.raises(DatasetError, match=f"selection set of {selection} out of 1297 images"):
        split(load("digits"), 0, selection)


def test_negative_seed_is_refused():
    with pytest.raises(DatasetError, match="seed -1 of the split is negative"):
        split(load("digits"), -1, 200)


def test_fingerprint_tells_any_change():
    data = load("digits")
    flipped = data.test_y.copy()
    flipped[0] = (flipped[0] + 1) % 10

    prints = {
        fingerprint(data),
        fingerprint(replace(data, test_y=flipped)),
        fingerprint(replace(data, labels=tuple("abcdefghij"))),
        fingerprint(replace(data, preprocessing={**data.preprocessing, "scale": 1.0})),
        fingerprint(replace(data, train_x=data.train_x.reshape(1297, 1, 4, 16))),
    }

    assert len(prints) == 5


def good() -> tuple[np.ndarray, ...]:
    return np.zeros((6, 3, 2, 2)), np.arange(6) % 3, np.ones((3, 3, 2, 2), np.float32), np.arange(3, dtype=np.uint8)


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch):
    """Makes `my_data:load` return a value."""

    def returning(value: object) -> None:
        module = type(sys)("my_data")
        module.load = lambda: value
        monkeypatch.setitem(sys.modules, "my_data", module)

    return returning


def test_users_arrays_become_a_data_set(users):
    arrays = good()
    arrays[2].flags.writeable = False  # torch would warn of it
    users(arrays)

    data = load("my_data:load")

    assert (data.train_x.dtype, data.test_y.dtype) == (np.float32, np.int64)
    assert data.labels == ("0", "1", "2")
    assert data.preprocessing == {"scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}
    assert data.test_x.flags.writeable


def test_users_data_set_is_taken_as_it_is(users):
    own = replace(load("digits"), name="my digits", labels=tuple("abcdefghij"))
    users(own)

    assert fingerprint(load("my_data:load")) == fingerprint(own)
    assert load("my_data:load").name == "my digits"


def changed(position: int, value: object) -> tuple[object, ...]:
    return (*good()[:position], value, *good()[position + 1 :])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "returned NoneType, expected a Dataset or a tuple"),
        (good()[:3], "returned a tuple of 3"),
        (changed(0, np.zeros((6, 3, 2, 2), np.uint8)), "train_x is of dtype uint8, expected float32"),
        (changed(0, np.zeros((6, 12))), "train_x has shape [6, 12], expected [samples, channels, height, width]"),
        (changed(0, np.full((6, 3, 2, 2), np.nan)), "train_x has 72 values that are not finite"),
        (changed(0, np.zeros((7, 3, 2, 2))), "train_x has 7 images and train_y 6 labels"),
        (changed(0, np.zeros((0, 3, 2, 2))), "train_x has shape [0, 3, 2, 2], expected at least one image"),
        (changed(2, np.zeros((3, 3, 2, 1))), "an image of test_x has shape [3, 2, 1], of train_x [3, 2, 2]"),
        (changed(1, np.zeros(6)), "train_y is of dtype float64, expected integers"),
        (changed(1, np.arange(6) - 1), "train_y goes from -1 to 4, expected 0 to 4"),
        (changed(1, np.array([0, 2] * 3)), "of which [1] have no training image"),
        (changed(1, np.zeros((6, 1), int)), "train_y is int64 of shape [6, 1], expected int64 of 1 dimensions"),
        (changed(3, np.array([0, 1, 3])), "test_y goes from 0 to 3, expected 0 to 2"),
        (Dataset("mine", *good(), ("a", "b", "c"), {}), "train_x is float64 of shape"),
        (Dataset("mine", *good(), ["a", "b", "c"], {}), "expected a tuple of strings"),
    ],
)
def test_wrong_users_data_is_refused(users, value, message):
    users(value)

    with pytest.raises(DatasetError) as caught:
        load("my_data:load")

    assert message in str(caught.value)


def test_preprocessing_has_to_be_json(users):
    users(replace(load("digits"), preprocessing={"mean": np.zeros(1)}))

    with pytest.raises(DatasetError, match="digits: its preprocessing cannot be written as JSON"):
        load("my_data:load")


def test_unknown_name_lists_the_known():
    with pytest.raises(
        DatasetError, match="'fashion' is not known: expected one of cifar10, digits, fashion-mnist, mnist, or package"
    ):
        load("fashion")
