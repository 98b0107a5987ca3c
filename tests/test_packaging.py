"""What is installed on a board: the unit is hardened, starts what exists, and the settings are taken as they are."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import typer

from runtime.cli.commands import add_commands
from runtime.service import config

FOLDER = Path(__file__).resolve().parent.parent / "packaging"
UNIT = FOLDER / "geoshift.service"
EXPOSURE = 20
"""Tenths of 10; systemd calls anything below 2.0 fit to be recommended. The unit is at 1.4."""


def directives():
    """Name to values, in order."""
    found = {}
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    said = directives()
    assert said["Type"] == ["notify"]
    assert said["ProtectSystem"] == ["strict"]
    assert said["CapabilityBoundingSet"] == said["AmbientCapabilities"] == [""]
    assert int(said["LimitNOFILE"][0]) >= 8 * config.Limits().connections
    assert "AF_NETLINK" in said["RestrictAddressFamilies"][0].split(), "or no change of an address is heard of"
    program = shutil.which("systemd-analyze")
    if program is None:
        return  # the directives above are what can be known without systemd
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=.*", "ExecStart=/bin/true", UNIT.read_text()))
    done = subprocess.run([program, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    subprocess.run(
        [program, "security", "--offline=true", f"--threshold={EXPOSURE}", unit], check=True, capture_output=True
    )


def test_the_unit_starts_a_command_that_exists():
    (line,) = directives()["ExecStart"]
    program, command, *rest = shlex.split(line)
    assert Path(program).name == "geoshift"
    app = typer.Typer()
    add_commands(app)
    typer.main.get_command(app).commands[command].make_context(program, list(rest))
    assert Path(rest[rest.index("--config") + 1]).name == (FOLDER / "geoshift.toml").name


def test_the_settings_are_taken():
    settings = config.load(FOLDER / "geoshift.toml")
    assert (settings.host, settings.auth, settings.announce.enabled) == ("::", True, True)


def test_the_user_of_the_unit_is_made():
    (user,) = directives()["User"]
    assert f"u {user} - " in (FOLDER / "geoshift.sysusers.conf").read_text()
