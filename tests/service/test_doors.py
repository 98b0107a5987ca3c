"""What is loaded when: nothing of the network before it is asked for, and each heavy library through one file."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ("litestar", "uvicorn", "h11", "httpx", "prometheus_client", "cryptography", "zeroconf")


@pytest.mark.parametrize(
    ("modules", "unloaded"),
    [
        ("geoshift", (*NETWORK, "numpy")),
        ("runtime.cli.commands", (*NETWORK, "onnxruntime", "torch")),
        ("runtime.device.device, runtime.device.views", (*NETWORK, "onnxruntime", "torch")),
        ("runtime.client", ("litestar", "uvicorn", "prometheus_client", "onnxruntime", "torch")),
        ("runtime.service.app, runtime.service.server", ("httpx", "onnxruntime", "torch", "cryptography", "zeroconf")),
    ],
)
def test_nothing_is_loaded_before_it_is_used(modules, unloaded):
    code = f"import sys, {modules}; print(*sorted(set(sys.modules) & {set(unloaded)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    ("library", "doors"),
    [
        ("httpx", {"channel.py"}),
        ("prometheus_client", {"metrics.py"}),
        ("cryptography.x509", {"certificate.py"}),
        ("uvicorn", {"server.py", "connection.py"}),
        ("h11", {"connection.py"}),
    ],
)
def test_each_heavy_library_has_one_door(library, doors):
    top, _, part = library.partition(".")
    words = [f"import {library}", f"from {library}"] + ([f"from {top} import {part}"] if part else [])
    found = {
        path.name
        for path in (ROOT / "runtime").rglob("*.py")
        if any(line.strip().startswith(tuple(words)) for line in path.read_text().splitlines())
    }
    assert found == doors
