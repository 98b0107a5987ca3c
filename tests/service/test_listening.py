"""Where a service listens: never in the clear where strangers are, never at a place that is not its own."""

import contextlib
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from runtime.desktop.pinning import Unreachable, WrongCertificate, context, digest, seen
from runtime.service.certificate import ensure
from runtime.service.config import Config, ConfigError, load, override
from runtime.service.listening import bind, is_loopback
from runtime.service.notify import notify, watchdog_period_s
from runtime.service.tokens import Scope
from tests.runtime.threads import PATIENCE_S, until
from tests.service.running import running

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def secure(plan, tmp_path_factory):
    with running(plan, tmp_path_factory.mktemp("state") / "service", config={"tls": True}) as one:
        yield one


def test_over_tls_the_pinned_certificate_is_enough(secure):
    assert secure.url.startswith("https://127.0.0.1:")
    with secure.http() as http:
        assert http.get("/v1/status").status_code == 200
        begun = http.post("/v1/session")
        assert "Secure" in begun.headers["Set-Cookie"]


def test_another_certificate_is_noticed_before_anything_is_sent(secure, tmp_path):
    other = ensure(tmp_path)
    port = int(secure.url.rpartition(":")[2])
    before = secure.log.getvalue()
    with pytest.raises(WrongCertificate, match="somebody sits in between"):
        context("127.0.0.1", port, other.sha256)
    # And a certificate that was right when looked at, and is another one when it counts, does not pass either.
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(cadata=other.certificate.read_text())
    with httpx.Client(verify=trusting, trust_env=False) as http, pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
        http.get(secure.url)
    assert secure.log.getvalue() == before


def test_the_digest_is_the_one_that_the_device_shows(secure):
    port = int(secure.url.rpartition(":")[2])
    assert digest(seen("127.0.0.1", port)) == secure.service.certificate.sha256


def test_old_tls_and_plain_http_get_nothing(secure):
    port = int(secure.url.rpartition(":")[2])
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises((ssl.SSLError, ConnectionResetError)):
        old.wrap_socket(plain)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)


def test_clients_that_never_finish_their_handshake_are_few_and_keep_nobody_out(plan, tmp_path):
    limits = {"handshakes": 4, "header_s": 3600}
    with (
        running(plan, tmp_path / "service", config={"tls": True, "limits": limits}) as device,
        device.http() as http,
        contextlib.ExitStack() as stack,
    ):
        assert http.get("/v1/status").status_code == 200
        address = ("127.0.0.1", int(device.url.rpartition(":")[2]))
        silent = [stack.enter_context(socket.create_connection(address, PATIENCE_S)) for _ in range(20)]
        # The oldest make way, and who is through keeps the connection.
        assert [one.recv(1) for one in silent[:16]] == [b""] * 16
        assert http.get("/v1/status").status_code == 200
        with device.http() as another:
            assert another.get("/v1/status").status_code == 200
        until(lambda: len(device.server.handshakes) <= 4)


def test_where_nobody_listens_it_says_so():
    with socket.socket() as taken:  # bound, so that nobody else gets the port, and deaf
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="geoshift serve"):
            seen(*taken.getsockname())


def test_a_unix_socket_serves_its_group_and_is_gone_afterwards(plan, tmp_path):
    path = tmp_path / "geoshift.sock"
    with running(plan, tmp_path / "service", config={"unix_socket": str(path)}) as device:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert device.url == f"unix:{path}"
        with device.http(None) as http:
            assert http.get("/v1/status").status_code == 401
        with device.http(Scope.READ) as http:
            assert http.get("/v1/status").status_code == 200
    assert os.listdir(tmp_path) == ["service"]


def test_a_unix_socket_has_its_rights_before_its_name(tmp_path):
    """Whatever the umask is, at no moment is there a socket of this name with other rights."""
    path = tmp_path / "geoshift.sock"
    stop, seen_modes = threading.Event(), set()

    def look():
        while not stop.is_set():
            try:
                seen_modes.add(stat.S_IMODE(path.stat().st_mode))
            except FileNotFoundError:
                continue

    watcher = threading.Thread(target=look)
    watcher.start()
    before = os.umask(0)
    try:
        for _ in range(50):
            bind(override(Config(), unix_socket=str(path))).close()
        place = bind(override(Config(), unix_socket=str(path)))
        until(lambda: seen_modes)
    finally:
        os.umask(before)
        stop.set()
        watcher.join()
        place.close()
    assert seen_modes == {0o660}


def test_a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(tmp_path):
    path = tmp_path / "geoshift.sock"
    settings = override(Config(), unix_socket=str(path))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    place = bind(settings)
    with pytest.raises(ConfigError, match="listens there"):
        bind(settings)
    assert path.is_socket()
    place.close()
    path.write_text("a diary")
    with pytest.raises(ConfigError, match="something else"):
        bind(settings)
    assert path.read_text() == "a diary"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "0.0.0.0", "tls": False}, "only loopback"),
        ({"host": "192.0.2.1", "tls": False}, "only loopback"),
        ({"host": "::", "tls": False}, "only loopback"),
        ({"host": "0.0.0.0", "auth": False}, "only loopback"),
        ({"unix_socket": "/tmp/never/x", "tls": True}, "rights"),
        ({"unix_socket": "/nonexistent/folder/x"}, "cannot listen"),
        ({"host": "192.0.2.1", "port": 0}, "cannot use"),
        ({"host": "no.such.name.invalid", "port": 0}, "cannot use"),
    ],
)
def test_nothing_is_bound_where_strangers_could_listen_in(changes, said):
    with pytest.raises(ConfigError, match=said):
        bind(override(Config(), **changes))


def test_elsewhere_than_on_loopback_tls_is_on_by_itself():
    place = bind(override(Config(), host="0.0.0.0", port=0))
    assert place.tls
    assert place.url.startswith("https://0.0.0.0:")
    place.close()
    place = bind(override(Config(), host="::1", port=0))
    assert not place.tls
    assert place.url.startswith("http://[::1]:")
    place.close()


def test_a_taken_port_is_named():
    place = bind(override(Config(), port=0))
    port = place.socket.getsockname()[1]
    with pytest.raises(ConfigError, match=f"port {port}"):
        bind(override(Config(), port=port))
    place.close()


def test_answers_leave_at_once():
    """Without it, head and body of a small answer are 40 ms apart: Nagle's algorithm waits for a delayed receipt."""
    place = bind(override(Config(), port=0))
    with socket.create_connection(place.socket.getsockname()), place.socket.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    place.close()


def test_loopback_is_loopback():
    for name in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(name)
    for name in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "example.com", ""):
        assert not is_loopback(name)


def test_settings_come_from_a_file_and_mistakes_are_named(tmp_path):
    path = tmp_path / "geoshift.toml"
    path.write_text('host = "::1"\nport = 9000\nnames = ["board.example"]\n[limits]\nstreams = 4\n')
    found = load(path)
    assert (found.host, found.port, found.names, found.limits.streams) == ("::1", 9000, ("board.example",), 4)
    assert override(found, port=1).limits.streams == 4
    for text, said in (
        ("prot = 1", "prot"),
        ("port = 70000", "port"),
        ("port = [", "invalid|Invalid"),
        ("[limits]\nstreams = 0", "streams"),
        ("auth = 'no'", "auth"),
        ("#" * 70000, "more than"),
        ("model_name = '../x'", "model_name"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError):
        load(path)


def test_systemd_is_told_where_it_asked_to_be(tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        assert notify("READY=1", {"NOTIFY_SOCKET": str(path)})
        assert listener.recv(100) == b"READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0geoshift-test-{os.getpid()}")
        assert notify("WATCHDOG=1", {"NOTIFY_SOCKET": f"@geoshift-test-{os.getpid()}"})
        assert listener.recv(100) == b"WATCHDOG=1"
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": "relative"})
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_a_systemd_that_does_not_read_is_not_waited_for(tmp_path):
    path = tmp_path / "notify"
    asked = {"NOTIFY_SOCKET": str(path)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        sent = 0
        while notify("WATCHDOG=1", asked):
            sent += 1
        assert sent
        assert listener.recv(100) == b"WATCHDOG=1"
        assert notify("READY=1", asked)
    assert not notify("READY=1", asked)
    assert not notify("READY=1", {"NOTIFY_SOCKET": "/" + "x" * 500})


def test_the_watchdog_is_heard_twice_a_period():
    assert watchdog_period_s({"WATCHDOG_USEC": "10000000"}) == 5.0
    assert watchdog_period_s({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}) == 5.0
    for nothing in ({}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}):
        assert watchdog_period_s(nothing) is None


CROWD = """
import resource, sys
from pathlib import Path
from tests.service.running import running
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
with running(Path(sys.argv[1]), Path(sys.argv[2]), config={"tls": True}) as device:
    print(device.url.rpartition(":")[2], flush=True)
    sys.stdin.readline()
    with device.http() as http:
        print(http.get("/readyz").status_code, flush=True)
"""


def test_more_silent_connections_than_descriptors_keep_nobody_out(plan, tmp_path):
    """In a process of its own, that may have few."""
    code = [sys.executable, "-c", CROWD, plan, tmp_path / "service"]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(code, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child,
        contextlib.ExitStack() as stack,
    ):
        port = int(child.stdout.readline())
        for _ in range(600):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
        said, faults = child.communicate("go\n", PATIENCE_S)
    assert (said, faults) == ("200\n", "")
