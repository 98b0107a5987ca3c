"""Labelled images to train, plan and measure on: built in, or the user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from planner import cifar_files, fashion_files, mnist_files, reference
from planner.idx import DatasetError, read_idx
from planner.image_files import Published, ensure

__all__ = ["BUILTIN", "Dataset", "DatasetError", "fingerprint", "load", "split"]

DIGITS_TEST = 500  # of 1,797; the test set's standard error is then about 0.6 points at 98 %
DIGITS_SPLIT_SEED = 0  # the split is part of the data set, not of a run


@dataclass(frozen=True)
class Dataset:
    """Images and labels, with the images as the network reads them.

    Attributes:
        name: Built-in name or `package.module:function`.
        train_x: float32 [N, channels, height, width], preprocessed.
        train_y: int64 [N], indices into `labels`.
        test_x: float32 [M, channels, height, width], preprocessed. Read for a final figure only, never for a choice.
        test_y: int64 [M].
        labels: Name of each class.
        preprocessing: How a device gets from raw values to the network's input, (raw * scale - mean) / std with
            `mean` and `std` one a channel; it goes into the bundle, so JSON has to be able to hold it.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    labels: tuple[str, ...]
    preprocessing: dict[str, object]


def load(name: str, *, progress: Callable[[str], None] | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: A name of `BUILTIN`, or `package.module:function` of the user's own: called without arguments, it returns
            a `Dataset` or a tuple (train_x, train_y, test_x, test_y) of arrays, images preprocessed already.
        progress: Is given one line on where downloaded data came from.

    Returns:
        The data, checked.

    Raises:
        DatasetError: The name is unknown, the data cannot be had, or an array is not what it has to be.
    """
    if name in BUILTIN:
        return BUILTIN[name](progress)
    if not reference.is_reference(name):
        raise DatasetError(
            f"data set {name!r} is not known: expected one of {', '.join(sorted(BUILTIN))}, or "
            f"package.module:function for your own"
        )
    found = reference.call(name, DatasetError)
    if isinstance(found, Dataset):
        return _checked(found)
    if isinstance(found, tuple) and len(found) == 4:
        return _from_arrays(name, *found)
    what = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
    raise DatasetError(f"{name} returned {what}, expected a Dataset or a tuple (train_x, train_y, test_x, test_y)")


def split(dataset: Dataset, seed: int, selection: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide the training images into those to fit on and those to choose by.

    Stratified: each class has the same share of both parts, to one image. The test images take no part.

    Args:
        dataset: Data to divide.
        seed: Seed of the choice; the same seed gives the same parts.
        selection: Number of images to choose by.

    Returns:
        Sorted, disjoint int64 indices into `train_x`: to fit on, to choose by. Together they are all of it.

    Raises:
        DatasetError: There are too few images to have each class in both parts, or the seed is negative.
    """
    if seed < 0:
        raise DatasetError(f"{dataset.name}: seed {seed} of the split is negative, expected 0 or more")
    return _stratified(dataset.train_y, len(dataset.labels), seed, selection, f"{dataset.name}: a selection set")


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over everything in a data set, to tell later whether a run had the same data."""
    digest = hashlib.sha256(json.dumps([dataset.labels, dataset.preprocessing], sort_keys=True).encode())
    for array in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# The training pixels' own mean and deviation, after the scale, one a channel.
MNIST_MEAN, MNIST_STD = [0.1307], [0.3081]
FASHION_MEAN, FASHION_STD = [0.2860], [0.3530]
CIFAR_MEAN, CIFAR_STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
DIGITS_MEAN, DIGITS_STD = [0.305], [0.376]


def _load_mnist(progress: Callable[[str], None] | None) -> Dataset:
    return _from_files("mnist", mnist_files.published(), MNIST_MEAN, MNIST_STD, tuple("0123456789"), progress)


def _load_fashion(progress: Callable[[str], None] | None) -> Dataset:
    """Fashion-MNIST; its test set is the original one or our own, see `planner.fashion_files`."""
    published = fashion_files.published()
    return _from_files("fashion-mnist", published, FASHION_MEAN, FASHION_STD, fashion_files.LABELS, progress)


def _load_cifar(progress: Callable[[str], None] | None) -> Dataset:
    return _from_files("cifar10", cifar_files.published(), CIFAR_MEAN, CIFAR_STD, cifar_files.LABELS, progress)


def _from_files(
    name: str,
    published: Published,
    mean: list[float],
    std: list[float],
    labels: tuple[str, ...],
    progress: Callable[[str], None] | None,
) -> Dataset:
    train_images, train_labels, test_images, test_labels = (read_idx(path) for path in ensure(published, progress))
    preprocessing: dict[str, object] = {"scale": 1 / 255, "mean": mean, "std": std}

    def images(raw: np.ndarray) -> np.ndarray:
        return _preprocess(raw.reshape(len(raw), len(mean), *raw.shape[-2:]), preprocessing)

    return _checked(
        Dataset(
            name=name,
            train_x=images(train_images),
            train_y=train_labels.astype(np.int64),
            test_x=images(test_images),
            test_y=test_labels.astype(np.int64),
            labels=labels,
            preprocessing=preprocessing,
        )
    )


def _load_digits(_progress: Callable[[str], None] | None) -> Dataset:
    from sklearn.datasets import load_digits  # slow to import

    raw = load_digits()
    labels = raw.target.astype(np.int64)
    preprocessing = {"scale": 1 / 16, "mean": DIGITS_MEAN, "std": DIGITS_STD}
    images = _preprocess(raw.images[:, np.newaxis], preprocessing)
    train, test = _stratified(labels, 10, DIGITS_SPLIT_SEED, DIGITS_TEST, "digits: a test set")
    return _checked(
        Dataset(
            name="digits",
            train_x=images[train],
            train_y=labels[train],
            test_x=images[test],
            test_y=labels[test],
            labels=tuple("0123456789"),
            preprocessing=preprocessing,
        )
    )


BUILTIN: dict[str, Callable[[Callable[[str], None] | None], Dataset]] = {
    "cifar10": _load_cifar,
    "digits": _load_digits,
    "fashion-mnist": _load_fashion,
    "mnist": _load_mnist,
}


def _preprocess(raw: np.ndarray, preprocessing: dict[str, object]) -> np.ndarray:
    """The network's input, (raw * scale - mean) / std, of raw images [N, channels, height, width]."""
    mean = np.asarray(preprocessing["mean"], dtype=np.float32).reshape(-1, 1, 1)
    std = np.asarray(preprocessing["std"], dtype=np.float32).reshape(-1, 1, 1)
    images = raw.astype(np.float32)
    images *= np.asarray(preprocessing["scale"], dtype=np.float32)  # in place: CIFAR-10 in float32 is 0.7 GB
    images -= mean
    images /= std
    return images


def _stratified(labels: np.ndarray, classes: int, seed: int, part: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of all but `part` items, and of `part` items, with each class's share in both."""
    counts = np.bincount(labels, minlength=classes)
    share = counts * (part / len(labels))
    taken = np.floor(share).astype(np.int64)
    # the items lost to rounding go to the classes that lost most; a stable sort settles ties by class
    for label in np.argsort(taken - share, kind="stable")[: max(part - int(taken.sum()), 0)]:
        taken[label] += 1
    if part < 1 or taken.min() < 1 or (counts - taken).min() < 1:
        raise DatasetError(
            f"{what} of {part} out of {len(labels)} images leaves a class without images in one of the two parts; "
            f"expected a size of at least {classes} and well below {len(labels)}, and several images of each class"
        )
    generator = np.random.default_rng(seed)
    second = np.concatenate(
        [generator.permutation(np.flatnonzero(labels == label))[: taken[label]] for label in range(classes)]
    )
    first = np.setdiff1d(np.arange(len(labels)), second)
    return first, np.sort(second)


def _from_arrays(name: str, train_x: object, train_y: object, test_x: object, test_y: object) -> Dataset:
    images = [_as_images(f"{name}: {field}", array) for field, array in (("train_x", train_x), ("test_x", test_x))]
    labels = [_as_labels(f"{name}: {field}", array) for field, array in (("train_y", train_y), ("test_y", test_y))]
    channels = images[0].shape[1]
    return _checked(
        Dataset(
            name=name,
            train_x=images[0],
            train_y=labels[0],
            test_x=images[1],
            test_y=labels[1],
            labels=tuple(str(label) for label in range(int(labels[0].max(initial=0)) + 1)),
            preprocessing={"scale": 1.0, "mean": [0.0] * channels, "std": [1.0] * channels},
        )
    )


def _as_images(what: str, array: object) -> np.ndarray:
    found = np.asarray(array)
    if found.dtype.kind != "f":
        raise DatasetError(
            f"{what} is of dtype {found.dtype}, expected float32: convert and scale it, as in x.astype('float32') / 255"
        )
    if found.ndim != 4:
        raise DatasetError(
            f"{what} has shape {list(found.shape)}, expected [samples, channels, height, width]; "
            f"a vector per sample is [samples, features, 1, 1]"
        )
    return found.astype(np.float32, copy=False)


def _as_labels(what: str, array: object) -> np.ndarray:
    found = np.asarray(array)
    if found.dtype.kind not in "iu":
        raise DatasetError(f"{what} is of dtype {found.dtype}, expected integers: one class index a sample")
    return found.astype(np.int64, copy=False)


def _checked(dataset: Dataset) -> Dataset:
    """The same data set, if every array is what its documentation says; copied where torch could not share it."""
    name, classes = dataset.name, len(dataset.labels)
    if not isinstance(dataset.labels, tuple) or not all(isinstance(label, str) for label in dataset.labels):
        raise DatasetError(f"{name}: labels is {dataset.labels!r}, expected a tuple of strings")
    for part in ("train", "test"):
        x, y = getattr(dataset, f"{part}_x"), getattr(dataset, f"{part}_y")
        for field, array, dtype, ndim in ((f"{part}_x", x, np.float32, 4), (f"{part}_y", y, np.int64, 1)):
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim:
                found = f"{array.dtype} of shape {list(array.shape)}" if isinstance(array, np.ndarray) else type(array)
                raise DatasetError(f"{name}: {field} is {found}, expected {np.dtype(dtype)} of {ndim} dimensions")
        if len(x) == 0 or x.size == 0:
            raise DatasetError(f"{name}: {part}_x has shape {list(x.shape)}, expected at least one image")
        if len(x) != len(y):
            raise DatasetError(f"{name}: {part}_x has {len(x)} images and {part}_y {len(y)} labels, expected as many")
        if not np.isfinite(x).all():
            raise DatasetError(f"{name}: {part}_x has {int((~np.isfinite(x)).sum())} values that are not finite")
        if y.min() < 0 or y.max() >= classes:
            raise DatasetError(f"{name}: {part}_y goes from {y.min()} to {y.max()}, expected 0 to {classes - 1}")
    if dataset.test_x.shape[1:] != dataset.train_x.shape[1:]:
        shapes = [list(x.shape[1:]) for x in (dataset.test_x, dataset.train_x)]
        raise DatasetError(
            f"{name}: an image of test_x has shape {shapes[0]}, of train_x {shapes[1]}; expected the same"
        )
    missing = np.flatnonzero(np.bincount(dataset.train_y, minlength=classes) == 0)
    if classes < 2 or len(missing):
        raise DatasetError(
            f"{name}: {classes} classes, of which {missing.tolist()} have no training image; expected two or more "
            f"classes and images of each"
        )
    try:
        json.dumps(dataset.preprocessing)
    except (TypeError, ValueError) as cause:
        raise DatasetError(f"{name}: its preprocessing cannot be written as JSON: {cause}") from cause
    fields = ("train_x", "train_y", "test_x", "test_y")
    return replace(dataset, **{field: np.require(getattr(dataset, field), requirements=["C", "W"]) for field in fields})
