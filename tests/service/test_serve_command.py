"""The commands as people run them: serve, pair, log in, switch, look; processes of their own, real TLS."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.runtime.threads import PATIENCE_S

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def geoshift(home, *arguments, **options):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "geoshift", *map(str, arguments)],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env={**ENVIRONMENT, "XDG_CONFIG_HOME": str(home / "config"), "XDG_STATE_HOME": str(home / "state")}, **options,
    )  # fmt: skip


@contextlib.contextmanager
def serving(home, *arguments, environment=None):
    """A service in a process of its own, and what it said when it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "geoshift", "serve", *map(str, arguments)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        env={**ENVIRONMENT, "XDG_STATE_HOME": str(home / "state"), **(environment or {})},
    )  # fmt: skip
    try:
        for line in process.stderr:
            said = json.loads(line)
            if said["event"] == "serving":
                break
        else:
            pytest.fail(f"it ended: {process.wait()}")
        yield process, said
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def device(home, plan):
    with serving(home, plan, "--host", "0.0.0.0", "--port", "0", "--no-announce") as (process, said):
        port = said["url"].rpartition(":")[2]
        yield process, f"https://127.0.0.1:{port}", said


def typed(home, text, *arguments, asks=b"Code: ", says=None):
    """Run a command at a terminal and type when it asks; its status and all that was shown."""
    says = f"{text}\n".encode() if says is None else says
    pid, terminal = pty.fork()
    if pid == 0:  # the child, which becomes the command
        os.environ.update(ENVIRONMENT, XDG_CONFIG_HOME=str(home / "config"))
        os.execv(sys.executable, [sys.executable, "-m", "geoshift", *arguments])
    shown = b""
    while select.select([terminal], [], [], PATIENCE_S)[0]:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
        if asks in shown and says:  # with the space, after which nothing that was typed is thrown away
            os.write(terminal, says)
            says = b""
    os.close(terminal)  # a command that still waits gets a hang-up
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


@pytest.fixture(scope="module")
def paired(home, device):
    _, url, said = device
    shown = json.loads(geoshift(home, "pair", "--scope", "admin", "--json").stdout)
    assert shown["certificate_sha256"] == said["certificate_sha256"]
    status, text = typed(home, shown["code"], "login", url, "--name", "lab")
    assert status == 0, text
    assert shown["code"] not in text  # not echoed
    return shown["code"]


def test_pairing_over_the_terminal_pins_the_certificate(home, device, paired):
    _, url, said = device
    (entry,) = json.loads((home / "config" / "geoshift" / "devices.json").read_text())["devices"]
    assert (entry["name"], entry["url"], entry["certificate_sha256"]) == ("lab", url, said["certificate_sha256"])
    assert json.loads(geoshift(home, "devices", "--json").stdout) == [
        {"name": "lab", "url": url, "device": said["device"]}
    ]


def test_switch_waits_for_the_end_and_says_it(home, paired):
    done = geoshift(home, "switch", "lab", "C2", "--wait")
    assert done.returncode == 0, done.stderr
    assert "C1 → C2: committed" in done.stdout
    status = json.loads(geoshift(home, "status", "lab", "--json").stdout)
    assert status["status"]["mode"] == "C2"
    assert [mode["name"] for mode in status["modes"]] == ["C1", "C2", "C3"]
    shown = geoshift(home, "status", "lab").stdout
    assert "mode C2, idle" in shown
    assert "decided by manual" in shown
    every = geoshift(home, "switch", "--all", "C1", "--wait", "--json")
    assert json.loads(every.stdout)["lab"]["ok"]


def test_mistakes_end_with_a_sentence(home, paired):
    for arguments, said in (
        (("switch", "lab", "C9"), "expected one of C1, C2, C3"),
        (("status", "nowhere"), "geoshift login nowhere"),
        (("release", "lab", "nope"), "no such hold"),
        (("tokens", "revoke", "nope"), "tokens list"),
        (("tokens", "add", "x", "--scope", "root"), "read, switch, admin"),
    ):
        done = geoshift(home, *arguments)
        assert done.returncode == 1, arguments
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_holds_events_logs_and_the_doctor(home, paired):
    hold = geoshift(home, "hold", "lab", "C2", "--reason", "a test").stdout.strip()
    assert hold
    assert geoshift(home, "release", "lab", hold).returncode == 0
    done = geoshift(home, "watch", "lab", "--after", "0", "--count", "2", "--json")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, 2]
    assert any(
        json.loads(line)["event"] == "paired" for line in geoshift(home, "logs", "lab", "--json").stdout.splitlines()
    )
    doctor = geoshift(home, "doctor", "lab")
    assert doctor.returncode == 0, doctor.stdout
    assert "✓ inference" in doctor.stdout
    assert geoshift(home, "switch", "lab", "auto").returncode == 0


def test_tokens_of_the_device_are_managed_on_the_device(home, device, paired):
    _, url, _ = device
    token = geoshift(home, "tokens", "add", "prometheus").stdout.strip()
    listed = {one["name"]: one for one in json.loads(geoshift(home, "tokens", "list", "--json").stdout)}
    assert listed["prometheus"]["scope"] == "read"

    def status(value):
        return httpx.get(
            f"{url}/metrics", headers={"Authorization": f"Bearer {value}"}, verify=False, trust_env=False
        ).status_code

    assert status(token) == 200
    new = geoshift(home, "tokens", "rotate", listed["prometheus"]["id"]).stdout.strip()
    assert (status(token), status(new)) == (401, 200)
    assert geoshift(home, "tokens", "revoke", listed["prometheus"]["id"]).returncode == 0
    assert status(new) == 401


def test_a_token_s_name_is_printed_as_it_is(home, device, paired):
    for name in ("[/x]", r"\[/x]", "[red]x", ":bomb:"):
        assert geoshift(home, "tokens", "add", name).returncode == 0
    done = geoshift(home, "tokens", "list")
    assert done.returncode == 0, done.stderr
    names = {line.split()[1] for line in done.stdout.splitlines()}
    assert names >= {"[/x]", r"\[/x]", "[red]x", ":bomb:"}


def test_secrets_are_in_no_process_s_arguments_or_environment(home, device, paired):
    process, _, _ = device
    token = json.loads((home / "config" / "geoshift" / "devices.json").read_text())["devices"][0]["token"]
    for name in ("cmdline", "environ"):
        content = Path(f"/proc/{process.pid}/{name}").read_bytes().decode(errors="replace")
        assert token not in content
        assert paired not in content


def test_a_port_that_is_taken_is_known_at_once(home, plan, device):
    port = device[1].rpartition(":")[2]
    done = geoshift(home, "serve", plan, "--port", port, "--host", "127.0.0.1", timeout=PATIENCE_S)
    assert done.returncode == 1
    assert f"port {port}" in done.stderr


def test_no_door_is_opened_to_strangers(home, plan):
    done = geoshift(home, "serve", plan, "--host", "0.0.0.0", "--no-auth", timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "only loopback" in done.stderr


def test_only_what_a_pinned_key_signed_is_served(tmp_path, plan):
    bundle = tmp_path / "plan"
    shutil.copytree(plan, bundle)
    assert geoshift(tmp_path, "bundle", "keygen", "--output", tmp_path / "maker").returncode == 0
    pinned = ("--key", tmp_path / "maker.pub", "--unix", tmp_path / "sock", "--state", tmp_path / "board")
    done = geoshift(tmp_path, "serve", bundle, *pinned, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "found no signature" in done.stderr
    assert not (tmp_path / "sock").exists()
    assert geoshift(tmp_path, "bundle", "sign", bundle, "--key", tmp_path / "maker.key").returncode == 0
    with serving(tmp_path, bundle, *pinned) as (_, said):
        assert said["mode"] == "C1"


def test_a_device_comes_back_in_the_mode_it_was_in(tmp_path, plan):
    where = ("--unix", tmp_path / "sock", "--state", tmp_path / "board", "--no-auth")
    with serving(tmp_path, plan, *where) as (process, said):
        assert geoshift(tmp_path, "switch", said["url"], "C3", "--wait").returncode == 0
        process.kill()  # as a power cut does
        process.wait()
    with serving(tmp_path, plan, *where) as (_, again):
        assert (again["mode"], again["device"]) == ("C3", said["device"])
        shown = json.loads(geoshift(tmp_path, "status", again["url"], "--json").stdout)
        assert shown["status"]["counters"]["transitions"] >= 1


def test_systemd_hears_ready_alive_and_stopping_and_the_end_is_clean(tmp_path, plan):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(PATIENCE_S)
        told = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1000000", "STATE_DIRECTORY": str(tmp_path / "board")}
        with serving(tmp_path, plan, "--unix", tmp_path / "sock", environment=told) as (process, _):
            assert listener.recv(100) == b"READY=1"
            alive = b"READY=1\nWATCHDOG=1"
            assert listener.recv(100) == alive
            assert listener.recv(100) == alive
            process.send_signal(signal.SIGTERM)
            while (said := listener.recv(100)) == alive:
                pass
            assert said == b"STOPPING=1"
            assert process.wait(PATIENCE_S) == 0
    assert not (tmp_path / "sock").exists()
    assert (tmp_path / "board" / "service" / "certificate.pem").exists()


def test_settings_come_from_a_file(tmp_path, plan):
    settings = tmp_path / "geoshift.toml"
    settings.write_text(f'unix_socket = "{tmp_path / "sock"}"\nmodel_name = "digits"\nauth = false\n')
    with serving(tmp_path, plan, "--config", settings) as (_, said):
        assert said["url"] == f"unix:{tmp_path / 'sock'}"
        done = geoshift(tmp_path, "doctor", said["url"])
        assert done.returncode == 0, done.stdout
        assert "scope admin" in done.stdout
        assert re.search(r"✓ ready", done.stdout)
