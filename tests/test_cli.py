"""The command line as a person or another program sees it: output, JSON, exit status, no tracebacks."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.runtime.bundles import write_bundle

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def geoshift(*arguments, cwd=None):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "geoshift", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "plan")


def failed(done, status=1):
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_help_names_every_command():
    done = geoshift("--help")
    assert done.returncode == 0
    for command in ("demo", "train", "plan", "inspect", "verify", "simulate", "profiles"):
        assert command in done.stdout


def test_inspect_prints_tables_and_json(bundle):
    shown = geoshift("inspect", bundle)
    assert shown.returncode == 0
    assert "C1 → C2" in shown.stdout
    data = json.loads(geoshift("inspect", bundle, "--json").stdout)
    assert [mode["name"] for mode in data["modes"]] == ["C1", "C2", "C3"]


def test_verify_passes_and_says_so_in_json(bundle):
    done = geoshift("verify", bundle, "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["ok"]
    assert all(check["ok"] for check in data["checks"])


def test_simulate_has_the_keys_that_other_tools_rely_on(bundle):
    done = geoshift("simulate", bundle, "--json", "--strategies", "ordered,flip,geodesic")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert set(data["strategies"]) == {"ordered", "flip"}
    assert "geodesic" in data["left_out"]
    keys = {
        "min_accuracy",
        "mean_accuracy",
        "seconds",
        "bytes_written",
        "peak_weight_bytes",
        "p99_ms",
        "longest_stall_ms",
    }
    assert all(keys <= set(one) for one in data["strategies"].values())


def test_profiles_are_listed_shown_and_checked(tmp_path):
    assert "raspberry-pi-5" in geoshift("profiles", "list").stdout
    shown = json.loads(geoshift("profiles", "show", "generic-x86", "--json").stdout)
    assert shown["name"] == "generic-x86"
    bad = tmp_path / "bad.yaml"
    bad.write_text("schema: geoshift.profile/1\nname: x\nthreads: -1\n")
    said = failed(geoshift("profiles", "check", bad))
    assert "bad.yaml" in said
    assert "threads" in said


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["inspect", "nowhere"], 1, "found no directory"),
        (["verify", "nowhere"], 1, "geoshift plan"),
        (["profiles", "show", "raspbery-pi-5"], 1, "raspberry-pi-5"),
        (["plan", "--weights", "none.safetensors"], 1, "none.safetensors"),
        (["plan"], 2, "--weights"),
        (["plan", "--weights", "C9=none.safetensors"], 2, "unknown mode 'C9'"),
        (["plan", "--weights", "C2=none.safetensors"], 2, "'C2', which is no other network"),
        (["plan", "--model-def", "nowhere:model", "--out", "x"], 1, "nowhere"),
        (["train", "--data", "nowhere:data"], 1, "nowhere"),
        (["train", "--epochs", "0"], 2, "epochs"),
        (["simulate", "nowhere", "--strategies", "teleport"], 2, "teleport"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_failures_end_with_a_sentence_and_a_status(arguments, status, said, tmp_path):
    assert said in " ".join(failed(geoshift(*arguments, cwd=tmp_path), status).split())
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_bundle_is_refused_by_every_command(bundle, tmp_path):
    copy = tmp_path / "plan"
    subprocess.run(["cp", "-r", bundle, copy], check=True)
    with (copy / "base.safetensors").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\x7f")
    for command in ("inspect", "verify", "simulate"):
        assert "base.safetensors" in failed(geoshift(command, copy))


def interrupt(arguments, cwd, until):
    """Start a command, send it Ctrl-C once ``until`` shows on its standard error, and wait."""
    # A child inherits that Ctrl-C is ignored, as it is for whatever a shell starts in the background.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "geoshift", *arguments], cwd=cwd, env={**ENVIRONMENT, "TTY_COMPATIBLE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    seen = ""
    while until not in seen:
        character = process.stderr.read(1)
        assert character, f"ended before {until!r} was seen: {seen}"
        seen += character
    process.send_signal(signal.SIGINT)
    rest = process.communicate()[1]
    return subprocess.CompletedProcess(arguments, process.returncode, "", seen + rest)


def test_an_interrupted_training_says_how_to_go_on_and_goes_on(tmp_path):
    arguments = ["train", "--epochs", "400", "--out", "model.safetensors"]
    done = interrupt(arguments, tmp_path, "selection")
    said = failed(done, done.returncode)
    assert done.returncode in (1, 130)
    assert "--resume" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors.partial"]


def test_an_interrupted_plan_leaves_no_bundle(tmp_path):
    train = geoshift("train", "--epochs", "1", "--out", "model.safetensors", cwd=tmp_path)
    assert train.returncode == 0, train.stderr
    done = interrupt(["plan", "--weights", "model.safetensors"], tmp_path, "Paths, round 1")
    said = failed(done, 130)
    assert "run the same command again" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
