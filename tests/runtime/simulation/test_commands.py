"""The commands simulate and sweep, as a shell calls them."""

import json

import pytest
import typer
from typer.testing import CliRunner

from runtime.simulation.commands import add_commands
from tests.runtime.simulation.cases import LATENCY


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    app = typer.Typer()
    add_commands(app)
    milliseconds = tmp_path_factory.mktemp("latency") / "ms.json"
    milliseconds.write_text(json.dumps({name: 1e3 * seconds for name, seconds in LATENCY.items()}))

    def run(*arguments):
        return CliRunner().invoke(app, [str(one) for one in arguments])

    run.latency = ("--latency", milliseconds)
    return run


def test_traces_are_listed(call):
    names = [one["name"] for one in json.loads(call("simulate", "--list-traces", "--json").stdout)]
    assert "drone-descent" in names
    assert "drone-descent" in call("simulate", "--list-traces").stdout


def test_a_trace_is_played_and_its_page_written(call, plan, tmp_path):
    pace = ("--bytes-per-increment", 100, "--increments-per-second", 2, "--no-second-copy")
    done = call(
        "simulate", plan.path, "-t", "flapping-trigger", "--strategies", "planned,flip", *pace, *call.latency,
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Use planned" in done.output
    assert "flip left out" in done.output
    assert (tmp_path / "out/trace.html").is_file()


def test_json_is_the_result(call, plan):
    done = call("simulate", plan.path, "-t", "drone-descent", "--strategies", "flip", *call.latency, "--json")
    data = json.loads(done.stdout)
    assert data["choice"]["strategy"] == "flip"
    assert data["latency_ms"]["C1"] == pytest.approx(2.0)
    assert data["policy"] == "shadow"
    in_place = call("simulate", plan.path, "-t", "drone-descent", "--policy", "in-place", *call.latency, "--json")
    assert json.loads(in_place.stdout)["policy"] == "in-place"


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("-t", "drone-descend"), 1, "did you mean"),
        (("-t", "drone-descent", "--strategies", "teleport"), 2, "teleport"),
        (("--rate", 2), 2, "need a --trace"),
        (("--policy", "shadow"), 2, "need a --trace"),
        (("-t", "drone-descent", "--policy", "elsewhere"), 1, "expected auto, in-place"),
        (("-t", "drone-descent", "--latency", "nowhere.json"), 1, "nowhere.json"),
    ],
)
def test_mistakes_end_with_a_sentence(call, plan, options, status, said):
    done = call("simulate", plan.path, *options)
    assert done.exit_code == status
    assert said in done.output


def test_devices_are_swept(call, plan):
    done = call(
        "sweep", plan.path, "-t", "drone-descent", "--devices", 3, "--budget", "100@2", "--strategies", "planned,flip",
        *call.latency, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["cases"][0]["strategies"]["planned"]["devices"] == 3
    assert call("sweep", plan.path, "--budget", "fast").exit_code == 2
