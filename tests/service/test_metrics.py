"""Metrics, read by Prometheus' own parser."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.service.tokens import Scope
from tests.service.running import running


@pytest.fixture(scope="module")
def families(plan, tmp_path_factory):
    with running(plan, tmp_path_factory.mktemp("state") / "service") as device, device.http() as http:
        http.post("/v1/switch", json={"mode": "C2", "wait_s": 30})
        body = {"inputs": [{"name": "input", "shape": [1, 1, 4, 4], "datatype": "FP32", "data": [0.0] * 16}]}
        for _ in range(3):
            assert http.post("/v2/models/synthetic/infer", json=body).status_code == 200
        http.get("/v1/status", headers={"Authorization": "Bearer wrong"})
        with device.http(Scope.READ) as reader:
            answer = reader.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(families, name, **labels):
    family = name.removesuffix("_total").removesuffix("_count")
    (found,) = [
        one.value for one in families[family].samples if one.name == name and labels.items() <= one.labels.items()
    ]
    return found


def test_all_names_have_the_prefix_and_all_have_a_help(families):
    for name, family in families.items():
        assert name.startswith("geoshift_")
        assert family.documentation


def test_units_are_base_units(families):
    for name in families:
        assert not name.endswith(("_ms", "_milliseconds", "_kb", "_mb", "_percent", "_mw")), name


def test_they_say_what_the_device_did(families):
    assert value(families, "geoshift_mode", mode="C2") == 1
    assert value(families, "geoshift_mode", mode="C1") == 0
    assert value(families, "geoshift_phase", phase="idle") == 1
    assert value(families, "geoshift_answers_total") == 3
    assert value(families, "geoshift_operations_total", outcome="committed") == 1
    assert value(families, "geoshift_transitions_total") == 1
    assert value(families, "geoshift_mode_accuracy_ratio", mode="C1") == 1
    route = "/v2/models/{model}/infer"
    assert value(families, "geoshift_http_requests_total", method="POST", route=route, status="200") == 3
    assert value(families, "geoshift_http_request_duration_seconds_count", route=route) == 3
    assert value(families, "geoshift_http_unauthorized_total") == 1


def test_labels_have_few_values_whatever_strangers_ask_for(plan, tmp_path):
    with running(plan, tmp_path / "service") as device, device.http() as http:
        for number in range(50):
            http.get(f"/nothing/{number}")
            http.request(f"ODD{number}", "/v1/status")
        text = http.get("/metrics").text
    requests = [line for line in text.splitlines() if line.startswith("geoshift_http_requests_total")]
    assert len(requests) < 6
    assert "/nothing/" not in text
