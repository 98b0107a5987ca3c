"""Nobody does anything without the right token, and whatever is refused leaves no trace of secrets."""

import secrets

import httpx
import pytest

from runtime.pairing_proof import proof, stretch
from runtime.service.auth import PUBLIC, SCOPE
from runtime.service.sessions import cookie_name
from runtime.service.tokens import Scope
from tests.service.running import STILL, running

PATIENT = {"failures_per_minute": 3600.0, "requests_per_second": 3600.0, "requests_burst": 10000}
"""Limits that these tests do not run into; those that are about them have their own."""


@pytest.fixture(scope="module")
def device(plan, tmp_path_factory):
    with running(plan, tmp_path_factory.mktemp("state") / "service", config={"limits": PATIENT}) as one:
        yield one


def routes(running):
    """Every route with its method and the scope that it asks for."""
    app = running.server.config.app._app
    for route in app.routes:
        for handler in route.route_handlers:
            for method in sorted(handler.http_methods):
                yield method, route.path_format, handler.opt.get(SCOPE)


def target(path):
    for name in ("operation_id", "hold_id", "token_id", "model", "model_version", "path"):
        path = path.replace(f"{{{name}}}", "synthetic" if name == "model" else "1")
    return path


def test_every_route_says_what_it_needs_and_only_these_are_open(device):
    found = list(routes(device))
    assert len(found) > 40
    assert {path for method, path, scope in found if scope == PUBLIC} == {
        "/", "/page.css", "/page.js", "/healthz", "/readyz", "/v1/pairing", "/v2/health/live", "/v2/health/ready",
    }  # fmt: skip
    assert all(scope == PUBLIC or isinstance(scope, Scope) or method == "OPTIONS" for method, _, scope in found)


def test_no_route_lets_anybody_in_without_a_token_or_with_a_wrong_one(device):
    wrong = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer gs_000000000000_x"},
        {"Authorization": f"Basic {device.token()}"},
        {"Authorization": "Bearer " + "x" * 5000},
        {"Authorization": f"Bearer {device.token()}x"},
        {"Cookie": f"{cookie_name(device.url)}=x"},
        {"Cookie": f"{cookie_name(device.url)}={device.token()}"},
    ]
    with device.http(None) as http:
        for method, path, scope in routes(device):
            if scope == PUBLIC:
                continue
            for headers in wrong:
                answer = http.request(method, target(path), headers=headers)
                assert answer.status_code == 401, (method, path, headers, answer.text)
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_each_scope_opens_its_routes_and_no_higher_ones(device):
    for held in Scope:
        with device.http(held) as http:
            for method, path, scope in routes(device):
                if scope == PUBLIC or path == "/v1/events":
                    continue
                answer = http.request(method, target(path))
                if not isinstance(scope, Scope) or scope > held:
                    assert answer.status_code == 403, (held, method, path, answer.text)
                    assert answer.json()["type"] == "urn:geoshift:problem:scope"
                else:
                    assert answer.status_code not in {401, 500}, (held, method, path, answer.text)
                    assert answer.status_code != 403 or "rotate" in path


def test_a_refused_request_changes_nothing(device):
    network = device.service.device
    before = (network.status().mode, network.operations(), network.holds(), device.service.tokens.listed())
    with device.http(None) as http:
        for headers in ({}, {"Authorization": "Bearer nonsense"}):
            http.post("/v1/switch", json={"mode": "C2"}, headers=headers)
            http.post("/v1/holds", json={"mode": "C2", "reason": ""}, headers=headers)
            http.post("/v1/tokens", json={"name": "me", "scope": "admin"}, headers=headers)
    assert (network.status().mode, network.operations(), network.holds(), device.service.tokens.listed()) == before


def test_tokens_are_managed_over_the_wire(device):
    with device.http(Scope.ADMIN) as admin:
        token = admin.post("/v1/tokens", json={"name": "a phone", "scope": "switch"}).json()["token"]
        (entry,) = [one for one in admin.get("/v1/tokens").json() if one["name"] == "a phone"]
        assert entry["scope"] == "switch"
        assert token not in admin.get("/v1/tokens").text
        with device.http(None, headers={"Authorization": f"Bearer {token}"}) as phone:
            assert phone.get("/v1/status").status_code == 200
            assert phone.post(f"/v1/tokens/{'0' * 12}/rotate").status_code == 403
            new = phone.post(f"/v1/tokens/{entry['id']}/rotate").json()["token"]
            assert phone.get("/v1/status").status_code == 401
            phone.headers["Authorization"] = f"Bearer {new}"
            assert phone.get("/v1/status").status_code == 200
            assert admin.delete(f"/v1/tokens/{entry['id']}").status_code == 204
            assert phone.get("/v1/status").status_code == 401
        assert admin.delete(f"/v1/tokens/{entry['id']}").status_code == 404
        for body in (
            {"name": "x", "scope": "root"},
            {"name": "", "scope": "read"},
            {"name": "x" * 65, "scope": "read"},
        ):
            assert admin.post("/v1/tokens", json=body).status_code == 400


def paired(running, code, *, wrong=False, name="a desk"):
    with running.http(None) as http:
        certificate = http.get("/v1/pairing").json()["certificate_sha256"]
        nonce = secrets.token_bytes(32)
        answer = proof(stretch("0000-0000-0000" if wrong else code, certificate), "client", nonce)
        return http.post("/v1/pairing", json={"nonce": nonce.hex(), "proof": answer.hex(), "name": name})


def test_pairing_gives_a_token_of_the_scope_that_the_board_allowed(device):
    code = device.service.pairing.open(device.service.certificate.sha256, Scope.SWITCH)
    answer = paired(device, code)
    assert answer.status_code == 201
    assert device.service.tokens.verify(answer.json()["token"]).scope is Scope.SWITCH
    assert answer.json()["device"] == device.service.device.id
    assert paired(device, code).status_code == 403


def test_guessing_codes_is_slowed_down_and_stops_nobody_at_another_address(plan, tmp_path):
    with running(plan, tmp_path / "service", config={"limits": PATIENT}) as device:
        code = device.service.pairing.open(device.service.certificate.sha256, Scope.SWITCH)
        guess = {"nonce": "00" * 32, "proof": "00" * 32, "name": "x"}
        with device.http(None, transport=httpx.HTTPTransport(local_address="127.0.0.2")) as attacker:
            answers = [attacker.post("/v1/pairing", json=guess) for _ in range(50)]
        statuses = [one.status_code for one in answers]
        assert statuses[:5] == [403] * 5
        assert 429 in statuses
        assert all("Retry-After" in one.headers for one in answers if one.status_code == 429)
        assert paired(device, code).status_code == 201


def test_a_browser_s_session_needs_its_number_and_its_own_page(device):
    with device.http(None) as browser:
        token = device.token(Scope.SWITCH)
        begun = browser.post("/v1/session", headers={"Authorization": f"Bearer {token}"})
        assert begun.status_code == 201
        cookie = begun.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert "Secure" not in cookie  # plain HTTP, so loopback
        csrf = {"X-CSRF-Token": begun.json()["csrf"]}
        assert browser.get("/v1/status").status_code == 200
        hold = {"mode": "C1", "reason": "a click"}
        for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": csrf["X-CSRF-Token"] + "x"}):
            refused = browser.post("/v1/holds", json=hold, headers=headers)
            assert refused.status_code == 403
            assert refused.json()["type"] == "urn:geoshift:problem:csrf"
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", device.url.replace("http", "https")):
            refused = browser.post("/v1/holds", json=hold, headers={**csrf, "Origin": origin})
            assert refused.status_code == 403, origin
            assert refused.json()["type"] == "urn:geoshift:problem:origin"
        assert device.service.device.holds() == ()
        assert browser.post("/v1/holds", json=hold, headers={**csrf, "Origin": device.url}).status_code == 201
        device.service.device.release(device.service.device.holds()[0].id)
        assert browser.delete("/v1/session", headers=csrf).status_code == 204
        assert browser.get("/v1/status").status_code == 401


def test_a_session_ends_with_the_token_it_began_with(device):
    with device.http(None) as browser:
        token = device.token(Scope.READ)
        browser.post("/v1/session", headers={"Authorization": f"Bearer {token}"})
        assert browser.get("/v1/status").status_code == 200
        device.service.tokens.revoke(token.split("_")[1])
        assert browser.get("/v1/status").status_code == 401


def test_a_session_ends_when_its_token_gets_a_new_secret(device):
    with device.http(None) as browser:
        token = device.token(Scope.READ)
        browser.post("/v1/session", headers={"Authorization": f"Bearer {token}"})
        assert browser.get("/v1/session").json()["scope"] == "read"
        device.service.tokens.rotate(token.split("_")[1])
        assert browser.get("/v1/status").status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "[::1", "a@b"])
def test_a_name_that_is_not_the_device_s_is_refused_before_anything_else(device, host):
    with device.http() as http:
        answer = http.get("/v1/status", headers={"Host": host})
        assert answer.status_code in {400, 421}, answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8470", "192.168.1.7", "[::1]:8470", "geoshift.local"])
def test_its_own_names_and_addresses_are_not(device, host):
    with device.http() as http:
        assert http.get("/v1/status", headers={"Host": host}).status_code == 200


def test_names_can_be_added(plan, tmp_path):
    with running(plan, tmp_path / "service", config={"names": ("board.example",)}) as device, device.http() as http:
        assert http.get("/v1/status", headers={"Host": "board.example:8470"}).status_code == 200


def test_failures_are_slowed_down_and_do_not_lock_the_owner_out(plan, tmp_path):
    limits = {"limits": {"failures_per_minute": 3.0}}
    with running(plan, tmp_path / "service", config=limits) as device, device.http() as owner:
        with device.http(None, headers={"Authorization": "Bearer wrong"}) as stranger:
            statuses = [stranger.get("/v1/status").status_code for _ in range(6)]
            assert statuses == [401, 401, 401, 429, 429, 429]
            assert 1 <= int(stranger.get("/v1/status").headers["Retry-After"]) <= 20
        assert owner.get("/v1/status").status_code == 200


def test_one_token_cannot_ask_without_end(plan, tmp_path):
    limits = {"limits": {"requests_per_second": 0.01, "requests_burst": 3}}
    with running(plan, tmp_path / "service", config=limits) as device, device.http() as http:
        assert [http.get("/v1/status").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
        with device.http() as other:
            assert other.get("/v1/status").status_code == 200
        assert http.get("/metrics").status_code == 200
        # Strangers have a measure of their own.
        assert [http.get("/v1/pairing").status_code for _ in range(5)] == [200, 200, 200, 429, 429]


def test_without_auth_the_door_is_open_on_loopback(plan, tmp_path):
    with running(plan, tmp_path / "service", config={"auth": False}) as device, device.http(None) as http:
        assert http.post("/v1/switch", json={"mode": "C2", "wait_s": 30}).json()["outcome"] == "committed"
        # And still no page of another site gets in.
        evil = {"Origin": "http://evil.example"}
        assert http.post("/v1/switch", json={"mode": "C1"}, headers=evil).status_code == 403
        assert http.get("/v1/status", headers={"Host": "evil.example"}).status_code == 421


def test_the_sessions_of_two_services_on_one_host_leave_each_other_alone(device, plan, tmp_path):
    with running(plan, tmp_path / "service") as other, httpx.Client(trust_env=False) as browser:
        for one in (device, other):
            begun = browser.post(f"{one.url}/v1/session", headers={"Authorization": f"Bearer {one.token()}"})
            assert begun.status_code == 201
        for one in (device, other):
            assert browser.get(f"{one.url}/v1/status").status_code == 200
        assert browser.get(f"{device.url}/v1/session").json()["csrf"] != ""


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1:8470", "geoshift_session_8470"),
        ("[::1]:8470", "geoshift_session_8470"),
        ("[::1]", "geoshift_session"),
        ("device.local", "geoshift_session"),
        ("", "geoshift_session"),
        ("x:1;a=b", "geoshift_session"),
        ("x:" + "9" * 5000, "geoshift_session"),
        ("x:\u0663", "geoshift_session"),
    ],
)
def test_a_session_s_cookie_is_named_after_the_port(host, name):
    assert cookie_name(host) == name


def test_no_secret_is_in_the_log_whatever_happens(plan, tmp_path):
    with running(plan, tmp_path / "service", pace=STILL) as device:
        code = device.service.pairing.open(device.service.certificate.sha256, Scope.ADMIN)
        token = paired(device, code).json()["token"]
        with device.http(None, headers={"Authorization": f"Bearer {token}"}) as http:
            csrf = http.post("/v1/session").json()["csrf"]
            cookie = http.cookies[cookie_name(device.url)]
            http.get(f"/v1/status?token={token}")
            http.get(f"/{token}")
            http.get(f"/v1/operations/{token}")
            http.post("/v1/switch", content=token.encode())
            http.get("/v1/status", headers={"Host": "evil.example"})
            added = http.post("/v1/tokens", json={"name": "x", "scope": "read"}).json()["token"]
            kept = http.get("/v1/logs").text
        written = device.log.getvalue()
        inner = (one.split("_", 2)[2] for one in (token, added))  # which may hold that sign, too
        for secret in (token, *inner, code, code.replace("-", ""), csrf, cookie):
            assert secret not in written
            assert secret not in kept
        assert token.split("_")[1] in written
        assert "request" in written
