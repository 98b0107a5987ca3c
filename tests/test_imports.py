"""What a device loads: nothing of the desktop, and ONNX Runtime only when a graph is opened."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.bundles import write_bundle

ROOT = Path(__file__).resolve().parent.parent
DESKTOP = ("torch", "torchvision", "torch_pruning", "onnx", "onnxscript", "sklearn", "scipy", "matplotlib", "jinja2")

FORBID = f"""
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {DESKTOP!r}:
            raise ImportError(f"a device has no {{name}}")

sys.meta_path.insert(0, Forbid())
"""


def run(code, *arguments):
    """Run a program in a fresh interpreter; its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_device_opens_verifies_simulates_and_walks_a_plan_without_the_desktop_s_libraries(tmp_path):
    code = (
        FORBID
        + """
import geoshift, runtime.walking.net, runtime.cli.commands, runtime.simulation.simulator, runtime.plan.verification
from runtime.plan.bundle import read

with geoshift.open(sys.argv[1]) as net:
    x = net.bundle.evaluation.inputs[:3]
    before = net.infer(x)
    for mode in ("C2", "C3", "C1"):
        result = net.switch(mode).wait(60)
        assert result.outcome.value == "committed", result
    assert net.infer(x).tobytes() == before.tobytes()
plan = read(sys.argv[1])
assert all(check.ok for check in runtime.plan.verification.verify(plan, plan.profile))
assert runtime.simulation.simulator.simulate(plan, plan.profile, names=["ordered", "flip"], states=3, torn=1).strategies
print(sorted(name for name in sys.modules if name.partition(".")[0] == "planner"))
"""
    )
    assert run(code, write_bundle(tmp_path / "plan")) == "[]\n"


@pytest.mark.parametrize(
    ("modules", "unloaded"),
    [
        ("geoshift", ("numpy", "onnxruntime", "typer", "rich", "runtime.walking.net", *DESKTOP)),
        ("runtime.walking.net", ("onnxruntime", "typer", "rich", *DESKTOP)),
        ("runtime.simulation.simulator, runtime.plan.verification", ("onnxruntime", "typer", "rich", *DESKTOP)),
        ("runtime.cli.commands", ("onnxruntime", *DESKTOP)),
        ("device_profiles", ("numpy", "onnxruntime", "runtime", "planner", *DESKTOP)),
        ("planner.commands", ("onnxruntime", *DESKTOP)),
    ],
)
def test_nothing_is_loaded_before_it_is_used(modules, unloaded):
    code = f"import sys, {modules}; print(*sorted(set(sys.modules) & {set(unloaded)!r}))"
    assert run(code) == "\n"


def test_reading_a_plan_does_not_load_onnx_runtime_and_opening_it_does(tmp_path):
    code = """
import sys, geoshift, runtime.plan.bundle
runtime.plan.bundle.read(sys.argv[1])
print("onnxruntime" in sys.modules)
geoshift.open(sys.argv[1]).close()
print("onnxruntime" in sys.modules)
"""
    assert run(code, write_bundle(tmp_path / "plan")) == "False\nTrue\n"


def test_the_help_of_the_command_line_needs_no_desktop():
    code = (
        FORBID
        + """
import geoshift
sys.argv = ["geoshift", "--help"]
try:
    geoshift.main()
except SystemExit as end:
    assert not end.code
"""
    )
    assert "verify" in run(code)
