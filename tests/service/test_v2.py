"""The inference protocol: with a plain HTTP client, and with Triton's own, unmodified."""

import json
import threading

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from jsonschema import Draft202012Validator, ValidationError
from tritonclient.utils import InferenceServerException

from runtime.service.tokens import Scope
from tests.runtime.threads import until
from tests.service.running import running


@pytest.fixture(scope="module", params=["in-place", "shadow"])
def device(plan, tmp_path_factory, request):
    with running(plan, tmp_path_factory.mktemp("state") / "service", policy=request.param) as one:
        yield one


@pytest.fixture
def samples(device):
    return device.service.device.bundle.evaluation.inputs[:3]


@pytest.fixture
def client(device):
    one = triton.InferenceServerClient(device.url.removeprefix("http://"))
    yield one
    one.close()


@pytest.fixture
def headers(device):
    return {"Authorization": f"Bearer {device.token(Scope.READ)}"}


def asked(x, *, binary):
    given = triton.InferInput("input", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=binary)
    return [given]


def test_triton_s_client_finds_the_server_well_and_knows_the_model(client, headers):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata(headers=headers)["extensions"] == ["binary_tensor_data"]
    assert client.is_model_ready("synthetic", headers=headers)
    assert client.is_model_ready("synthetic", "1", headers=headers)
    assert not client.is_model_ready("other", headers=headers)
    metadata = client.get_model_metadata("synthetic", headers=headers)
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]
    assert metadata["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("back", [None, False, True])
def test_triton_s_client_gets_the_network_s_own_bits_in_every_form(device, client, headers, samples, sent, back):
    outputs = None if back is None else [triton.InferRequestedOutput("output", binary_data=back)]
    answer = client.infer(
        "synthetic", asked(samples, binary=sent), outputs=outputs, request_id="me", headers=headers, model_version="1"
    )
    expected = device.service.device.infer(samples)
    assert answer.as_numpy("output").astype(np.float32).tobytes() == expected.tobytes()
    assert answer.get_response()["id"] == "me"


def test_triton_s_client_is_told_what_is_wrong(client, headers, samples):
    wrong = triton.InferInput("input", [1, 2], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 2), np.float32))
    for call, said in (
        (lambda: client.infer("synthetic", [wrong], headers=headers), "expected .N, 1, 4, 4."),
        (lambda: client.infer("other", asked(samples, binary=True), headers=headers), "expected 'synthetic'"),
        (lambda: client.infer("synthetic", asked(samples, binary=True)), "found no token"),
        (
            lambda: client.infer(
                "synthetic", asked(samples, binary=True), headers=headers, request_compression_algorithm="gzip"
            ),
            "packed body",
        ),
    ):
        with pytest.raises(InferenceServerException, match=said):
            call()


def test_answers_during_walks_are_those_of_states_of_the_path(device, headers, samples):
    """Eight clients ask while the device walks to and fro: no failure, no answer of anything but a legal state."""
    network = device.service.device
    table, legal = network.bundle.table, set()
    from runtime.plan.graphs import live_session

    session = live_session(network.bundle, network.profile.threads)
    for move in network.bundle.transitions:
        start = network.bundle.states[move.ends[0]]
        for position in range(len(move.chunks) + 1):
            weights = session.bind(table.tensors(move.chunks.state_at(start, position)))
            legal.add(session.run(samples, weights).tobytes())
    stop, found, failures = threading.Event(), [], []

    def ask():
        one = triton.InferenceServerClient(device.url.removeprefix("http://"))
        try:
            while not stop.is_set():
                answer = one.infer("synthetic", asked(samples, binary=True), headers=headers)
                found.append(answer.as_numpy("output").tobytes())
        except InferenceServerException as error:
            failures.append(error)
        finally:
            one.close()

    callers = [threading.Thread(target=ask) for _ in range(8)]
    for caller in callers:
        caller.start()
    try:
        with device.http() as http:
            for tour in range(1, 4):
                for mode in ("C2", "C3", "C1"):
                    assert http.post("/v1/switch", json={"mode": mode, "wait_s": 60}).json()["outcome"] == "committed"
                until(lambda tour=tour: len(found) > 3 * tour or failures)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert failures == []
    assert len(found) > 8
    assert set(found) <= legal


def test_a_full_line_is_429_with_a_time_to_come_back(plan, tmp_path, samples):
    with running(plan, tmp_path / "service", queue_limit=1) as device:
        network = device.service.device
        enters, may_leave = threading.Event(), threading.Event()

        def hold_up():
            enters.set()
            may_leave.wait()

        # The line is held up the way an increment holds it up.
        writer = threading.Thread(target=network._net._engine.between_jobs, args=(hold_up,))
        writer.start()
        enters.wait()
        answers = []
        with device.http() as http:
            body = {"inputs": [{"name": "input", "shape": [1, 1, 4, 4], "datatype": "FP32", "data": [0.0] * 16}]}

            def ask():
                answers.append(http.post("/v2/models/synthetic/infer", json=body))

            callers = [threading.Thread(target=ask) for _ in range(6)]
            for caller in callers:
                caller.start()
            # All but the one that waits in line are turned away, each at once.
            until(lambda: len(answers) == 5)
            may_leave.set()
            for caller in [*callers, writer]:
                caller.join()
            well = http.post("/v2/models/synthetic/infer", json=body)
        statuses = sorted(one.status_code for one in answers)
        assert statuses == [200, 429, 429, 429, 429, 429]
        refused = next(one for one in answers if one.status_code == 429)
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["type"] == "urn:geoshift:problem:queue-full"
        assert refused.json()["error"] == refused.json()["detail"]
        assert well.status_code == 200


@pytest.mark.parametrize(
    ("content", "length"),
    [(b"", None), (b"{}", None), (b"{}", "99"), (b"{}", "x"), (b"\x00" * 1000, "10"), (b'{"inputs": []}', "14")],
)
def test_malformed_requests_are_refused_and_the_service_is_unharmed(device, samples, content, length):
    extra = {} if length is None else {"Inference-Header-Content-Length": length}
    with device.http(Scope.READ) as http:
        answer = http.post("/v2/models/synthetic/infer", content=content, headers=extra)
        assert answer.status_code == 400
        assert answer.json()["error"]
        assert http.get("/v2/health/ready").status_code == 200


@pytest.fixture
def described(device):
    """The operation of inference and a check against a schema, both of the OpenAPI document."""
    with device.http(Scope.READ) as http:
        document = http.get("/v1/schema/openapi.json").json()

    def check(value, schema):
        Draft202012Validator({"components": document["components"], **schema}).validate(value)

    return document["paths"]["/v2/models/{model}/infer"]["post"], check


def test_the_document_describes_what_is_asked_and_answered_in_both_forms(device, samples, described):
    operation, check = described
    asked, answered = operation["requestBody"]["content"], operation["responses"]["200"]
    assert set(asked) == set(answered["content"]) == {"application/json", "application/octet-stream"}
    (length,) = [one for one in operation["parameters"] if one["in"] == "header"]
    assert (length["name"], length["required"]) == ("inference-header-content-length", False)
    assert set(answered["headers"]) == {"inference-header-content-length"}
    tensor = {"name": "input", "shape": list(samples.shape), "datatype": "FP32"}
    plain = {"inputs": [{**tensor, "data": samples.tolist()}], "id": "me"}
    packed = {"inputs": [{**tensor, "parameters": {"binary_data_size": samples.nbytes}}],
              "outputs": [{"name": "output", "parameters": {"binary_data": True}}]}  # fmt: skip
    text = json.dumps(packed).encode()
    with device.http(Scope.READ) as http:
        for question, content, headers in (
            (plain, json.dumps(plain).encode(), {}),
            (packed, text + samples.tobytes(), {"Inference-Header-Content-Length": str(len(text))}),
        ):
            check(question, asked["application/json"]["schema"])
            answer = http.post("/v2/models/synthetic/infer", content=content, headers=headers)
            assert answer.headers["Content-Type"] in answered["content"]
            end = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
            check(json.loads(answer.content[:end]), answered["content"]["application/json"]["schema"])
    for wrong in ({}, {"inputs": [{"name": "input"}]}, {"inputs": [{**tensor, "shape": []}]}, {**plain, "id": 5}):
        with pytest.raises(ValidationError):
            check(wrong, asked["application/json"]["schema"])


def test_a_name_that_climbs_is_no_model(device, headers):
    with httpx.Client(base_url=device.url, headers=headers) as http:
        for name in ("..", "%2e%2e", "a%2fb", "a\\b", "%00"):
            assert http.get(f"/v2/models/{name}/ready").status_code in {400, 404}
