"""The scripts that run benchmarks and make tables and the picture from what they wrote."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from scripts import bench, claims_table, tour_picture

ROOT = bench.ROOT


def test_every_benchmark_with_results_has_a_short_form_that_is_found():
    written = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert written <= set(bench.names())
    for name in bench.names():
        assert "def run(quick: bool)" in (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")


@pytest.fixture
def runs(monkeypatch):
    """Stands in for the benchmarks, which take minutes: notes each command and ends as told."""
    found = SimpleNamespace(commands=[], ends=dict.fromkeys(bench.names(), 0))

    def run(command, **options):
        found.commands.append(command)
        end = found.ends[command[2].removeprefix("benchmarks.")]
        if end is None:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, end, "what it said")

    monkeypatch.setattr(bench.subprocess, "run", run)
    monkeypatch.setenv(bench.CHECKPOINT, "somewhere")
    return found


def test_all_are_run_short_and_away_from_the_published_results(runs):
    assert bench.main([]) == 0
    assert sorted(command[2] for command in runs.commands) == [f"benchmarks.{name}" for name in bench.names()]
    for command in runs.commands:
        assert command[0] == sys.executable
        assert "--quick" in command
        assert command[command.index("--out") + 1] == str(ROOT / "benchmarks" / "quick")


def test_one_that_breaks_or_hangs_fails_the_whole_and_stops_no_other(runs, capsys):
    runs.ends |= {"soak": 1, "kill": None}
    assert bench.main([]) == 1
    assert len(runs.commands) == len(bench.names())
    told = capsys.readouterr()
    assert "what it said" in told.out
    assert re.search(rf"kill +stopped: it took more than {bench.LIMIT_S:.0f} s", told.out)
    assert "broken: kill, soak" in told.err


def test_all_together_have_a_limit_too(runs, monkeypatch, capsys):
    monkeypatch.setattr(bench, "TOTAL_S", 0.0)
    assert bench.main(["soak", "kill"]) == 1
    assert runs.commands == []
    assert "kill         not begun" in capsys.readouterr().out


def test_what_needs_a_checkpoint_is_left_out_aloud_and_unknown_names_are_refused(runs, monkeypatch, capsys):
    monkeypatch.delenv(bench.CHECKPOINT)
    assert bench.main(["fig2d", "soak"]) == 0
    assert [command[2] for command in runs.commands] == ["benchmarks.soak"]
    assert "fig2d        left out: set GEOSHIFT_VGG11" in capsys.readouterr().out
    assert bench.main(["soka"]) == 2


def test_the_best_rival_is_the_one_with_the_best_worst_seed(tmp_path):
    claim = {"name": "lost_points", "value": 0.5, "unit": "points", "op": "<=", "bar": 1.0, "ok": True}
    rivals = {"one": {"lost_points": [0.1, 3.0]}, "other": {"lost_points": [2.0, 1.5]}, "blind": {"bytes": [1]}}
    more = {"name": "kept", "value": 80.0, "unit": "%", "op": ">=", "bar": 90, "ok": False}
    (tmp_path / "x.json").write_text(json.dumps({"claims": [claim, more], "rivals": rivals}))
    first, second = claims_table.rows(tmp_path)
    assert (first.bar, first.ours, first.rival, first.met) == ("≤ 1 points", "0.5", "2, other", True)
    assert (second.bar, second.rival, second.met) == ("≥ 90 %", claims_table.NONE, False)
    assert "| kept | ≥ 90 % | 80 | – | **no** |" in claims_table.page(tmp_path)
    assert "| 1 of 2 | kept: ≥ 90 %, 80 |" in claims_table.short(tmp_path)


def test_the_rivals_of_sparse_sets_are_found_by_level():
    found = {row.claim: row.rival for row in claims_table.rows() if row.benchmark == "fig2c"}
    assert found["70 % sparse, linear, mean worst drop"] == "0.02, magnitude"


def test_results_that_lack_a_figure_are_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"claims": [{"name": "a"}]}')
    with pytest.raises(claims_table.ClaimsError, match=r"x\.json: found no figure"):
        claims_table.rows(tmp_path)
    with pytest.raises(tour_picture.PictureError, match=r"fig2d\.json: found no figure"):
        tour_picture.picture(tmp_path)


def test_the_picture_is_small_well_formed_and_shows_every_state_within_its_frame():
    text = tour_picture.picture()
    assert len(text.encode()) < 150_000
    assert "prefers-color-scheme: dark" in text
    root = ET.fromstring(text)
    record = json.loads((tour_picture.RESULTS / "fig2d.json").read_text(encoding="utf-8"))
    tours = record["data"]["per_seed"][tour_picture.SEED]["tours"]
    dots = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(dots) == sum(one["kind"] == "torn" for tour in tours.values() for one in tour)
    for dot in dots:
        assert tour_picture.LEFT <= float(dot.get("cx")) <= tour_picture.WIDTH - tour_picture.RIGHT
        assert tour_picture.TOP <= float(dot.get("cy")) <= tour_picture.HEIGHT - tour_picture.BOTTOM
