"""The idx format of unsigned bytes, in which MNIST was published and in which all fetched images are cached."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from device_profiles.errors import GeoshiftError


class DatasetError(GeoshiftError):
    """A data set cannot be had, or is not what it has to be."""


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes.

    Args:
        path: File that begins with 0, 0, 8 (unsigned byte), the number of dimensions, then each dimension as a
            big-endian 32-bit integer; compressed with gzip if its name ends in `.gz`.

    Returns:
        uint8 array of the shape the header gives; read-only.

    Raises:
        DatasetError: The header is another, or the length does not fit it.
    """
    content = _uncompressed(path)
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


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as an idx file; the same array gives the same bytes."""
    assert array.dtype == np.uint8
    with path.open("xb") as file:
        file.write(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes())
        file.write(np.ascontiguousarray(array).data)


def _uncompressed(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as cause:
        raise DatasetError(f"{path} cannot be uncompressed: {cause}") from cause
