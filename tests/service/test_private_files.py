"""Files of secrets: whole or untouched whatever happens, and never with the rights of other files."""

import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import private_files
from runtime.pairing_proof import proof, stretch
from runtime.service.pairing import Pairing, PairingRefused
from runtime.service.tokens import Scope, Tokens

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
from pathlib import Path
from runtime import private_files
path = Path(sys.argv[1])
print("begun", flush=True)
for number in range(1_000_000):
    with private_files.locked(path):
        private_files.write(path, bytes([65 + number % 2]) * 50_000)
"""
FULL = """
import resource, signal, sys
from pathlib import Path
from runtime import private_files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    private_files.write(Path(sys.argv[1]), b"x" * 2000)
except OSError as error:
    print(error.strerror)
"""


def others(path):
    return [one for one in os.listdir(path.parent) if one not in {path.name, f".{path.name}.lock"}]


def test_a_writer_that_is_killed_leaves_the_old_or_the_new_file_and_the_next_one_cleans_up(tmp_path):
    path = tmp_path / "secret"
    rng = random.Random(5)
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            # At any instant of a few hundred writes.
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(rng.uniform(0.001, 0.1))
            writer.send_signal(signal.SIGKILL)
        content = private_files.read(path, 1 << 20)
        assert content is None or (len(content) == 50_000 and len(set(content)) == 1)
    with private_files.locked(path):
        pass
    assert others(path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "secret"
    private_files.write(path, b"old")
    done = subprocess.run([sys.executable, "-c", FULL, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "File too large"
    assert path.read_bytes() == b"old"
    assert others(path) == []


def test_whatever_the_umask_is_nobody_else_may_read_it(tmp_path):
    before = os.umask(0)
    try:
        private_files.write(private_files.folder(tmp_path / "f") / "secret", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "f" / "secret").stat().st_mode) == 0o600


def test_folders_that_were_not_there_are_nobody_else_s_either(tmp_path):
    private_files.folder(tmp_path / "state" / "deeper" / "service")
    for made in ("state", "state/deeper", "state/deeper/service"):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == 0o700
    private_files.folder(tmp_path / "state")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="exists"):
        private_files.folder(tmp_path / "file")


def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path, monkeypatch):
    """Where the test is not root itself, what root would do is written down."""
    owner = (os.getuid(), os.getgid())
    given = []
    if os.geteuid() == 0:
        owner = (65534, 65534)
        os.chown(tmp_path, *owner)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(os, "fchown", lambda _, uid, gid: given.append((uid, gid)))
        monkeypatch.setattr(os, "chown", lambda _, uid, gid, **__: given.append((uid, gid)))
    place = private_files.folder(tmp_path / "state" / "service") / "secret"
    with private_files.locked(place):
        private_files.write(place, b"x")
    assert given in ([], [owner] * 4)
    made = (tmp_path / "state", place.parent, place, place.with_name(".secret.lock"))
    assert {(one.stat().st_uid, one.stat().st_gid) for one in made} == {owner}


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x")
    (tmp_path / ".secret.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), private_files.locked(tmp_path / "secret"):
        pass


def test_what_is_no_plain_private_file_is_refused(tmp_path):
    path = tmp_path / "secret"
    assert private_files.read(path, 10) is None
    path.mkdir()
    with pytest.raises(private_files.PrivateFileError, match="plain file"):
        private_files.read(path, 10)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(private_files.PrivateFileError, match="plain file"):
        private_files.read(path, 10)
    path.unlink()
    private_files.write(path, b"x" * 11)
    with pytest.raises(private_files.PrivateFileError, match="more than 10"):
        private_files.read(path, 10)
    path.chmod(0o620)
    with pytest.raises(private_files.PrivateFileError, match="0620"):
        private_files.read(path, 100)


def test_pairing_that_fails_half_way_lets_nobody_in_twice(tmp_path):
    """The code is spent before the token is made: what comes in between costs a new code and no more."""
    pairing = Pairing(tmp_path / "pairing.json")
    certificate, nonce = "aa" * 32, b"n" * 32
    code = pairing.open(certificate, Scope.READ)
    answer = proof(stretch(code, certificate), "client", nonce)
    damaged = tmp_path / "tokens.json"
    private_files.write(damaged, b"{")
    with pytest.raises(private_files.PrivateFileError):
        pairing.admit(nonce, answer, "x", Tokens(damaged))
    with pytest.raises(PairingRefused, match="no open code"):
        pairing.admit(nonce, answer, "x", Tokens(tmp_path / "others.json"))
