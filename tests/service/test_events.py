"""Events as a stream: complete, in order, taken up again where they were lost."""

import json
import threading
from contextlib import ExitStack

import pytest

from runtime.service.tokens import Scope
from tests.runtime.threads import until
from tests.service.running import running


@pytest.fixture
def device(plan, tmp_path):
    with running(plan, tmp_path / "service", config={"limits": {"streams": 8}}) as one:
        yield one


def read(answer, enough):
    """Messages of a stream until there are enough."""
    found, message = [], {}
    for line in answer.iter_lines():
        if line.startswith(("id: ", "event: ", "data: ")):
            key, _, value = line.partition(": ")
            message[key] = value
        elif not line and message:
            found.append(message)
            message = {}
            if enough(found):
                break
    return found


def over(count):
    def enough(messages):
        ends = [one for one in messages if one["event"] == "operation" and json.loads(one["data"])["data"]["outcome"]]
        return len(ends) >= count

    return enough


def switch(device, *modes):
    with device.http() as http:
        for mode in modes:
            assert http.post("/v1/switch", json={"mode": mode, "wait_s": 30}).json()["outcome"] == "committed"


def test_a_listener_hears_the_whole_of_a_switch_in_order(device):
    with device.http() as http, http.stream("GET", "/v1/events") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        worker = threading.Thread(target=switch, args=(device, "C2"))
        worker.start()
        found = read(answer, over(1))
        worker.join()
    ids = [int(one["id"]) for one in found]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    for one in found:
        event = json.loads(one["data"])
        assert (str(event["id"]), event["kind"]) == (one["id"], one["event"])
    assert found[-1]["event"] == "operation"
    assert json.loads(found[-1]["data"])["data"]["outcome"] == "committed"


def test_whoever_comes_back_misses_nothing_and_gets_nothing_twice(device):
    switch(device, "C2", "C3")
    kept = device.service.device.events().since(0)
    for place in (0, 1, len(kept) // 2, len(kept) - 1):
        with device.http() as http:
            last = {"Last-Event-ID": str(place)}
            with http.stream("GET", "/v1/events", headers=last) as answer:
                found = read(answer, lambda messages: int(messages[-1]["id"]) >= kept[-1].id)
        assert [int(one["id"]) for one in found] == [event.id for event in kept[place:]]


def test_what_the_log_has_no_room_for_is_named_as_a_gap(device):
    log = device.service.device.events()
    for _ in range(1100):
        log.add("fault", {"detail": "many"})
    with device.http() as http, http.stream("GET", "/v1/events", headers={"Last-Event-ID": "1"}) as answer:
        found = read(answer, lambda messages: len(messages) == 2)
    assert found[0]["event"] == "gap"
    gap = json.loads(found[0]["data"])
    assert gap["first"] == 2
    assert gap["last"] == int(found[1]["id"]) - 1


def test_an_id_from_before_a_restart_gets_all_that_is_kept(device):
    switch(device, "C2")
    with device.http() as http, http.stream("GET", "/v1/events", headers={"Last-Event-ID": "999999"}) as answer:
        assert read(answer, lambda messages: True)[0]["id"] == str(device.service.device.events().since(0)[0].id)


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, ""])
def test_an_id_that_is_no_number_is_refused(device, last):
    with device.http() as http:
        assert http.get("/v1/events", headers={"Last-Event-ID": last}).status_code == 400


def opened(stack, http):
    """A stream that goes on until the stack closes; its lines are kept, since httpx closes an answer with them."""
    lines = stack.enter_context(http.stream("GET", "/v1/events")).iter_lines()
    assert next(lines) == "retry: 2000"
    return lines


def test_streams_are_counted_and_given_back(device):
    with ExitStack() as stack:
        https = [stack.enter_context(device.http(Scope.READ)) for _ in range(5)]
        kept = [opened(stack, http) for http in https[:4] for _ in range(2)]
        refused = https[4].get("/v1/events")
        assert refused.status_code == 429
        assert "Retry-After" in refused.headers
        assert len(kept) == device.service.streams.open == 8
    until(lambda: device.service.streams.open == 0)
    with device.http() as http, http.stream("GET", "/v1/events") as again:
        assert again.status_code == 200


def test_one_reader_s_streams_leave_room_for_others(device):
    with device.http(Scope.READ) as greedy, device.http(Scope.READ) as other, ExitStack() as stack:
        kept = [opened(stack, greedy) for _ in range(2)]
        refused = greedy.get("/v1/events")
        assert refused.status_code == 429
        assert "this token's" in refused.json()["detail"]
        kept.append(opened(stack, other))
        assert device.service.streams.open == len(kept)


@pytest.mark.parametrize("ended", ["revoke", "rotate"])
def test_a_token_that_is_worthless_hears_nothing_more(device, ended):
    token = device.token(Scope.READ)
    as_listener = {"Authorization": f"Bearer {token}"}
    with device.http(None, headers=as_listener) as http, http.stream("GET", "/v1/events") as answer:
        lines = answer.iter_lines()
        device.service.device.events().add("fault", {"detail": "before"})
        until(lambda: "before" in next(lines))
        getattr(device.service.tokens, ended)(token.split("_")[1])
        device.service.device.events().add("fault", {"detail": "a secret"})
        assert "a secret" not in "".join(lines)
    until(lambda: device.service.streams.open == 0)


def test_streams_end_when_the_service_stops(plan, tmp_path):
    with running(plan, tmp_path / "service") as device:
        http = device.http()
        answer = http.send(http.build_request("GET", "/v1/events"), stream=True)
        lines = answer.iter_lines()
        assert next(lines).startswith("retry")
        device.server.stop()
        assert "operation" not in "".join(lines)
        answer.close()
        http.close()
