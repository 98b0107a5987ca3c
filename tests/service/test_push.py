"""A plan is pushed over HTTP: real server, real client; who may, what is refused, what the others see meanwhile."""

import json
import socket
import threading
from urllib.parse import quote, urlsplit

import numpy as np
import pytest

from runtime.client import Client
from runtime.desktop.pinning import Unreachable
from runtime.errors import BundleError, Conflict, GapNeeded, NoRoom, PushRefused, UnknownPush
from runtime.plan import bundle as bundles
from runtime.plan.bundle_files import MANIFEST
from runtime.plan.fit import peak_bytes
from runtime.plan.release import sign
from runtime.plan.signing import generate
from runtime.plan.trust import Trust
from runtime.pushing.push_phase import PushPhase
from runtime.service.tokens import Scope
from tests.runtime.pushing import files_of, left, written
from tests.runtime.test_push import held
from tests.service.running import running

X = np.random.default_rng(5).standard_normal((3, 1, 4, 4)).astype(np.float32)
ROUTE = "/v1/bundles"


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    return bundles.read(written(tmp_path_factory.mktemp("push") / "new"))


@pytest.fixture
def device(plan, tmp_path):
    with running(plan, tmp_path / "service", state=tmp_path / "state") as found:
        yield found


def client(device, scope=Scope.ADMIN):
    return Client(device.url, device.token(scope), device.service.certificate.sha256)


def test_a_client_pushes_a_plan_and_everybody_sees_which_one_is_at_work(device, new, tmp_path):
    steps = []
    with client(device) as admin:
        before = admin.status().bundle
        end = admin.push(new.path, told=steps.append)
        assert (end.outcome, end.reason, end.gap_was_s) == ("committed", "", None)
        assert {"receiving", "over"} <= {step.phase for step in steps}
        assert [step.received_bytes for step in steps] == sorted(step.received_bytes for step in steps)
        status, found = admin.status(), admin.bundle()
        assert (status.bundle, status.release, status.push) == (new.id, 2, None)
        assert (found.id, found.release, found.push.outcome) == (new.id, 2, "committed")
        assert found.push.replaces == before
        again = admin.push(new.path)
        assert (again.outcome, again.reason) == ("committed", "this bundle is at work already")
        events = [event for event in device.service.device.events().since(0) if event.kind == "push"]
        assert events[-1].data["outcome"] == "committed"
    with device.http() as http:
        metrics = http.get("/metrics").text
        assert 'geoshift_pushes_total{outcome="committed"} 1.0' in metrics
        assert f'bundle="{new.id}"' in metrics
        assert "geoshift_bundle_release 2.0" in metrics
        assert http.get("/v2/models/synthetic").json()["versions"] == ["2"]
        assert http.get("/v2/models/synthetic/versions/1").status_code == 404
        assert [mode["name"] for mode in http.get("/v1/modes").json()] == ["C1", "C2", "C3"]
    assert left(tmp_path / "state") == [new.id]
    said = [json.loads(line) for line in device.log.getvalue().splitlines()]
    assert [one["event"] for one in said if one["event"].startswith("push ")] == [
        "push begun", "push committed to", "push ended", "push begun",
    ]  # fmt: skip


def test_a_wrong_plan_ends_with_the_reason_and_the_old_one(device, tmp_path):
    with client(device) as admin:
        before = admin.infer(X)
        end = admin.push(written(tmp_path / "wrong", wrong=True))
        assert end.outcome == "rolled-back"
        assert "canary: found 0 right answers, expected 16" in end.reason
        assert str(tmp_path) not in end.reason
        assert admin.status().release == 1
        assert np.array_equal(admin.infer(X), before)
        assert admin.ready()


@pytest.mark.parametrize("scope", [None, Scope.READ, Scope.SWITCH])
def test_only_an_admin_pushes(device, new, scope):
    manifest, _, _ = files_of(new.path)
    refusal = 401 if scope is None else 403
    with device.http(scope) as http:
        for method, target, body in (
            ("GET", ROUTE, None),
            ("POST", ROUTE, manifest),
            ("PUT", f"{ROUTE}/{new.id}/files/graph.onnx", b"x"),
            ("POST", f"{ROUTE}/{new.id}/commit", b"{}"),
            ("GET", f"{ROUTE}/{new.id}", None),
            ("DELETE", f"{ROUTE}/{new.id}", None),
        ):
            assert http.request(method, target, content=body).status_code == refusal, (method, target)


def answered(http, release, right):
    """Ask the model; whether the version that is said is the one that answered."""
    tensor = {"name": "input", "datatype": "FP32", "shape": list(X.shape), "data": X.ravel().tolist()}
    answer = http.post("/v2/models/synthetic/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    outputs = np.array(found["outputs"][0]["data"], np.float32)
    assert np.allclose(outputs, right[found["model_version"]], atol=1e-6)
    return found["model_version"]


def test_callers_are_answered_all_the_time_and_readiness_stays(device, plan, new):
    from tests.runtime.pushing import outputs

    right = {"1": outputs(bundles.read(plan), X).ravel(), "2": outputs(new, X).ravel()}
    ends, seen, ready = threading.Event(), [], []

    def ask():
        with device.http() as http:
            while not ends.is_set():
                seen.append(answered(http, 1, right))
                ready.append(http.get("/readyz").status_code)

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        with client(device) as admin:
            assert admin.push(new.path).outcome == "committed"
        with device.http() as http:
            assert answered(http, 2, right) == "2"
    finally:
        ends.set()
        caller.join()
    assert seen == sorted(seen)
    assert seen[0] == "1"
    assert set(ready) == {200}


def test_without_room_for_two_plans_the_client_must_allow_a_gap(plan, new, tmp_path):
    room = peak_bytes(bundles.read(plan), 1, False) + 400
    with (
        running(plan, tmp_path / "service", state=tmp_path / "state", memory__weights_bytes=room) as device,
        client(device) as admin,
    ):
        with pytest.raises(GapNeeded, match=r"would not answer for about \d+\.\d s.*--allow-gap"):
            admin.push(new.path)
        assert admin.bundle().push.outcome == "abandoned"
        asked = []
        with pytest.raises(GapNeeded):
            admin.push(new.path, allow_gap=lambda seconds: asked.append(seconds) or False)
        assert asked[0] > 0
        comes, goes = held(device.service.device, PushPhase.CHECKING)
        pushing = threading.Thread(target=admin.push, args=(new.path,), kwargs={"allow_gap": True})
        pushing.start()
        try:
            assert comes.wait(60)
            with device.http() as http:
                assert http.get("/readyz").status_code == 503
                assert http.get("/healthz").status_code == 200
                status = http.get("/v1/status").json()
                assert (status["push"], status["weight_bytes"], status["phase"]) == (new.id, 0, "idle")
                tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1, 4, 4], "data": [0.0] * 16}
                answer = http.post("/v2/models/synthetic/infer", json={"inputs": [tensor]})
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert answer.json()["type"] == "urn:geoshift:problem:replacing"
                assert http.get("/v1/modes").status_code == http.get("/metrics").status_code == 200
                refused = http.post("/v1/switch", json={"mode": "C2"})
                assert refused.status_code == 409
        finally:
            goes.set()
            pushing.join()
        end = admin.bundle().push
        assert (end.outcome, end.gap_was_s is not None, admin.ready()) == ("committed", True, True)


def test_the_door_to_a_gap_is_the_commit(plan, new, tmp_path):
    room = peak_bytes(bundles.read(plan), 1, False) + 400
    with (
        running(plan, tmp_path / "service", state=tmp_path / "state", memory__weights_bytes=room) as device,
        device.http() as http,
    ):
        view = sent(http, new.path)
        refused = http.post(f"{ROUTE}/{view['id']}/commit", json={})
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:geoshift:problem:gap-needed")
        done = http.post(f"{ROUTE}/{view['id']}/commit", json={"allow_gap": True, "wait_s": 60})
        assert (done.status_code, done.json()["outcome"]) == (200, "committed")


def sent(http, path):
    manifest, _, rest = files_of(path)
    view = http.post(ROUTE, content=manifest)
    assert view.status_code == 201, view.text
    found = view.json()
    for name, raw in rest.items():
        answer = http.put(f"{ROUTE}/{found['id']}/files/{name}", content=raw)
        assert answer.status_code == 200, answer.text
    return found


HOSTILE = [
    "../journal", "..", "/etc/passwd", "//etc", "graphs/../../journal", "plan.json", "plan.sig", ".hidden", "a/.b",
    "a\\b", "C:x", "nul\x00", "line\nfeed", "ü", "a//b", "a/", "x" * 201, "a/b/c/d/e", "graph.onnx/inner",
    "plan.json/x", "",
]  # fmt: skip


def test_a_manifest_with_a_name_that_leads_elsewhere_is_refused_and_nothing_is_left(device, new, tmp_path):
    with device.http() as http:
        for name in HOSTILE:
            raw = json.loads(new.files[MANIFEST])
            raw["files"][name] = {"sha256": "0" * 64, "bytes": 1}
            refused = http.post(ROUTE, content=json.dumps(raw).encode())
            assert refused.status_code == 422, refused.text
            assert "files: found path" in refused.json()["detail"]
        assert http.get(ROUTE).json()["push"] is None
    assert left(tmp_path / "state") == []


def test_a_part_of_a_name_that_the_manifest_does_not_list_is_refused(device, new, tmp_path):
    manifest, _, _ = files_of(new.path)
    with device.http() as http:
        view = http.post(ROUTE, content=manifest).json()
        inside = sorted(tmp_path.rglob("*"))
        for name in [*HOSTILE, "%2e%2e/journal", "..%2fjournal", "graphs/%2e%2e/%2e%2e/x"]:
            target = f"{ROUTE}/{view['id']}/files/{name if '%' in name else quote(name, safe='/')}"
            with socket.create_connection((urlsplit(device.url).hostname, urlsplit(device.url).port)) as raw:
                head = f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nConnection: close\r\n"
                token = http.headers["authorization"]
                raw.sendall(f"{head}Authorization: {token}\r\n\r\nx".encode())
                said = b"".join(iter(lambda sock=raw: sock.recv(4096), b""))
            assert said.split(b" ", 2)[1] in (b"400", b"404", b"405"), (name, said[:200])
        assert sorted(tmp_path.rglob("*")) == inside
        assert http.delete(f"{ROUTE}/{view['id']}").json()["outcome"] == "abandoned"
    assert left(tmp_path / "state") == []


def test_limits_of_size(device, new):
    manifest, _, rest = files_of(new.path)
    with device.http() as http:
        many = json.loads(manifest)
        many["files"] |= {f"f{number}": {"sha256": "0" * 64, "bytes": 1} for number in range(4097)}
        refused = http.post(ROUTE, content=json.dumps(many).encode())
        assert (refused.status_code, "expected at most 4096" in refused.text) == (422, True)
        large = json.loads(manifest)
        large["files"]["graph.onnx"]["bytes"] = 5 << 30
        refused = http.post(ROUTE, content=json.dumps(large).encode())
        assert (refused.status_code, f"of {4 << 30}" in refused.text) == (422, True)
        assert http.post(ROUTE, content=b" " * ((16 << 20) + 1)).status_code == 413
        view = http.post(ROUTE, content=manifest).json()
        target = f"{ROUTE}/{view['id']}/files/graph.onnx"
        assert http.put(target, content=bytes((4 << 20) + 1)).status_code == 413
        refused = http.put(target, content=rest["graph.onnx"] + b"x")
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:geoshift:problem:push-refused")
        assert http.put(f"{target}?offset=-1", content=b"x").status_code == 400


def test_what_is_no_manifest_is_refused(device, tmp_path):
    with device.http() as http:
        for body in (b"", b"{", b"[]", b"\xff", b'{"schema": "geoshift.plan/9"}', b"[" * 100_000):
            assert http.post(ROUTE, content=body).status_code == 422
    assert left(tmp_path / "state") == []


OTHER = [
    ({"release": 0}, "release"),
    ({"labels": ["a", "b", "z"]}, "labels: found ['a', 'b', 'z'], expected ['a', 'b', 'c'] as in the plan at work"),
    ({"preprocessing": {"mean": [0.5]}}, "preprocessing: found {'mean': [0.5]}, expected {}"),
    ({"model": {"id": "other"}}, "model.id: found 'other', expected 'synthetic'"),
    ({"model": {"input_shape": [1, 4, 5]}}, "model.input_shape: found [1, 4, 5], expected [1, 4, 4]"),
    ({"model": {"outputs": 4}}, "model.outputs: found 4, expected 3"),
]


def test_a_plan_for_other_callers_is_refused(device, new):
    with device.http() as http:
        for changes, words in OTHER:
            raw = json.loads(new.files[MANIFEST])
            model = raw["model"] | changes.get("model", {})
            refused = http.post(ROUTE, content=json.dumps(raw | changes | {"model": model}).encode())
            assert (refused.status_code, words in refused.json()["detail"]) == (422, True), refused.text


def test_a_release_that_is_older_than_the_committed_one_is_refused(device, new, tmp_path):
    with client(device) as admin:
        admin.push(new.path)
        old = written(tmp_path / "old", seed=3, release=1)
        with pytest.raises(PushRefused, match="release: found 1, expected at least 2, which this device has committed"):
            admin.push(old)


def test_a_device_that_pinned_a_key_takes_what_that_key_signed(plan, tmp_path):
    key, other = generate(), generate()
    signed = written(tmp_path / "signed")
    with (
        running(plan, tmp_path / "service", state=tmp_path / "state", trust=Trust((key.public,))) as device,
        client(device) as admin,
    ):
        with pytest.raises(PushRefused, match="found no signature, expected one by"):
            admin.push(signed)
        sign(signed, other)
        with pytest.raises(PushRefused, match="not by a pinned key"):
            admin.push(signed)
        with pytest.raises(BundleError, match="not by a pinned key"):
            admin.push(signed, trust=Trust((key.public,)))
        sign(signed, key)
        assert admin.push(signed, trust=Trust((key.public,))).outcome == "committed"
        assert admin.bundle().signed_by == key.public.id
    with running(plan, tmp_path / "service", state=tmp_path / "other") as device, device.http() as http:
        refused = http.post(ROUTE, content=b"{}", headers={"Geoshift-Signature": "abc"})
        assert (refused.status_code, "found no 64 bytes" in refused.text) == (422, True)


def test_a_bundle_that_is_damaged_here_is_not_sent(device, tmp_path):
    path = written(tmp_path / "damaged")
    (path / "base.safetensors").write_bytes(b"x")
    with client(device) as admin:
        with pytest.raises(BundleError, match="the file is damaged"):
            admin.push(path)
        assert admin.bundle().push is None


def test_a_push_in_the_way_of_another_or_of_a_walk_is_refused(plan, new, tmp_path):
    from tests.service.running import STILL

    with (
        running(plan, tmp_path / "service", state=tmp_path / "state", pace=STILL) as device,
        device.http() as http,
        client(device) as admin,
    ):
        view = http.post(ROUTE, content=files_of(new.path)[0]).json()
        other = written(tmp_path / "other", seed=2, release=3)
        with pytest.raises(Conflict, match="under way"):
            admin.push(other)
        assert http.get(f"{ROUTE}/{view['id']}").json()["outcome"] is None
        http.delete(f"{ROUTE}/{view['id']}")
        sent(http, new.path)
        admin.switch("C2")
        with pytest.raises(Conflict, match="found C1 → C2 under way"):
            admin.push(new.path)
        kept = http.get(f"{ROUTE}/{new.id}").json()
        assert (kept["outcome"], kept["missing"]) == (None, {})  # for the next try


def test_without_a_state_directory_or_room_the_client_says_why(plan, new, tmp_path):
    from tests.runtime.disks import Disk

    class Small(Disk):
        def free_bytes(self, path):
            return 0

    with running(plan, tmp_path / "service") as device, client(device) as admin:
        with pytest.raises(Conflict, match="found no state directory"):
            admin.push(new.path)
        with pytest.raises(UnknownPush):
            admin.channel.delete(f"{ROUTE}/{new.id}")
    with running(plan, tmp_path / "service", state=tmp_path / "state") as device, client(device) as admin:
        device.service.device._seat.net.home.bundles.files = Small()
        with pytest.raises(NoRoom, match="found 0 bytes free for bundles, expected"):
            admin.push(new.path)
        with device.http() as http:
            assert http.post(ROUTE, content=files_of(new.path)[0]).status_code == 507


def test_an_answer_that_gets_lost_costs_no_upload(device, new):
    with client(device) as admin:
        lost = []

        def losing(name, times):
            ask = getattr(admin.channel, name)

            def asked(*arguments, **options):
                answer = ask(*arguments, **options)
                if lost.count(name) < times:
                    lost.append(name)
                    raise Unreachable("the cable")
                return answer

            setattr(admin.channel, name, asked)

        losing("put", 2)
        losing("post", 1)
        losing("get", 1)
        assert admin.push(new.path).outcome == "committed"
        assert lost == ["put", "put", "post", "get"]


def test_a_client_that_gives_up_leaves_nothing(device, new, tmp_path):
    with client(device) as admin:

        def interrupted(view):
            if view.received_bytes:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            admin.push(new.path, told=interrupted)
        assert admin.bundle().push.outcome == "abandoned"
    assert left(tmp_path / "state") == []


def test_openapi_describes_the_bodies(device):
    with device.http() as http:
        paths = http.get("/v1/schema/openapi.json").json()["paths"]
    assert set(paths["/v1/bundles"]) >= {"get", "post"}
    for path, method in (("/v1/bundles", "post"), ("/v1/bundles/{bundle_id}/files/{name}", "put")):
        operation = paths[path][method]
        content = operation["requestBody"]["content"]
        assert content["application/octet-stream"]["schema"] == {"type": "string", "format": "binary"}
        assert "default" in operation["responses"]
    assert "requestBody" in paths["/v1/bundles/{bundle_id}/commit"]["post"]
