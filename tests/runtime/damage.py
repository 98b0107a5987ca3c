"""Tools of tests that damage a bundle on disk and expect it to be refused."""

import hashlib
import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from runtime.errors import BundleError
from runtime.plan.bundle import CANARY, EVALUATION, GRAPH, ROWS, read
from runtime.plan.bundle_files import MANIFEST
from runtime.plan.bundle_parts import BASE, MODES

PATHS = tuple(f"paths/{move}.safetensors" for move in ("C1-C2", "C2-C3", "C3-C1"))
LANDSCAPE = "landscapes/C1-C2.json"
LISTED = (
    BASE, CANARY, EVALUATION, GRAPH, *(f"graphs/C{mode}.onnx" for mode in (1, 2, 3)), *PATHS, MODES, ROWS, LANDSCAPE
)  # fmt: skip
"""Every file of the bundle that ``tests.runtime.bundles`` writes, but its manifest."""


def snapshot(folder):
    """Everything a directory tree holds, to see whether any of it changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        regular = stat.S_ISREG(about.st_mode) and about.st_size < 1 << 25
        content = path.read_bytes() if regular else os.readlink(path) if path.is_symlink() else None
        found[path.relative_to(folder).as_posix()] = (about.st_mode, about.st_mtime_ns, about.st_size, content)
    return found


def refused(plan, *expected, error=BundleError, read=read):
    """Check that reading is refused in these words, and that nothing on disk was touched."""
    before = snapshot(plan.parent)
    with pytest.raises(error) as caught:
        read(plan)
    text = str(caught.value)
    for words in (str(plan), *expected):
        assert words in text, f"{words!r} is not in: {text}"
    assert re.search(r"expected|cannot be read|; ", text), "it says what to do or what was expected"
    assert snapshot(plan.parent) == before


def flip(path, place=0.5, bit=4):
    """Flip one bit."""
    raw = bytearray(path.read_bytes())
    raw[int(place * (len(raw) - 1))] ^= 1 << bit
    path.write_bytes(raw)


def manifest(plan):
    return json.loads((plan / MANIFEST).read_bytes())


def change(plan, *steps, to=None, drop=False):
    """Set the field of the manifest that ``steps`` lead to, or drop it."""
    data = manifest(plan)
    inner = data
    for step in steps[:-1]:
        inner = inner[step]
    if drop:
        del inner[steps[-1]]
    else:
        inner[steps[-1]] = to(inner[steps[-1]]) if callable(to) else to
    (plan / MANIFEST).write_text(json.dumps(data))


def rehash(plan):
    """List the files as they are now, so that no digest is what refuses them."""
    data = manifest(plan)
    for name in data["files"]:
        raw = (plan / name).read_bytes()
        data["files"][name] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (plan / MANIFEST).write_text(json.dumps(data))


def replace(plan, name, raw):
    """Replace a file and list the new one."""
    (plan / name).write_bytes(raw)
    rehash(plan)


def tensors(plan, name, **arrays):
    """Replace arrays of a safetensors file; one that is None is left out, one that is a function is applied."""
    found = dict(load((plan / name).read_bytes()))
    for key, array in arrays.items():
        found[key] = array(found[key].copy()) if callable(array) else array
    replace(plan, name, save({key: np.ascontiguousarray(array) for key, array in found.items() if array is not None}))


def safetensors(header, data=b""):
    """A safetensors file with any header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def put(index, value):
    """A function that puts a value into an array."""

    def apply(array):
        array[index] = value
        return array

    return apply


def relative(folder: Path):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
