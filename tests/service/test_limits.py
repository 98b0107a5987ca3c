"""Clients that are slow, greedy or hostile lose their connection and nobody else's."""

import contextlib
import json
import socket
from http import HTTPStatus

import pytest

from runtime.desktop.pinning import context
from tests.runtime.threads import PATIENCE_S, until
from tests.service.running import running

LIMITS = {"connections": 64, "infer_bytes": 1 << 20}
HASTY = {**LIMITS, "header_s": 2, "body_s": 0.5, "send_s": 0.2, "keep_alive_s": 1}
"""For those who are slow on purpose. A head that is sent in one piece comes in two seconds on any machine."""


@pytest.fixture(scope="module")
def device(plan, tmp_path_factory):
    with running(plan, tmp_path_factory.mktemp("state") / "service", config={"limits": LIMITS}) as one:
        yield one


@pytest.fixture(scope="module")
def hasty(plan, tmp_path_factory):
    with running(plan, tmp_path_factory.mktemp("state") / "service", config={"limits": HASTY}) as one:
        yield one


@pytest.fixture(autouse=True)
def unharmed(request):
    yield
    for name in {"device", "hasty"} & set(request.fixturenames):
        with request.getfixturevalue(name).http() as http:
            assert http.get("/v1/status").status_code == 200


@contextlib.contextmanager
def connection(device, source="127.0.0.1"):
    host, _, port = device.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S, source_address=(source, 0)) as one:
        yield one


def rest(one):
    """All that comes until the other side closes; it has to."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := one.recv(65536):
            found += piece
    return found


def head(device, method, path, *more):
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {device.token()}", *more)
    return "\r\n".join(lines).encode()


def test_a_head_that_never_ends_is_not_waited_for(hasty):
    with contextlib.ExitStack() as stack:
        for sent in (b"", b"GET", b"GET / HTTP/1.1\r\nHost: local", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50):
            one = stack.enter_context(connection(hasty))
            one.sendall(sent)
            stack.callback(lambda one=one: pytest.fail("answered") if rest(one) else None)


def test_nor_is_one_after_an_answered_request(hasty):
    first = head(hasty, "GET", "/v1/status")
    with connection(hasty) as one:
        one.sendall(first + b"\r\n\r\nGET /slo")
        found = rest(one)
    assert found.startswith(b"HTTP/1.1 200")
    assert found.count(b"HTTP/1.1") == 1


def test_a_body_that_never_ends_is_answered_in_words(hasty):
    for path in ("/v1/switch", "/v2/models/synthetic/infer"):
        begin = head(hasty, "POST", path, "Content-Length: 100")
        with connection(hasty) as one:
            one.sendall(begin + b'\r\n\r\n{"mode"')
            found = rest(one)
        assert found.startswith(b"HTTP/1.1 408"), found
        assert b"expected all of it" in found


def test_a_body_that_nobody_reads_is_not_waited_for(hasty):
    with connection(hasty) as one:
        one.sendall(b"POST /v1/switch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        found = rest(one)
    assert found.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("path", "size"), [("/v1/switch", (64 << 10) + 1), ("/v2/models/synthetic/infer", (1 << 20) + 1)]
)
def test_a_body_that_is_too_large_is_refused_before_it_is_read(device, path, size):
    with device.http() as http:
        answer = http.post(path, content=b"x" * size)
        assert answer.status_code == 413, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        # Without a length too, piece by piece.
        answer = http.post(path, content=(b"x" * 1000 for _ in range(size // 1000 + 1)))
        assert answer.status_code == 413, answer.text


def test_bodies_take_a_bounded_memory_together(plan, tmp_path):
    tight = {"limits": {"memory_bytes": 1 << 20}}
    with running(plan, tmp_path / "service", config=tight) as device:
        body = {"inputs": [{"name": "input", "shape": [1, 1, 4, 4], "datatype": "FP32", "data": [0.0] * 16}]}
        with device.http() as http, connection(device) as one:
            start = head(device, "POST", "/v2/models/synthetic/infer", f"Content-Length: {2 << 20}") + b"\r\n\r\n"
            # What a head announces takes nothing.
            one.sendall(start + b"{")
            until(lambda: device.service.bodies.taken)
            assert device.service.bodies.taken == 1
            assert http.post("/v2/models/synthetic/infer", json=body).status_code == 200
            # The only one may be as large as any; while it is under way, others have to come back.
            one.sendall(b" " * ((1 << 20) - 1))
            until(lambda: device.service.bodies.taken == 1 << 20)
            refused = http.post("/v2/models/synthetic/infer", json=body)
            assert refused.status_code == 429
            assert "Retry-After" in refused.headers
            assert http.get("/v1/status").status_code == 200
            one.close()
            until(lambda: not device.service.bodies.taken)
            assert http.post("/v2/models/synthetic/infer", json=body).status_code == 200


def test_the_bodies_of_one_token_leave_room_for_others(plan, tmp_path):
    with running(plan, tmp_path / "service", config={"limits": {"memory_bytes": 1 << 20, "header_s": 2}}) as device:
        greedy = head(device, "POST", "/v2/models/synthetic/infer", f"Content-Length: {1 << 20}") + b"\r\n\r\n"
        with contextlib.ExitStack() as stack:
            bodies = []
            for number in range(1, 5):
                bodies.append(stack.enter_context(connection(device)))
                bodies[-1].sendall(greedy + b" " * (200 << 10))
                until(lambda number=number: device.service.bodies.taken == min(number, 2) * (200 << 10))
            assert all(rest(one).startswith(b"HTTP/1.1 429") for one in bodies[2:])
            body = {"inputs": [{"name": "input", "shape": [1, 1, 4, 4], "datatype": "FP32", "data": [0.0] * 16}]}
            with device.http() as http:
                assert http.post("/v2/models/synthetic/infer", json=body).status_code == 200


def test_an_answer_that_nobody_takes_is_not_kept(hasty):
    request = head(hasty, "GET", "/v1/schema/openapi.json") + b"\r\n\r\n"
    with connection(hasty) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Answers of some ten megabytes: more than the system holds for a reader that does not read.
            one.sendall(request * 400)
        until(lambda: not hasty.server.server_state.connections)


def test_connections_beyond_the_limit_are_closed_and_the_others_go_on(hasty):
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(connection(hasty)) for _ in range(20)]
        # Those that were let in are sent home too, when they say nothing.
        assert [rest(one) for one in many] == [b""] * 20


def test_silent_connections_from_one_address_lock_nobody_out_at_another(plan, tmp_path):
    patient = {"limits": {"connections": 16, "header_s": 3600}}
    with running(plan, tmp_path / "service", config=patient) as device:
        with contextlib.ExitStack() as stack:
            many = [stack.enter_context(connection(device, "127.0.0.2")) for _ in range(16)]
            assert [rest(one) for one in many[4:]] == [b""] * 12
            with device.http() as http:
                assert http.get("/v1/status").status_code == 200
            until(lambda: len(device.server.server_state.connections) == 4)
        # And who closes them may open others.
        until(lambda: not device.server.server_state.connections)
        with connection(device, "127.0.0.2") as one:
            one.sendall(head(device, "GET", "/v1/status", "Connection: close") + b"\r\n\r\n")
            assert rest(one).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/switch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n",
        b"GET " + b"/" * 20000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 40000 + b"\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET http://evil.example/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
    ],
)
def test_what_is_no_honest_request_gets_no_success(hasty, sent):
    with connection(hasty) as one:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            one.sendall(sent)
        found = rest(one)
    assert not found or found.split(b" ", 2)[1].startswith(b"4"), found


@pytest.fixture(scope="module", params=["plain", "tls"])
def either(plan, tmp_path_factory, request):
    with running(plan, tmp_path_factory.mktemp("state") / "service", config={"tls": request.param == "tls"}) as one:
        yield one


def raw(device, *sent):
    """What comes back for bytes, sent piece by piece."""
    scheme, host, port = device.url.replace("//", "").split(":")
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
        if scheme == "https":
            one = stack.enter_context(
                context(host, int(port), device.service.certificate.sha256).wrap_socket(one, server_hostname=host)
            )
        for piece in sent:
            one.sendall(piece)
        return rest(one)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00" * 1000, 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA b\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 40000, 431),
    ],
)
def test_what_is_no_http_is_refused_in_the_form_of_all_refusals(either, sent, status):
    head, _, body = raw(either, sent).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert headers["content-type"] == "application/problem+json"
    assert (headers["connection"], int(headers["content-length"])) == ("close", len(body))
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    document = json.loads(body)
    assert (document["status"], document["type"]) == (status, "about:blank")
    assert document["instance"] == f"urn:geoshift:request:{headers['x-request-id']}"
    assert "RFC 9112" in document["detail"]


def test_a_body_that_turns_into_nonsense_is_refused_once(either):
    start = head(either, "POST", "/v1/switch", "Transfer-Encoding: chunked") + b"\r\n\r\n"
    found = raw(either, start, b"zz\r\n")
    assert found.startswith(b"HTTP/1.1 400")
    assert found.count(b"HTTP/1.1 ") == 1
    assert b"application/problem+json" in found


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../v1/tokens",
        "/v1/%2e%2e/v1/tokens",
        "//v1/tokens",
        "/v1/./tokens",
        "/v1/tokens%00",
        "/v1%2ftokens",
        "/v1/tokens%0d%0aX: y",
        "/v1\\tokens",
        "/v1/%252e%252e/tokens",
        "/" + "a" * 3000,
    ],
)
def test_a_path_that_plays_tricks_is_refused_with_and_without_a_token(device, path):
    for token in (f"Authorization: Bearer {device.token()}", "X: y"):
        with connection(device) as one:
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}\r\n\r\n".encode())
            found = rest(one)
        assert found.split(b" ", 2)[1] in {b"400", b"414", b"404"}, found
        assert b"digest" not in found


def test_a_packed_body_is_not_unpacked(device):
    with device.http() as http:
        answer = http.post("/v1/switch", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 415


def test_answers_are_for_nobody_s_cache_frame_or_guess(device):
    with device.http() as http:
        for path in ("/v1/status", "/nothing", "/healthz"):
            headers = http.get(path).headers
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "Server" not in headers
            assert "Access-Control-Allow-Origin" not in headers
