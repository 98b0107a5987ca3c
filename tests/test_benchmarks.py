"""The benchmark frame: claims are written whatever they say, and the quick run goes the whole way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks import frame, kill
from benchmarks.frame import Claim, Findings
from benchmarks.strategies_requests import RATE, SECONDS, arrivals, count
from benchmarks.strategies_states import Seen

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
        # The fleet has a seed a device, and one for all of them.
        assert len(record["seeds"]) >= 3 or record["name"] == "fleet", path
        assert not record["command"].endswith("--quick"), path
        assert str(Path(frame.__file__).parents[1]) not in path.read_text(), path
        assert path.with_suffix(".png").is_file()


def test_requests_are_wrong_because_of_the_transition_only_where_neither_end_is_to_blame():
    labels = np.zeros(4, np.int64)
    right, wrong = 0, 1
    # Samples: the transition is to blame; the mode being reached is wrong too; C1 is; nobody ever is.
    along = np.array(
        [[right, right, wrong, right], [wrong, wrong, wrong, right], [right, wrong, right, right]], np.int64
    )
    seen = Seen(np.array([0.0, 0.5, 1.0]), along, ())
    found = count(seen, 1.0, labels, along[0], seed=0)
    behind, samples = arrivals(1.0, 4, seed=0)
    half = behind >= 0.5
    assert found == {
        "requests": len(samples),
        "because": int((half & (samples == 0)).sum()),
        "wrong_and_different": int((half & (samples < 2)).sum()),
    }
    assert found["because"] > 0
    assert len(samples) == pytest.approx(RATE * SECONDS, rel=0.2)


def test_a_longer_way_has_the_requests_of_a_shorter_one_and_more():
    short, long = arrivals(1.0, 100, seed=3), arrivals(2.0, 100, seed=3)
    assert len(long[1]) > len(short[1])
    assert np.array_equal(long[1][: len(short[1])], short[1])
    assert np.allclose(2 * long[0][: len(short[0])], short[0])


@pytest.fixture(scope="module")
def sceptic(tmp_path_factory):
    """What the sceptic's experiment wrote in its quick form."""
    folder = tmp_path_factory.mktemp("sceptic")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.strategies", "--quick", "--out", str(folder)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
        env={**os.environ, "GEOSHIFT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "strategies.json").read_text())


@pytest.mark.xdist_group("sceptic")
def test_every_strategy_is_measured_between_the_same_ends(sceptic):
    folder, record = sceptic
    assert (folder / "strategies.png").stat().st_size > 0
    [network] = record["data"]["networks"]
    assert set(network["states"]["transitions"]) == {"C1 → C2", "C2 → C3", "C3 → C4", "C4 → C1", "C1 → D"}
    assert network["states"]["modes"]["D"]["macs"] <= 0.5
    for figures in network["states"]["transitions"].values():
        of = figures["strategies"]
        assert {"naive", "zero-first", "linear", "ordered", "ramp", "planned", "plain"} <= set(of)
        ends = {name: one["states"]["whole"]["points"][0] for name, one in of.items() if not name.startswith("plain")}
        assert len(set(ends.values())) == 1
        assert set(of["naive"]["states"]) >= {"whole", "torn"}
        assert of["naive"]["times"] == of["ordered"]["times"] == 1
        assert of["linear"]["times"] > 5
        assert of["flip"]["peak_bytes"] > of["naive"]["peak_bytes"]
        assert of["flip"]["requests"]["because"] == [0] * 10
        assert len(of["naive"]["requests"]["because"]) == 10


@pytest.mark.xdist_group("sceptic")
def test_kills_are_repaired_and_told(sceptic):
    _, record = sceptic
    [network] = record["data"]["networks"]
    for name, found in network["kills"]["strategies"].items():
        assert found["unrepaired"] == [], name
        assert found["kills"] == 2
        assert len(found["before"]) == len(found["after"]) == found["walking"]
    assert record["data"]["summary"]
