"""The benchmark frame: claims are written whatever they say, and the quick run goes the whole way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks import frame, kill
from benchmarks.frame import Claim, Findings

KEYS = {"name", "command", "commit", "machine", "date", "seeds", "seconds", "claims", "rivals", "data"}
CLAIM_KEYS = {"name", "value", "unit", "op", "bar", "ok", "spread"}


@pytest.mark.parametrize(
    ("value", "op", "bar", "ok"), [(1, "<=", 1, True), (2, "<=", 1, False), (1, ">=", 2, False), (0, "==", 0, True)]
)
def test_a_claim_is_judged_by_its_bar(value, op, bar, ok):
    assert Claim("x", value, "points", op, bar).ok is ok


@pytest.mark.parametrize("quick", [False, True])
def test_a_missed_bar_is_written_and_fails_only_the_real_run(tmp_path, monkeypatch, quick):
    found = Findings([0], [Claim("a", 1.0, "points", "<=", 0.5, [1.0])], {}, {}, Figure())
    monkeypatch.setattr(sys, "argv", ["benchmark", "--out", str(tmp_path), *(["--quick"] if quick else [])])
    assert frame.main("nothing", lambda quick: found) == (0 if quick else 1)
    record = json.loads((tmp_path / "nothing.json").read_text())
    assert set(record) == KEYS
    assert record["claims"][0]["ok"] is False
    assert set(record["claims"][0]) == CLAIM_KEYS
    assert (tmp_path / "nothing.png").stat().st_size > 0


def test_the_tour_runs_from_training_to_picture(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.mnist_tour", "--quick", "--out", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
        env={**os.environ, "GEOSHIFT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "mnist_tour.json").read_text())
    claims = {claim["name"]: claim for claim in record["claims"]}
    assert {"worst_state_drop_points", "worst_torn_drop_points", "bytes_written_ratio"} <= set(claims)
    assert claims["torch_difference"]["ok"]
    assert claims["compact_difference"]["ok"]
    assert {"naive", "zero-first", "linear", "ramp", "geodesic"} <= set(record["rivals"])


def test_a_start_that_is_not_legal_is_counted_named_and_misses_the_bar():
    def illegal():
        raise AssertionError("not a state of the path")

    found = {seed: kill.Tally() for seed in kill.SEEDS}
    for tally in found.values():
        for state in kill.STATES:
            for kind in (kill.ERROR, kill.KILL):
                tally.judge(state, kind, lambda: None)
    assert all(claim.ok for claim in kill.findings(found).claims)
    found[1].judge("walking", kill.KILL, illegal)
    seen = kill.findings(found)
    assert [(claim.name, claim.ok, claim.spread) for claim in seen.claims] == [
        ("illegal_states", False, [0, 1, 0]), ("cells_never_tried", True, [0, 0, 0]),
    ]  # fmt: skip
    assert seen.data["matrix"]["walking"][kill.KILL] == {"tried": 4, "illegal": 1}
    assert seen.data["complaints"] == ["kill while walking: AssertionError: not a state of the path"]


def test_published_results_have_the_form_and_name_no_machine():
    results = sorted((Path(frame.__file__).parent / "results").glob("*.json"))
    assert results, "no benchmark was ever run"
    for path in results:
        record = json.loads(path.read_text())
        assert set(record) == KEYS, path
        assert all(set(claim) == CLAIM_KEYS for claim in record["claims"]), path
        assert len(record["seeds"]) >= 3, path
        assert not record["command"].endswith("--quick"), path
        assert str(Path(frame.__file__).parents[1]) not in path.read_text(), path
        assert path.with_suffix(".png").is_file()
