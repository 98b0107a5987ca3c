"""The device's interface over a real connection: switches, operations, holds, idempotency, problem documents."""

import pytest

from runtime.device.operations import KEPT
from runtime.service.tokens import Scope
from tests.runtime.threads import PATIENCE_S, until
from tests.service.running import STILL, running


@pytest.fixture(scope="module")
def device(plan, tmp_path_factory):
    with running(plan, tmp_path_factory.mktemp("state") / "service") as one:
        yield one


@pytest.fixture
def walking(plan, tmp_path):
    """A device whose walks take a quarter of an hour for each increment."""
    with running(plan, tmp_path / "service", pace=STILL) as one:
        yield one


def problem(answer, status, kind=None):
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= set(document)
    assert document["status"] == status
    assert document["type"] == ("about:blank" if kind is None else f"urn:geoshift:problem:{kind}")
    assert document["instance"].endswith(answer.headers["X-Request-ID"])
    return document["detail"]


def test_a_switch_is_accepted_walked_and_committed(device):
    with device.http() as http:
        begun = http.post("/v1/switch", json={"mode": "C2"})
        assert begun.status_code in {200, 202}
        place = begun.headers["Location"]
        over = http.get(place, params={"wait_s": 30}).json()
        assert (over["outcome"], over["to"], over["who"]) == ("committed", "C2", "tester")
        assert http.get("/v1/status").json()["mode"] == "C2"
        back = http.post("/v1/switch", json={"mode": "C1", "wait_s": 30})
        assert back.status_code == 200
        assert back.json()["outcome"] == "committed"
        assert over["id"] in [one["id"] for one in http.get("/v1/operations").json()]


def test_modes_transitions_and_profile_say_what_the_plan_says(device):
    manifest = device.service.device.bundle.manifest
    with device.http(Scope.READ) as http:
        modes = http.get("/v1/modes").json()
        assert [mode["name"] for mode in modes] == [mode.name for mode in manifest.modes]
        assert all(mode["provenance"]["accuracy"]["basis"] == "plan" for mode in modes)
        moves = http.get("/v1/transitions").json()
        assert [(move["from"], move["to"]) for move in moves] == [(one.from_, one.to) for one in manifest.transitions]
        assert all(move["waypoints"][-1]["written_bytes"] == move["bytes_written"] for move in moves)
        assert http.get("/v1/profile").json()["name"] == device.service.device.profile.name
        assert http.get("/v1/identity").json()["scope"] == "read"


def test_a_walk_is_paused_resumed_and_cancelled_and_whoever_comes_second_gets_409(walking):
    with walking.http() as http:
        begun = http.post("/v1/switch", json={"mode": "C2"})
        assert begun.status_code == 202
        place = begun.headers["Location"]
        problem(http.post("/v1/switch", json={"mode": "C3"}), 409, "conflict")
        until_walks(walking)
        assert http.post(f"{place}/pause").json()["phase"] == "paused"
        problem(http.post(f"{place}/pause"), 409, "illegal-event")
        assert http.post(f"{place}/resume").json()["phase"] == "walking"
        assert http.get("/readyz").status_code == 200
        cancelled = http.post(f"{place}/cancel")
        assert cancelled.status_code == 200
        assert cancelled.json()["phase"] in {"rolling-back", "idle"}


def until_walks(running):
    """Wait for the event that the walk has begun."""
    events = running.service.device.events()
    last = 0
    while running.service.device.status().phase != "walking":
        found = events.wait(last, PATIENCE_S)
        assert found, "the walk did not begin"
        last = found[-1].id


def test_auto_gives_control_back(device):
    with device.http() as http:
        http.post("/v1/switch", json={"mode": "C2", "wait_s": 30})
        assert http.get("/v1/status").json()["decision"]["rank"] == "manual"
        answer = http.post("/v1/switch", json={"mode": "auto", "wait_s": 30})
        assert answer.status_code in {200, 204}
        assert http.get("/v1/status").json()["decision"]["rank"] == "default"
        assert http.post("/v1/switch", json={"mode": "auto"}).status_code == 204


def test_holds_are_placed_listed_and_released(device):
    with device.http() as http:
        placed = http.post("/v1/holds", json={"mode": "C2", "reason": "a test", "ttl_s": 600})
        assert placed.status_code == 201
        hold = placed.json()
        assert (hold["mode"], hold["who"], hold["reason"]) == ("C2", "tester", "a test")
        assert [one["id"] for one in http.get("/v1/holds").json()] == [hold["id"]]
        assert http.delete(f"/v1/holds/{hold['id']}").status_code == 204
        assert http.get("/v1/holds").json() == []
        problem(http.delete(f"/v1/holds/{hold['id']}"), 404, "unknown-hold")


def test_a_repeated_request_acts_once(device):
    until(lambda: device.service.device.status().target is None)  # a walk of the test before may be verified
    with device.http() as http:
        key = {"Idempotency-Key": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}
        before = len(http.get("/v1/operations").json())
        first = http.post("/v1/switch", json={"mode": "C3", "wait_s": 30}, headers=key).json()
        assert first["outcome"] == "committed", first
        http.post("/v1/switch", json={"mode": "C1", "wait_s": 30})
        again = http.post("/v1/switch", json={"mode": "C3", "wait_s": 30}, headers=key)
        assert again.status_code == 200, again.text
        assert again.json()["id"] == first["id"]
        assert http.get("/v1/status").json()["mode"] == "C1"
        assert len(http.get("/v1/operations").json()) == before + 2
        said = problem(http.post("/v1/switch", json={"mode": "C2"}, headers=key), 422, "idempotency-key-reused")
        assert "fresh one" in said
        problem(http.post("/v1/switch", json={"mode": "C2"}, headers={"Idempotency-Key": "x" * 129}), 400)
    # Another's key of the same name is another key.
    with device.http() as other:
        assert other.post("/v1/switch", json={"mode": "C2", "wait_s": 30}, headers=key).json()["id"] != first["id"]
        other.post("/v1/switch", json={"mode": "C1", "wait_s": 30})


def test_a_request_is_repeated_after_the_device_has_forgotten_its_switch(device):
    with device.http() as http:
        key = {"Idempotency-Key": "long-ago"}
        wish = {"mode": "C3", "wait_s": 30}
        first = http.post("/v1/switch", json=wish, headers=key).json()
        for number in range(KEPT):
            switched = device.service.device.switch(f"C{1 + number % 2}", who="tester")
            device.service.device.wait(switched.id, 30)
        problem(http.get(f"/v1/operations/{first['id']}"), 404, "unknown-operation")
        again = http.post("/v1/switch", json=wish, headers=key)
        assert again.is_success, again.text
        assert (again.json()["id"], again.json()["to"]) == (first["id"], "C3")
        assert "forgotten" in again.json()["reason"]
        device.service.device.wait(device.service.device.switch("C1", who="tester").id, 30)


def test_unknown_things_are_named(device):
    with device.http() as http:
        assert "C1, C2, C3" in problem(http.post("/v1/switch", json={"mode": "C9"}), 404, "unknown-mode")
        assert "nope" in problem(http.get("/v1/operations/nope"), 404, "unknown-operation")
        problem(http.post("/v1/operations/nope/cancel"), 404, "unknown-operation")
        problem(http.get("/v1/nothing"), 404)
        problem(http.get("/v1/schema/nothing"), 404)
        answer = http.put("/v1/status")
        problem(answer, 405)
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"mode": 3}',
        b'{"mode": ""}',
        b'{"mode": "C2", "wait": 1}',
        b'{"mode": "C2", "wait_s": -1}',
        b'{"mode": "C2", "wait_s": 1e9}',
        b'{"mode": "C2", "lease_s": 0}',
        b'{"mode": "C2", "lease_s": NaN}',
        b'{"mode": "' + b"x" * 65 + b'"}',
        b"[" * 60_000,
        b"\xff",
        b'{"mode": "\xff"}',
        b'{"mode": "C2", "wait_s": 0, "\xed\xa0\x80": 1}',
    ],
)
def test_a_malformed_body_changes_nothing_and_is_refused_in_words(device, body):
    with device.http() as http:
        before = http.get("/v1/operations").json()
        assert problem(http.post("/v1/switch", content=body, headers={"Content-Type": "application/json"}), 400)
        assert http.get("/v1/operations").json() == before


def test_the_description_names_every_route_and_the_form_of_its_errors(device):
    with device.http(Scope.READ) as http:
        document = http.get("/v1/schema/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    paths = document["paths"]
    assert {"/v1/status", "/v1/switch", "/v1/operations/{operation_id}/retarget", "/v1/events", "/metrics"} <= set(
        paths
    )
    for item in paths.values():
        for name, operation in item.items():
            if name in {"get", "post", "delete"}:
                assert "application/problem+json" in operation["responses"]["default"]["content"]
