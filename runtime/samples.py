"""Labelled samples in a bundle: ``eval.npz`` and ``canary.npz``."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError
from runtime.rows import Floats

MAX_UNPACKED_BYTES: Final = 1 << 30
"""Ten thousand colour images of 96 × 96 as float32; a compressed file must not unpack to more."""


@dataclass(frozen=True)
class Samples:
    """Preprocessed inputs, float32 [N, ...], and their labels, int64 [N]."""

    inputs: Floats
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int) -> Samples:
        """The first ``count`` samples."""
        return Samples(self.inputs[:count], self.labels[:count])


def pack(samples: Samples) -> bytes:
    """Samples as a compressed .npz, the same bytes for the same samples."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs=samples.inputs, labels=samples.labels)
    return buffer.getvalue()


def unpack(raw: bytes, origin: str, shape: tuple[int, ...], classes: int) -> Samples:
    """Read samples and check them against the network they are for.

    Args:
        raw: Content of the .npz.
        origin: What to call it in errors.
        shape: Shape of one input.
        classes: Number of labels.

    Raises:
        BundleError: Not an archive of these two arrays, too large, or not fit for the network.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise BundleError(f"{origin}: unpacks to {unpacked} bytes, expected at most {MAX_UNPACKED_BYTES}")
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            if set(arrays.files) != {"inputs", "labels"}:
                raise BundleError(f"{origin}: found arrays {sorted(arrays.files)}, expected inputs and labels")
            inputs, labels = arrays["inputs"], arrays["labels"]
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, MemoryError, RuntimeError) as error:
        # RuntimeError and its child NotImplementedError: encrypted, or packed in a way that zipfile does not know.
        raise BundleError(f"{origin}: {error}; the file is damaged: copy the bundle again") from error
    if inputs.dtype != np.float32 or inputs.shape != (len(labels), *shape):
        raise BundleError(f"{origin}: inputs: found {inputs.dtype}{list(inputs.shape)}, expected float32[N, {shape}]")
    if labels.dtype != np.int64 or labels.ndim != 1 or not len(labels):
        raise BundleError(f"{origin}: labels: found {labels.dtype}{list(labels.shape)}, expected int64[N], N ≥ 1")
    if labels.min() < 0 or labels.max() >= classes or not np.isfinite(inputs).all():
        raise BundleError(f"{origin}: found labels outside 0..{classes - 1} or inputs that are not finite")
    return Samples(inputs, labels)
