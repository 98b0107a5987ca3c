"""What a plan's numbers come from: versions of libraries, and the code of this planner itself."""

from __future__ import annotations

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("planner", "runtime")
_LIBRARIES = ("geoshift", "torch", "onnxruntime", "numpy")


def tool_versions() -> dict[str, str]:
    """Versions by name."""
    return {name: version(name) for name in _LIBRARIES}


@functools.cache
def code_digest() -> str:
    """SHA-256 over these versions and the sources of planner and runtime: other code may find other numbers."""
    found = hashlib.sha256(repr(tool_versions()).encode())
    root = Path(__file__).parent.parent
    for path in sorted(path for package in _PACKAGES for path in (root / package).glob("*.py")):
        found.update(f"{path.relative_to(root)}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()
