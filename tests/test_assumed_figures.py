"""Wherever a person is shown a figure that rests on an assumed one, it is marked, or its origin stands beside it."""

import csv
import html
import io
import json
import re
from types import SimpleNamespace

import msgspec
import pytest
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from typer.testing import CliRunner

from runtime.cli.commands import inspect, strategies_table
from runtime.cli.profile_commands import profiles_show
from runtime.desktop.remote_tables import modes_table, status_lines
from runtime.plan import bundle as bundles
from runtime.reporting import report
from runtime.service.metrics import Metrics
from runtime.simulation import as_json, page, simulate_trace
from runtime.simulation.commands import add_commands
from runtime.simulation.simulator import simulate
from runtime.simulation.trace import ByHand
from scripts import device_table, write_times
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.devices import made
from tests.runtime.simulation.cases import LATENCY
from tests.runtime.simulation.cases import trace as played

BLANK = dict.fromkeys(("wide_light", "wide_dark", "narrow_light", "narrow_dark"), b"")
"""Pictures, which take seconds to draw and of which these tests look at none."""


def device(provenance):
    """A device with every figure that reports rest on, all of one origin; choices are said to be measured."""

    def figure(value):
        return {"value": value, "provenance": provenance, "source": "a test"}

    said = {"provenance": "measured", "source": "not a choice"}
    origins = ("writes.bytes_per_increment", "writes.increments_per_second", "writes.stall_budget_ms",
               "memory.weights_bytes", "queue_limit")  # fmt: skip
    return profile(
        origins=dict.fromkeys(origins, said), bank__snap=False, writes__bytes_per_second=figure(1e9),
        writes__endurance_writes=figure(1e6), writes__verify={"mean_writes": figure(1.5), "most_writes": 4},
        target={"macs_per_second": figure(1e5), "overhead_ms": figure(1.0)}, trade_off="energy",
        energy={
            "idle_w": figure(2.0), "joules_per_mac": figure(1e-6), "joules_per_byte_written": figure(1e-9),
            "inferences_per_second": 10.0,
        },
    )  # fmt: skip


@pytest.fixture(scope="module", params=["assumed", "datasheet"])
def seen(request, tmp_path_factory):
    """A plan for such a device, and whether its figures are assumed."""
    folder = tmp_path_factory.mktemp(request.param)
    own = device(request.param)
    bundle = bundles.read(write_bundle(folder / "plan", own))
    return SimpleNamespace(bundle=bundle, device=own, assumed=request.param == "assumed", folder=folder)


def command(function, *arguments):
    app = typer.Typer()
    app.command()(function)
    done = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    return done.stdout


def starred(text):
    """Whether any figure has a star."""
    return bool(re.search(r"[\w%]\*", text))


def test_the_table_and_the_json_of_inspect(seen):
    text = command(inspect, seen.bundle.path)
    assert starred(text) is seen.assumed
    assert ("* rests on a figure that the profile says is assumed" in text) is seen.assumed
    for name in ("power", "latency", "energy", "time", "wear there and back", "retries"):
        assert (f"{name}*: " in text) is seen.assumed, name
        assert ("datasheet: a test" in text) is not seen.assumed
    data = json.loads(command(inspect, seen.bundle.path, "--json"))
    names = {"seconds", "joules", "wear", "retries", "power_w", "latency_ms"}
    assumed = {
        name
        for name, used in data["provenance"].items()
        if any(one["provenance"] == "assumed" for one in used.values())
    }
    assert names <= assumed if seen.assumed else not assumed
    assert all(bool(move["cost"]["assumed"]) is seen.assumed for move in data["transitions"])


def test_the_html_report(seen):
    simulation = simulate(seen.bundle, seen.device, names=("planned", "naive"))
    names = ("modes", "tour", "states", "strategies", "candidates", "landscapes")
    text = report._render(seen.bundle, simulation, dict.fromkeys(names, BLANK))
    text = html.unescape(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    assert bool(re.search(r"[\d.]+ [mµn]?(s|J|W|ms)\*", text)) is seen.assumed
    assert ("energy.joules_per_byte_written assumed: a test" in text) is seen.assumed


def test_the_table_page_csv_and_json_of_a_played_trace(seen):
    one = played(seconds=10.0, manual=(ByHand(at_s=2, mode="C2"),))
    result = simulate_trace(seen.bundle, seen.device, one, ("planned", "flip"))
    found = {"harmed", "p99_ms", "walking_s", "total_j", "watts", "wear_share", "longest_stall_ms"}
    assert found <= {*result.assumed} if seen.assumed else result.assumed == ()
    text = page._render(seen.bundle, one, result, dict.fromkeys(("happenings", "over_time", "costs"), BLANK), 0)
    head = re.findall(r"<th class=\"number\">([^<]*(?:<br>[^<]*)?)</th>", text)
    heads = {"Harmed", "late", "refused", "p50,<br>all", "p99,<br>all", "Switching", "Longest<br>stall", "Energy"}
    assert heads <= {name.rstrip("*") for name in head if name.endswith("*") is seen.assumed}
    rows = list(csv.DictReader(io.StringIO(page.as_csv(result))))
    assert all(("watts" in row["assumed"].split()) is seen.assumed for row in rows)
    assert as_json(result)["assumed"] == result.assumed


@pytest.mark.parametrize("name", ["simulate", "sweep"])
def test_the_tables_of_simulate_and_sweep(seen, name):
    app = typer.Typer()
    add_commands(app)
    more = ("--devices", "2") if name == "sweep" else ()
    arguments = (name, str(seen.bundle.path), "-t", "flapping-trigger", "--strategies", "planned,flip", *more)
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    assert ("switching*" in done.stdout) is seen.assumed
    assert ("* rests on a figure" in " ".join(done.stdout.split())) is seen.assumed
    if name == "sweep":
        cases = json.loads(CliRunner().invoke(app, (*arguments, "--json")).stdout)["cases"]
        assert all(("harmed" in case["assumed"]) is seen.assumed for case in cases)


@pytest.mark.parametrize("provenance", ["assumed", "measured"])
def test_the_pace_at_which_strategies_were_timed(seen, provenance):
    said = {"provenance": provenance, "source": "a test"}
    device = profile(origins={"writes.increments_per_second": said}, bank__snap=False)
    simulation = simulate(seen.bundle, device, names=("ordered",), states=2, torn=0)
    assert simulation.assumed == (("increments_per_second",) if provenance == "assumed" else ())
    console = Console(width=200, file=io.StringIO())
    console.print(strategies_table(msgspec.to_builtins(simulation)))
    text = console.file.getvalue()
    assert ("at 400 bytes × 100000* a second (* the profile says it is assumed)" in text) is (provenance == "assumed")
    assert ("at 400 bytes × 100000 a second" in text) is (provenance == "measured")
    names = ("modes", "tour", "states", "strategies", "candidates", "landscapes")
    page = report._render(seen.bundle, simulation, dict.fromkeys(names, BLANK))
    assert ("assumed</em>: increments_per_second)" in page) is (provenance == "assumed")


def test_a_speed_that_was_measured_is_not_marked_for_the_profile_s(seen):
    given = simulate_trace(seen.bundle, seen.device, played(seconds=2.0, manual=()), ("flip",), latency_s=LATENCY)
    only_speed = profile(
        origins=msgspec.to_builtins(seen.device.origins),
        target={"macs_per_second": {"value": 1e5, "provenance": "assumed", "source": "a test"}},
    )  # fmt: skip
    own = simulate_trace(seen.bundle, only_speed, played(seconds=2.0, manual=()), ("flip",))
    measured = simulate_trace(seen.bundle, only_speed, played(seconds=2.0, manual=()), ("flip",), latency_s=LATENCY)
    assert "p99_ms" in own.assumed
    assert "p99_ms" not in measured.assumed
    assert ("p99_ms" in given.assumed) is seen.assumed


def test_status_modes_metrics_and_what_a_terminal_shows_of_them(seen):
    energy, endurance = map(msgspec.to_builtins, (seen.device.energy, seen.device.writes.endurance_writes))
    with made(seen.bundle, energy=energy, writes__endurance_writes=endurance) as one:
        one.infer(seen.bundle.evaluation.inputs[:1])
        one.poll()
        status, modes = one.status(), one.modes()
        text = Metrics(one, {}).exposition().decode()
    for field in ("power_w", "energy_j_per_inference", "energy_j"):
        assert status.power.provenance[field].basis == "estimated"
        assert status.power.provenance[field].assumed is seen.assumed
    assert status.provenance["endurance_left"].assumed is seen.assumed
    for mode in modes:
        assert mode.provenance["power_w"].assumed is mode.provenance["energy_j_per_inference"].assumed is seen.assumed
        assert not mode.provenance["accuracy"].assumed
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in ("geoshift_power_watts", "geoshift_mode_power_watts", "geoshift_mode_inference_energy_joules"):
        labels = [sample.labels for sample in families[name].samples]
        assert {(one["basis"], one["assumed"]) for one in labels} == {("estimated", "yes" if seen.assumed else "no")}
    lines = "\n".join(status_lines(status))
    console = Console(width=200, file=io.StringIO())
    console.print(modes_table(status, modes))
    for said in (lines, console.file.getvalue()):
        assert ("W (estimated, assumed)" in said) is seen.assumed
        assert ("W (estimated)" in said) is not seen.assumed
    assert ("writes are left (estimated, assumed)" in lines) is seen.assumed


def test_profiles_show_and_the_tables_of_the_documents():
    assert "≈ assumed" in command(profiles_show, "rram-crossbar")
    text = write_times.table()
    row = next(line for line in text.splitlines() if "rram-crossbar" in line)
    assert "20 kB/s, assumed" in row
    row = next(line for line in device_table.table().splitlines() if "rram-crossbar" in line)
    assert starred(row)
