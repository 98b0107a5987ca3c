"""Requests that schemathesis makes up from the OpenAPI document, good and bad: no defect, no odd answer."""

from contextlib import suppress

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)

from tests.runtime.threads import PATIENCE_S
from tests.service.running import running
from tests.service.test_access import PATIENT

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, ignored_auth,
]  # fmt: skip
ENDLESS = "/v1/events"
EXAMPLES = 12


def test_no_made_up_request_finds_a_defect(plan, tmp_path):
    with running(plan, tmp_path / "service", config={"limits": PATIENT}) as device:
        headers = {"Authorization": f"Bearer {device.token()}"}
        schema = schemathesis.openapi.from_url(f"{device.url}/v1/schema/openapi.json", headers=headers)
        seen = set()
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path == ENDLESS:
                continue
            try_it(operation, GenerationMode.POSITIVE, headers, seen)
            # What takes nothing cannot be asked wrongly.
            with suppress(Unsatisfiable):
                try_it(operation, GenerationMode.NEGATIVE, headers, seen)
        assert len(seen) > 35
        with device.http() as http:
            assert http.get("/v1/status").status_code == 200


def try_it(operation, mode, headers, seen):
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case):
        seen.add((operation.method, operation.path))
        # It may wait for a switch that is never asked for; the longest wait of the document is a minute.
        if "wait_s" in (case.query or {}):
            case.query["wait_s"] = 0
        if isinstance(case.body, dict) and "wait_s" in case.body:
            case.body["wait_s"] = 0
        case.call_and_validate(headers=headers, checks=CHECKS, timeout=PATIENCE_S)

    run()
