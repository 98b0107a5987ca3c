"""The examples run and do what they say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.bundles import write_bundle

ROOT = Path(__file__).parent.parent


def test_live_switch_visits_every_mode_while_callers_are_answered(tmp_path, capsys):
    from examples.live_switch import main

    main(str(write_bundle(tmp_path / "plan")))
    *modes, last = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in modes] == ["C2: committed", "C3: committed", "C1: committed"]
    assert int(re.match(r"([\d,]+) answers meanwhile", last)[1].replace(",", "")) >= 1


def test_live_switch_ends_when_a_switch_is_refused(tmp_path, monkeypatch):
    from examples import live_switch
    from runtime.errors import Busy
    from runtime.walking.net import Net

    def refuse(net, mode):
        raise Busy(f"switch to {mode}")

    monkeypatch.setattr(Net, "switch", refuse)
    with pytest.raises(Busy):
        live_switch.main(str(write_bundle(tmp_path / "plan")))


def test_own_model_is_planned_and_walked(tmp_path):
    from runtime.plan.bundle import read

    example = ROOT / "examples" / "own_model.py"
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 40
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = subprocess.run([sys.executable, "examples/own_model.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["saving: committed", "full: committed"], done.stderr
    dense, saving = read(tmp_path / "demo-out" / "own-plan").manifest.modes
    assert dense.accuracy > 0.9
    assert saving.macs < 0.5 * dense.macs


def run(example, *arguments, cwd=ROOT):
    """What an example prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, f"examples/{example}", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_service_visits_every_mode_while_a_client_is_answered(tmp_path):
    *modes, last = run("live_service.py", write_bundle(tmp_path / "plan"))
    assert modes == [f"{mode}: committed, now {mode}" for mode in ("C2", "C3", "C1")]
    assert int(re.match(r"([\d,]+) answers meanwhile", last)[1].replace(",", "")) >= 1


def test_the_mode_follows_a_number_with_hysteresis(tmp_path):
    lines = run("triggers.py", write_bundle(tmp_path / "plan"))
    seen, log = lines[: lines.index("Log:")], lines[lines.index("Log:") + 1 :]
    found = {int(line.split("%")[0]): line.split("%")[1].split()[0] for line in seen}
    assert found == {55: "C1", 49: "C2", 51: "C2", 58: "C2", 19: "C3", 21: "C3", 29: "C3", 31: "C2", 59: "C2",
                     61: "C1", 90: "C1"}  # fmt: skip
    assert [line.strip() for line in log] == [
        "getting-low on at 49", "C1 → C2: committed", "low on at 19", "C2 → C3: committed", "low off at 31",
        "C3 → C2: committed", "getting-low off at 61", "C2 → C1: committed",
    ]  # fmt: skip


def test_a_pair_of_onnx_files_is_planned_and_walked(tmp_path):
    from runtime.plan.bundle import read

    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert len((ROOT / "examples" / "onnx_pair.py").read_text(encoding="utf-8").splitlines()) <= 60
    lines = run("onnx_pair.py", cwd=tmp_path)
    assert [line.partition(",")[0] for line in lines[-2:]] == ["C2: committed", "C1: committed"]
    dense, pruned = read(tmp_path / "demo-out" / "onnx-pair" / "plan").manifest.modes
    assert dense.accuracy > 0.95
    assert pruned.accuracy > dense.accuracy - 0.04
    assert len(pruned.kept["conv1"]) == 8
    assert pruned.macs < 0.6 * dense.macs
