"""The Python client against a real device: over TLS, on loopback, over a Unix socket."""

import numpy as np
import pytest

from runtime import errors
from runtime.client import Client, pair, whole
from runtime.desktop.channel import RequestRefused
from runtime.desktop.examination import examine
from runtime.desktop.known_devices import KnownDevices, UnknownDevice
from runtime.desktop.pinning import Unreachable, WrongCertificate
from runtime.private_files import PrivateFileError
from runtime.service.certificate import ensure
from runtime.service.tokens import Scope
from runtime.walking.session import InputError
from tests.service.running import STILL, running


@pytest.fixture(scope="module", params=["tls", "loopback", "unix"])
def device(plan, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("state")
    config = {"tls": {"tls": True}, "loopback": {}, "unix": {"unix_socket": str(folder / "socket")}}[request.param]
    with running(plan, folder / "service", config=config) as one:
        yield one


def client(device, scope=Scope.ADMIN):
    pinned = device.service.certificate.sha256 if device.url.startswith("https") else ""
    return Client(device.url, device.token(scope), pinned)


def code(device, scope=Scope.SWITCH):
    return device.service.pairing.open(device.service.certificate.sha256, scope)


def test_a_desktop_pairs_and_comes_back_by_name(device, tmp_path):
    known = KnownDevices(tmp_path / "conf" / "geoshift" / "devices.json")
    known.keep(pair(device.url, code(device).lower(), "my desk", "lab"))
    with Client.of("lab", known) as one:
        assert one.status().device == device.service.device.id
        assert one.identity().scope == "switch"
        assert one.identity().principal == "my desk"
    assert known.find("lab").device == device.service.device.id
    assert bool(known.find("lab").certificate_sha256) == device.url.startswith("https")


def test_a_wrong_code_pairs_nobody(device):
    code(device)
    before = device.service.tokens.listed()
    with pytest.raises(RequestRefused, match="wrong code"):
        pair(device.url, "AAAA-AAAA-AAAA", "x", "lab")
    assert device.service.tokens.listed() == before


def test_modes_are_switched_and_followed(device):
    with client(device) as one:
        begun = one.switch("C2")
        assert one.operation(begun.id, wait_s=30).outcome == "committed"
        assert one.status().mode == "C2"
        assert begun.id in [each.id for each in one.operations()]
        events = list(zip(range(2), one.events(after=0), strict=False))
        assert [event.id for _, event in events] == [1, 2]
        back = one.switch("auto")
        if back is not None:
            one.operation(back.id, wait_s=30)
        assert one.switch("auto") is None
        assert [mode.name for mode in one.modes()] == ["C1", "C2", "C3"]
        assert [(move.from_, move.to) for move in one.transitions()] == [("C1", "C2"), ("C2", "C3"), ("C3", "C1")]
        assert one.profile()["name"] == device.service.device.profile.name
        assert one.ready()


def test_a_key_makes_a_repetition_harmless(device):
    with client(device) as one:
        first = one.switch("C2", key="k")
        assert one.switch("C2", key="k").id == first.id
        one.operation(first.id, wait_s=30)
        one.operation(one.switch("C1").id, wait_s=30)


def test_answers_are_the_network_s_own_bits(device):
    x = device.service.device.bundle.evaluation.inputs[:5]
    with client(device, Scope.READ) as one:
        assert one.infer(x).tobytes() == device.service.device.infer(x).tobytes()
        assert one.input_shape() == (1, 4, 4)
        with pytest.raises(RequestRefused, match="shape"):
            one.infer(np.zeros((1, 2), np.float32))


def test_holds_and_tokens(device):
    with client(device) as one:
        hold = one.hold("C1", "a test", 60)
        assert [each.id for each in one.holds()] == [hold.id]
        one.release(hold.id)
        with pytest.raises(errors.UnknownHold):
            one.release(hold.id)
        token = one.add_token("a phone", "read")
        (entry,) = [each for each in one.tokens() if each.name == "a phone"]
        assert one.rotate_token(entry.id) != token
        one.revoke_token(entry.id)
        assert entry.id not in [each.id for each in one.tokens()]
        assert any(line.event == "token revoked" for line in one.logs())


def test_errors_are_the_device_s_own(device):
    with client(device) as one:
        for act, kind in (
            (lambda: one.switch("C9"), errors.UnknownMode),
            (lambda: one.operation("../tokens"), (errors.UnknownOperation, RequestRefused)),
            (lambda: one.cancel("nope"), errors.UnknownOperation),
            (lambda: one.add_token("x", "root"), RequestRefused),
        ):
            with pytest.raises(kind):
                act()
    with (
        client(device, Scope.READ) as one,
        pytest.raises(RequestRefused, match="scope read, expected switch") as refused,
    ):
        one.switch("C2")
    assert refused.value.status == 403
    assert issubclass(InputError, Exception)


def test_a_device_is_looked_over(device):
    findings = {one.name: one for one in examine(lambda: client(device, Scope.READ))}
    assert all(one.ok for one in findings.values()), findings
    assert {"reachable", "trusted", "version", "ready", "network", "power", "inference"} <= set(findings)


def test_a_walk_is_paused_turned_and_cancelled(plan, tmp_path):
    with running(plan, tmp_path / "service", pace=STILL) as device, client(device) as one:
        begun = one.switch("C2")
        for event in one.events(after=0):
            if event.kind == "operation" and event.data["phase"] == "walking" and event.data["progress"] > 0:
                break
        assert one.pause(begun.id).phase == "paused"
        with pytest.raises(errors.IllegalEvent):
            one.pause(begun.id)
        with pytest.raises(errors.Conflict):
            one.switch("C3")
        assert one.resume(begun.id).phase == "walking"
        turned = one.retarget(begun.id, "C3")
        assert turned.to == "C3"
        assert one.operation(begun.id, wait_s=30).outcome == "retargeted"


def test_a_token_goes_to_the_pinned_device_alone(plan, tmp_path):
    with running(plan, tmp_path / "service", config={"tls": True}) as device:
        with pytest.raises(WrongCertificate):
            Client(device.url, "secret", ensure(tmp_path / "other").sha256)
        with pytest.raises(WrongCertificate, match="no certificate is pinned"):
            Client(device.url, "secret")
        with pytest.raises(Unreachable, match="loopback"):
            Client("http://192.0.2.1:8470", "secret")
        with pytest.raises(Unreachable):
            Client("ftp://127.0.0.1", "secret")
        assert "/v1" not in device.log.getvalue()


def test_where_nobody_is_it_says_so(tmp_path):
    for url in ("http://127.0.0.1:1", f"unix:{tmp_path / 'none'}"):
        with pytest.raises(Unreachable, match=r"is the device on|geoshift serve"), Client(url) as one:
            one.status()
    (finding,) = examine(lambda: Client("https://127.0.0.1:1", None, "00" * 32))
    assert not finding.ok


def test_an_address_may_be_written_as_people_write_it():
    for written, address in (
        ("board.local", "https://board.local:8470"),
        ("https://board.local", "https://board.local:8470"),
        ("10.0.0.7:9000", "https://10.0.0.7:9000"),
        ("http://127.0.0.1:8470/", "http://127.0.0.1:8470"),
        ("https://[fe80::1]", "https://[fe80::1]:8470"),
        ("unix:/run/geoshift.sock", "unix:/run/geoshift.sock"),
    ):
        assert whole(written) == address
    with pytest.raises(Unreachable, match="expected https"):
        whole("https://board:port")


def test_the_file_of_devices_is_its_owner_s_and_forgets(tmp_path):
    path = tmp_path / "geoshift" / "devices.json"
    known = KnownDevices(path)
    assert known.all() == ()
    with pytest.raises(UnknownDevice, match="none yet"):
        known.find("lab")
    from runtime.desktop.known_devices import KnownDevice

    for name in ("lab", "attic"):
        known.keep(KnownDevice(name=name, url=f"http://{name}", device=name * 2, certificate_sha256="", token="t"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in known.all()] == ["attic", "lab"]
    assert known.find("lablab").name == known.find("http://lab").name == "lab"
    known.forget("lab")
    with pytest.raises(UnknownDevice, match="attic"):
        known.find("lab")
    path.write_bytes(b"{")
    with pytest.raises(PrivateFileError, match="log in to every device again"):
        known.all()
