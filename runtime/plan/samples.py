"""Labelled samples in a bundle: ``eval.npz`` and ``canary.npz``."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError
from runtime.walking.rows import Floats

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
        inputs, labels = _arrays(raw, origin)
    except BundleError:
        raise
    except Exception as error:
        # A hostile file gets zipfile, its decompressors and NumPy's header parser to raise a dozen kinds of errors.
        raise BundleError(f"{origin}: found no .npz file ({error}), expected one; copy the bundle again") from error
    if labels.dtype != np.int64 or labels.ndim != 1 or not len(labels):
        raise BundleError(f"{origin}: labels: found {labels.dtype}{list(labels.shape)}, expected int64[N], N ≥ 1")
    if inputs.dtype != np.float32 or inputs.shape != (len(labels), *shape):
        raise BundleError(
            f"{origin}: inputs: found {inputs.dtype}{list(inputs.shape)}, expected float32{[len(labels), *shape]}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise BundleError(f"{origin}: labels: found {labels.min()}..{labels.max()}, expected 0..{classes - 1}")
    if not np.isfinite(inputs).all():
        raise BundleError(f"{origin}: inputs: found a value that is not finite, expected finite numbers")
    return Samples(inputs, labels)


def _arrays(raw: bytes, origin: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The two arrays of an archive, with no more memory taken than it says they need."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = archive.infolist()
    # A member is read up to the size it states and no further, so a lie here ends as a damaged file.
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED_BYTES:
        raise BundleError(f"{origin}: unpacks to {unpacked} bytes, expected at most {MAX_UNPACKED_BYTES}")
    if sorted(member.filename for member in members) != ["inputs.npy", "labels.npy"]:
        raise BundleError(f"{origin}: found {[one.filename for one in members]}, expected inputs.npy and labels.npy")
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        inputs, labels = arrays["inputs"], arrays["labels"]
    if not (isinstance(inputs, np.ndarray) and isinstance(labels, np.ndarray)):
        raise BundleError(f"{origin}: found a member that is no array, expected the arrays inputs and labels")
    return inputs, labels
