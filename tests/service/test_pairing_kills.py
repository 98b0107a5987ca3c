"""A service that is killed while it pairs lets nobody in twice, and leaves no secret lying about."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import private_files
from runtime.pairing_proof import stretch
from runtime.service.tokens import Scope, Tokens
from tests.runtime.disks import Killed
from tests.service.dying import MINE, Dying, act, pairing

KINDS = ["open", "admit", "last"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with an open code and another client's token, and the code's key."""
    folder = tmp_path_factory.mktemp("begun")
    Tokens(folder / "tokens.json").add("before", Scope.READ)
    key = stretch(pairing(folder).open(MINE, Scope.ADMIN), MINE)
    return folder, key


def fresh(begun, place):
    folder, key = begun
    shutil.copytree(folder, place)
    return place, key


def calls(begun, kind, place):
    folder, key = fresh(begun, place)
    with Dying().watching() as whole:
        act(kind, folder, key)
    return whole.names


def check(kind, folder, key):
    """The state after a kill is one that is allowed, and everything goes on from there."""
    waits = private_files.read(folder / "pairing.json", 4096) is not None
    names = [entry.name for entry in Tokens(folder / "tokens.json").listed()]
    assert names in (["before"], ["before", "desk"])
    # Never a client that is let in and a code that lets in another one; an open code is lost by nothing else.
    assert names == ["before"] or (kind == "admit" and not waits)
    assert waits or kind in ("admit", "last")
    one = pairing(folder)
    assert one.waits() is waits
    # Whoever comes next removes what the killed one left, which may hold a secret.
    code = one.open(MINE, Scope.SWITCH)
    act("admit", folder, stretch(code, MINE))
    found = Tokens(folder / "tokens.json").listed()
    assert [entry.name for entry in found] == [*names, "desk"]
    assert {path.name for path in folder.iterdir()} == {"tokens.json", ".tokens.json.lock", ".pairing.json.lock"}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_a_call_it_is_as_before_or_as_after(begun, tmp_path, kind):
    names = calls(begun, kind, tmp_path / "whole")
    assert {"open", "fsync"} <= set(names)
    assert ("write" in names) is (kind != "last")
    for number, name in enumerate(names, 1):
        for half in (False, True) if name == "write" else (False,):
            folder, key = fresh(begun, tmp_path / f"{number}{half}")
            with pytest.raises(Killed), Dying(number, half).watching():
                act(kind, folder, key)
            check(kind, folder, key)


def test_a_wrong_proof_writes_nothing(begun, tmp_path):
    """Strangers would wear the flash."""
    assert not {"write", "replace", "unlink"} & set(calls(begun, "wrong", tmp_path / "whole"))


def test_a_code_is_gone_for_good_before_the_token_that_it_was_for_is_made(begun, tmp_path):
    """What is removed and not flushed may come back with the power."""
    names = calls(begun, "admit", tmp_path / "whole")
    removed = names.index("unlink")
    assert names[removed + 1 : removed + 3] == ["open", "fsync"]  # of the folder
    assert "write" not in names[:removed]
    assert names[names.index("write") :].index("fsync") < names[names.index("write") :].index("replace")


def test_a_process_that_is_really_killed_is_as_before_or_as_after(begun, tmp_path):
    root = Path(__file__).parents[2]
    names = calls(begun, "admit", tmp_path / "whole")
    for name in ("unlink", "write", "replace"):
        folder, key = fresh(begun, tmp_path / name)
        command = [sys.executable, "-m", "tests.service.dying", "admit", str(folder), str(names.index(name) + 1)]
        done = subprocess.run(
            command, cwd=root, input=key.hex(), text=True, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        check("admit", folder, key)
