"""The examples run and do what they say."""

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
    from runtime.net import Net

    def refuse(net, mode):
        raise Busy(f"switch to {mode}")

    monkeypatch.setattr(Net, "switch", refuse)
    with pytest.raises(Busy):
        live_switch.main(str(write_bundle(tmp_path / "plan")))


def test_own_model_is_planned_and_walked(tmp_path):
    from runtime.bundle import read

    example = ROOT / "examples" / "own_model.py"
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 40
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = subprocess.run([sys.executable, "examples/own_model.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["saving: committed", "full: committed"], done.stderr
    dense, saving = read(tmp_path / "demo-out" / "own-plan").manifest.modes
    assert dense.accuracy > 0.9
    assert saving.macs < 0.5 * dense.macs
