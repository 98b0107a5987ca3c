"""The idx format."""

import gzip

import numpy as np
import pytest

from planner.idx import DatasetError, read_idx, write_idx


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("shape", [(3,), (300, 2), (2, 3, 4, 5)])
def test_what_was_written_is_read_back(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    write_idx(tmp_path / "a", array)
    write_idx(tmp_path / "b", array.T)  # not contiguous

    assert (tmp_path / "a").read_bytes() == idx(array)
    assert np.array_equal(read_idx(tmp_path / "a"), array)
    assert np.array_equal(read_idx(tmp_path / "b"), array.T)


def test_compressed_file_is_read_and_a_partial_one_named(tmp_path):
    array = np.arange(600, dtype=np.uint8).reshape(20, 30)
    content = gzip.compress(idx(array))
    (tmp_path / "a.gz").write_bytes(content)
    (tmp_path / "cut.gz").write_bytes(content[:-20])
    (tmp_path / "plain.gz").write_bytes(idx(array))

    assert np.array_equal(read_idx(tmp_path / "a.gz"), array)
    for name in ("cut.gz", "plain.gz"):
        with pytest.raises(DatasetError, match=f"{name} cannot be uncompressed"):
            read_idx(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected 00 00 08"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "begins with 00 00 0d, expected 00 00 08"),
        (b"\x00\x00\x08\x03\x00\x00\x00\x01", "8 bytes, shorter than its header of 16"),
        (idx(np.zeros((2, 3)))[:-1], "17 bytes, expected 18 for shape (2, 3)"),
        (idx(np.zeros((2, 3))) + b"\x00", "19 bytes, expected 18 for shape (2, 3)"),
    ],
)
def test_wrong_idx_file_is_refused(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)

    with pytest.raises(DatasetError) as caught:
        read_idx(tmp_path / "a")

    assert message in str(caught.value)
