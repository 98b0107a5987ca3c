"""Measuring a board: what the figures rest on, and the file that comes of them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from device_profiles import load, parse
from runtime.cli import commands, profile_commands
from runtime.plan import bundle as bundles
from runtime.sensing import measuring
from runtime.sensing.measuring import Measured, MeasuredMode, measure, overlay
from runtime.sensing.power import Sample
from tests.runtime.bundles import profile, write_bundle


class Silent:
    """Tells nobody."""

    def stage(self, name: str, steps: int) -> None:
        """Nothing."""

    def step(self, detail: str) -> None:
        """Nothing."""


class TwoWatts:
    """A meter of a device that draws 2 W, and one more while a runner is at work."""

    source = "a meter of the test"

    def __init__(self) -> None:
        self.at_s: float | None = None
        self.energy_j = 0.0
        self.power_w = 2.0

    def sample(self, now_s: float) -> Sample:
        self.energy_j += self.power_w * (now_s - (now_s if self.at_s is None else self.at_s))
        self.at_s = now_s
        return Sample(self.power_w, self.energy_j)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("measured") / "plan")


@pytest.fixture(scope="module")
def bundle(path: Path) -> bundles.Bundle:
    return bundles.read(path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "WRITE_S", 0.002)
    monkeypatch.setattr(measuring, "READ_S", 0.01)


def command(*arguments: object) -> tuple[int, str, str]:
    app = typer.Typer()
    profile_commands.add_commands(app)
    done = CliRunner().invoke(app, ["profiles", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


def test_every_mode_is_timed_and_the_bank_is_written(bundle: bundles.Bundle) -> None:
    found = measure(bundle, profile(), rounds=5, watch_s=0.02, meter=None, progress=Silent(), machine="a board")
    assert [one.name for one in found.modes] == ["C1", "C2", "C3"]
    for one in found.modes:
        assert one.runs == 5
        assert 0 < one.quartiles_ms[0] <= one.median_ms <= one.quartiles_ms[1]
    rate = found.figures["writes.bytes_per_second"]
    assert rate.value > 0
    assert rate.provenance == "measured"
    assert "a board" in rate.source
    assert found.date in rate.source
    assert "target.macs_per_second" in found.figures
    assert not any(name.startswith("energy") for name in found.figures)


def test_power_is_read_at_rest_and_at_work(bundle: bundles.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = TwoWatts()
    watched = measuring._watched

    def busier(one: TwoWatts, watch_s: float, between: object) -> float | None:
        mean_w = watched(one, watch_s, between)  # type: ignore[arg-type]
        one.power_w = 3.0
        return mean_w

    monkeypatch.setattr(measuring, "_watched", busier)
    found = measure(bundle, profile(), rounds=3, watch_s=0.05, meter=meter, progress=Silent(), machine="a board")
    assert found.figures["energy.idle_w"].value == pytest.approx(2.0)
    each = found.figures["energy.joules_per_mac"]
    assert each.value > 0
    assert "3 W at" in each.source
    assert "less 2 W at rest" in each.source


def modes(*latencies: tuple[int, float]) -> tuple[MeasuredMode, ...]:
    return tuple(MeasuredMode(f"C{at}", macs, ms, (ms, ms), 9) for at, (macs, ms) in enumerate(latencies, start=1))


def test_a_line_through_the_modes_tells_speed_and_overhead() -> None:
    found = measuring._speed(modes((3_000_000, 5.0), (2_000_000, 4.0), (1_000_000, 3.0)), str)
    assert found["target.macs_per_second"].value == pytest.approx(1e9)
    assert found["target.overhead_ms"].value == pytest.approx(2.0)


@pytest.mark.parametrize("latencies", [((10**6, 1.0),), ((10**6, 1.0), (10**6, 2.0)), ((10**6, 1.0), (10**5, 2.0))])
def test_where_a_line_makes_no_sense_the_dense_mode_tells_its_rate(latencies: tuple[tuple[int, float], ...]) -> None:
    found = measuring._speed(modes(*latencies), str)
    assert list(found) == ["target.macs_per_second"]
    assert found["target.macs_per_second"].value == pytest.approx(1e9)


def test_the_file_is_a_profile_that_extends_another(bundle: bundles.Bundle) -> None:
    found = measure(
        bundle, load("raspberry-pi-5"), rounds=3, watch_s=0.02, meter=TwoWatts(), progress=Silent(),
        machine="a 'board': #1\n",
    )  # fmt: skip
    mine, base = parse(overlay(found, "raspberry-pi-5"), "text"), load("raspberry-pi-5")
    assert mine.writes.bytes_per_second == found.figures["writes.bytes_per_second"]
    assert mine.energy is not None
    assert mine.energy.idle_w == found.figures["energy.idle_w"]
    assert "a 'board': #1" in mine.energy.idle_w.source
    assert (mine.writes.bytes_per_increment, mine.modes) == (base.writes.bytes_per_increment, base.modes)


def test_a_machine_names_itself(tmp_path: Path) -> None:
    assert measuring.machine_name()
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "cpuinfo").write_text("processor: 0\nmodel name\t: A processor\n")
    assert measuring.machine_name(tmp_path) == "A processor"
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"A board\0")
    assert measuring.machine_name(tmp_path) == "A board"


def test_the_command_writes_shows_and_never_overwrites(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    # The plan's own profile is called like the built-in one that it was made from.
    status, shown, _ = command("measure", path, "--rounds", 3, "--watch", 1, "--out", out, "--json")
    assert status == 0
    data = json.loads(shown)
    assert [one["name"] for one in data["modes"]] == ["C1", "C2", "C3"]
    mine = load(out)
    assert mine.target.macs_per_second is not None
    assert mine.target.macs_per_second.provenance == "measured"
    assert list(tmp_path.iterdir()) == [out]
    before = out.read_bytes()
    status, _, said = command("measure", path, "--out", out)
    assert status == 2
    assert "expected no such file" in said
    assert out.read_bytes() == before


def test_a_device_that_is_only_played_is_not_measured_here(path: Path) -> None:
    status, _, said = command("measure", path, "--profile", "rram-crossbar")
    assert status == 1
    assert "target.runs: found 'simulate', expected 'live'" in said


def test_ctrl_c_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = ["profiles", "measure", str(path), "--rounds", "10000", "--watch", "3600", "--out", "mine.yaml"]
    process = subprocess.Popen(
        [sys.executable, "-m", "geoshift", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        env={**os.environ, "TTY_COMPATIBLE": "1"}, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    seen = ""
    while "Latency of every mode" not in seen:
        character = process.stderr.read(1)
        assert character, seen
        seen += character
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, seen + rest
    assert "Traceback" not in seen + rest
    assert list(tmp_path.iterdir()) == []


def test_show_prints_every_number_with_its_origin() -> None:
    status, shown, _ = command("show", "rram-crossbar")
    assert status == 0
    assert "≈ assumed" in shown
    for part in ("writes.verify.mean_writes", "writes.granularity_bytes", "poll_s", "endurance_writes", "paper"):
        assert part in shown
    status, shown, _ = command("show", "raspberry-pi-5", "--set", "threads=3", "--json")
    data = json.loads(shown)
    assert (data["threads"], data["origins"]["threads"]["source"]) == (3, "given as --set threads=3")
    status, _, said = command("show", "raspberry-pi-5", "--set", "threads=0")
    assert status == 1
    assert "--set threads=0: threads: found 0" in said


def test_check_names_the_problems_of_all_files(tmp_path: Path) -> None:
    good, bad, worse = (tmp_path / name for name in ("good.yaml", "bad.yaml", "worse.yaml"))
    good.write_text("extends: generic-x86\n")
    bad.write_text("extends: generic-x86\nthreads: 0\nqueue_limit: 0\n")
    worse.write_text("nothing: [\n")
    status, shown, said = command("check", good, bad, worse)
    assert status == 1
    assert "generic-x86: modes C1" in shown
    for part in ("bad.yaml, line 2: threads", "bad.yaml, line 3: queue_limit", "worse.yaml, line 2"):
        assert part in said
    status, shown, _ = command("check", good, bad, "--json")
    assert status == 1
    data = json.loads(shown)
    assert [one["ok"] for one in data["profiles"]] == [True, False]
    assert [(one["line"], one["key"]) for one in data["profiles"][1]["problems"]] == [
        (2, "threads"),
        (3, "queue_limit"),
    ]


def test_list_says_what_is_served() -> None:
    status, shown, _ = command("list", "--json")
    assert status == 0
    assert {one["name"]: one["runs"] for one in json.loads(shown)}["rram-crossbar"] == "simulate"


def test_overrides_reach_what_plays_and_verifies(path: Path) -> None:
    app = typer.Typer()
    commands.add_commands(app)

    def said(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, [str(one) for one in arguments])
        return done.exit_code, " ".join(done.output.split())

    assert said("verify", path, "--set", "threads=1", "--json")[0] == 0
    status, text = said("simulate", path, "--strategies", "ordered", "--set", "target.runs=simulate", "--json")
    assert (status, '"ordered"' in text) == (0, True)
    for command in ("verify", "simulate"):
        status, text = said(command, path, "--set", "weights.format=float16")
        assert (status, "weights: found a plan for float32, expected float16" in text) == (1, True)
        status, text = said(command, path, "--set", "threads=0")
        assert (status, "--set threads=0: threads: found 0" in text) == (1, True)


def test_what_is_measured_reads_back() -> None:
    found = Measured("a board", "2026-01-02", "Net", modes((1, 1.0)))
    assert found.as_json()["modes"][0]["runs"] == 9
