"""CIFAR-10 and Fashion-MNIST: converted from both of their sources; none of it needs the network."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from planner import cifar_files, fashion_files, image_files
from planner.datasets import DatasetError, load
from planner.image_files import RawFile

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 10, 3, 32, 32), dtype=np.uint8)  # five batches and the test
ANSWERS = np.tile(np.arange(10), (6, 1))
CLOTHES = np.random.default_rng(1).integers(0, 256, (10, 5, 28, 28), dtype=np.uint8)  # by class; the last two are test
BATCHES = [*(f"data_batch_{number}.png" for number in range(1, 6)), "test_batch.png"]


def png(images: np.ndarray) -> bytes:
    """Images [N, channels, 32, 32] as the rows of one picture."""
    rows = images.transpose(0, 2, 3, 1).reshape(len(images), 1024, -1)
    stream = io.BytesIO()
    Image.fromarray(rows if rows.shape[2] == 3 else rows[:, :, 0]).save(stream, format="PNG")
    return stream.getvalue()


def cifar_members() -> dict[str, bytes]:
    members = {name: png(images) for name, images in zip(BATCHES, COLOURS, strict=True)}
    members["train_lables.json"] = json.dumps(ANSWERS[:5].flatten().tolist()).encode()
    members["test_lables.json"] = json.dumps(ANSWERS[5].tolist()).encode()
    return members


def fashion_members() -> dict[str, bytes]:
    rows = [pixels.reshape(5, 784).tolist() for pixels in CLOTHES]
    rows[0][2:2] = [[], []]  # as in the package
    return {f"src/clothes/{label}.json": json.dumps({"data": row}).encode() for label, row in enumerate(rows)}


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def raw(contents: dict[str, bytes]) -> dict[str, RawFile]:
    return {name: RawFile(len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()}


CIFAR = dict(zip(
    cifar_files.FILES,
    [idx(COLOURS[:5].reshape(50, 3, 32, 32)), idx(ANSWERS[:5].flatten()), idx(COLOURS[5]), idx(ANSWERS[5])],
    strict=True,
))  # fmt: skip
IN_TURN = CLOTHES.transpose(1, 0, 2, 3)
FASHION = dict(zip(
    fashion_files.BY_CLASS,
    [
        idx(IN_TURN[:3].reshape(30, 28, 28)), idx(np.tile(np.arange(10), 3)),
        idx(IN_TURN[3:].reshape(20, 28, 28)), idx(np.tile(np.arange(10), 2)),
    ],
    strict=True,
))  # fmt: skip
ORIGINAL = dict(zip(
    fashion_files.ORIGINAL,
    [
        gzip.compress(content, mtime=0)
        for content in (idx(CLOTHES[:, :4].reshape(40, 28, 28)), idx(np.repeat(np.arange(10), 4)),
                        idx(CLOTHES[:, 4]), idx(np.arange(10)))
    ],
    strict=True,
))  # fmt: skip


class Sources:
    """Stand-ins for torchvision and npm; torchvision fails unless `mirrors` is set."""

    def __init__(self) -> None:
        self.mirrors = False
        self.members: dict[str, bytes] = {}
        self.asked: list[str] = []

    def cifar(self, _root: str, *, train: bool, download: bool) -> SimpleNamespace:
        self._ask(download)
        part = slice(0, 5) if train else slice(5, 6)
        return SimpleNamespace(
            data=COLOURS[part].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), targets=ANSWERS[part].flatten().tolist()
        )

    def fashion(self, root: str, *, download: bool) -> SimpleNamespace:
        self._ask(download)
        for name, content in ORIGINAL.items():
            (Path(root) / name).write_bytes(content)
        return SimpleNamespace(raw_folder=root)

    def _ask(self, download: bool) -> None:
        assert download
        self.asked.append("mirrors")
        if not self.mirrors:
            raise RuntimeError("no route to host")

    def run(self, command: list[str], **options: object) -> None:
        self.asked.append("npm")
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for name, content in self.members.items():
                info = tarfile.TarInfo(f"package/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        (Path(str(options["cwd"])) / f"{command[2].replace('@', '-')}.tgz").write_bytes(stream.getvalue())


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Sources of tiny data sets, whose files are the published ones for the time of the test."""
    found = Sources()
    monkeypatch.setattr(cifar_files, "FILES", raw(CIFAR))
    monkeypatch.setattr(fashion_files, "BY_CLASS", raw(FASHION))
    monkeypatch.setattr(fashion_files, "ORIGINAL", raw(ORIGINAL))
    monkeypatch.setattr(fashion_files, "TEST_PER_CLASS", 2)
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", found.cifar)
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", found.fashion)
    monkeypatch.setattr(subprocess, "run", found.run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}")
    monkeypatch.setenv("GEOSHIFT_CACHE", str(tmp_path / "cache"))
    return found


@pytest.mark.parametrize("mirrors", [True, False])
def test_cifar_is_the_same_from_both_sources(sources, tmp_path, mirrors):
    sources.mirrors, sources.members = mirrors, cifar_members()

    data = load("cifar10")

    assert sources.asked == (["mirrors", "mirrors"] if mirrors else ["mirrors", "npm"])
    assert data.train_x.shape == (50, 3, 32, 32)
    mean, std = (np.array(data.preprocessing[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    assert np.abs(data.test_x - (COLOURS[5] / 255 - mean) / std).max() < 1e-5  # float32 against float64
    assert data.train_y.tolist() == list(range(10)) * 5
    assert data.labels[3] == "cat"
    assert set(os.listdir(tmp_path / "cache" / "cifar10")) == set(CIFAR)
    sources.asked.clear()
    assert np.array_equal(load("cifar10").train_x, data.train_x)
    assert sources.asked == []


def test_fashion_by_class_gets_a_test_set_of_the_last_of_each_class(sources, tmp_path):
    sources.members = fashion_members()

    data = load("fashion-mnist")

    assert data.train_x.shape == (30, 1, 28, 28)
    assert data.test_x.shape == (20, 1, 28, 28)
    pixels = np.rint((data.test_x * 0.3530 + 0.2860) * 255).astype(int)
    for label in range(10):
        assert np.array_equal(pixels[data.test_y == label][:, 0], CLOTHES[label, 3:])
    assert data.train_y[:10].tolist() == list(range(10))
    assert data.labels[9] == "Ankle boot"
    assert set(os.listdir(tmp_path / "cache" / "fashion-mnist")) == set(FASHION)


def test_fashion_from_the_mirrors_keeps_the_original_split_and_files(sources, tmp_path):
    sources.mirrors = True

    data = load("fashion-mnist")

    assert (len(data.train_x), len(data.test_x)) == (40, 10)
    assert data.train_y.tolist() == np.repeat(np.arange(10), 4).tolist()
    assert set(os.listdir(tmp_path / "cache" / "fashion-mnist")) == set(ORIGINAL)
    sources.mirrors, sources.asked = False, []
    assert np.array_equal(load("fashion-mnist").test_x, data.test_x)
    assert sources.asked == []


PICTURE = cifar_members()["test_batch.png"]


@pytest.mark.parametrize(
    ("name", "member", "content", "message"),
    [
        ("cifar10", "data_batch_2.png", b"GIF89a", "data_batch_2.png is not a whole PNG"),
        ("cifar10", "data_batch_3.png", PICTURE[: len(PICTURE) // 2], "data_batch_3.png is not a whole PNG"),
        ("cifar10", "test_batch.png", png(COLOURS[5][:, :1]), "test_batch.png is a picture of shape [10, 1024]"),
        ("cifar10", "test_batch.png", PICTURE[:0], "test_batch.png is not a whole PNG"),
        ("cifar10", "data_batch_1.png", png(COLOURS[1]), "train-images-idx4-ubyte: found SHA-256"),
        ("cifar10", "data_batch_1.png", png(COLOURS[0][:3]), "train-images-idx4-ubyte: found"),
        ("cifar10", "test_lables.json", b"[0, 1, 10]", "test_lables.json holds something else than integers"),
        ("cifar10", "test_lables.json", b"[0.5]", "test_lables.json holds something else than integers"),
        ("cifar10", "train_lables.json", b"[0, 1", "train_lables.json is not a list of labels"),
        ("cifar10", "train_lables.json", None, "package/train_lables.json"),
        ("fashion-mnist", "src/clothes/3.json", b'{"data": [[1, 2', "src/clothes/3.json holds no images"),
        ("fashion-mnist", "src/clothes/3.json", b'{"date": []}', "src/clothes/3.json holds no images"),
        ("fashion-mnist", "src/clothes/3.json", b'{"data": [[1, 2], [3]]}', "src/clothes/3.json holds no images"),
        ("fashion-mnist", "src/clothes/4.json", b'{"data": [[1, 2]]}', "int64 of shape [1, 2], expected integers"),
        (
            "fashion-mnist", "src/clothes/5.json", json.dumps({"data": [[256] * 784] * 5}).encode(),
            "src/clothes/5.json has pixels from 256 to 256, expected 0 to 255",
        ),
        (
            "fashion-mnist", "src/clothes/6.json", json.dumps({"data": [[0] * 784] * 4}).encode(),
            "the classes have [5, 5, 5, 5, 5, 5, 4, 5, 5, 5] images",
        ),
        (
            "fashion-mnist", "src/clothes/7.json", json.dumps({"data": [[0] * 784] * 5}).encode(),
            "by-class-train-images-idx3-ubyte: found SHA-256",
        ),
    ],
)  # fmt: skip
def test_wrong_or_partial_download_is_named_and_not_cached(sources, tmp_path, name, member, content, message):
    members = cifar_members() if name == "cifar10" else fashion_members()
    sources.members = {key: value for key, value in {**members, member: content}.items() if value is not None}

    with pytest.raises(DatasetError) as caught:
        load(name)

    assert message in str(caught.value)
    assert "no route to host" in str(caught.value)
    assert os.listdir(tmp_path / "cache") == [name]
    assert os.listdir(tmp_path / "cache" / name) == []


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_partial_cached_file_is_named_and_not_fetched_again(sources, name):
    sources.members = cifar_members() if name == "cifar10" else fashion_members()
    load(name)
    path = sorted((image_files.cache_directory() / name).iterdir())[0]
    path.write_bytes(path.read_bytes()[:-1])
    sources.asked.clear()

    with pytest.raises(DatasetError) as caught:
        load(name)

    assert str(caught.value).startswith(f"{path}: found {path.stat().st_size} bytes, expected")
    assert sources.asked == []
