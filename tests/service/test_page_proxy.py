"""The proxy of ``geoshift open``: hostile bytes are refused, the token goes to nobody else, proxies share a browser."""

import socket
import threading
from contextlib import contextmanager

import httpx
import pytest

from runtime.client import Client
from runtime.desktop.channel import Channel, RequestRefused
from runtime.desktop.page_proxy import Proxy
from runtime.service.tokens import Scope
from tests.runtime.threads import PATIENCE_S
from tests.service.running import running


@pytest.fixture(scope="module")
def device(plan, tmp_path_factory):
    with running(plan, tmp_path_factory.mktemp("state") / "service") as one:
        yield one


@contextmanager
def proxied(device):
    """A proxy that serves, and the number that leads in."""
    with Client(device.url, device.token(Scope.SWITCH)) as client:
        one = Proxy(client.channel)
        thread = threading.Thread(target=one.serve)
        thread.start()
        try:
            yield one, one._once
        finally:
            one.stop()
            thread.join()


@pytest.fixture
def entered(device):
    """A proxy, and the cookie of a browser that is in."""
    with proxied(device) as (proxy, once):
        yield proxy, f"{proxy.cookie_name}={proxy.enter(once)}"


def answered(proxy, *lines, body=b""):
    """The first line of what the proxy says to these lines of a request."""
    host, port = proxy.host.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as link, link.makefile("rb") as file:
        link.sendall(b"\r\n".join([*(line.encode("latin-1") for line in lines), b"", body]))
        return file.read().partition(b"\r\n")[0].decode()


def test_the_token_goes_to_no_other_host(entered):
    proxy, cookie = entered
    with socket.create_server(("127.0.0.1", 0)) as evil:
        evil.setblocking(False)
        address = f"127.0.0.1:{evil.getsockname()[1]}"
        for target in (f"http://{address}/steal", f"//{address}/steal", f"@{address}/", f"{address}/", "*", "x"):
            said = answered(proxy, f"GET {target} HTTP/1.1", f"Host: {proxy.host}", f"Cookie: {cookie}")
            assert said.split()[1] in {"400", "404"}, (target, said)
        with pytest.raises(BlockingIOError):
            evil.accept()


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/x", "//evil.example/x", "@evil.example/", "x", ""])
def test_a_channel_asks_nobody_but_its_device(target):
    channel = Channel("http://127.0.0.1:9", "secret", "")
    for ask in (
        lambda: channel.ask("GET", target),
        lambda: channel.succeeds(target),
        lambda: next(channel.lines(target, {})),
        lambda: channel.passed_on("GET", target, {}, b"").__enter__(),
    ):
        with pytest.raises(RequestRefused, match="expected a path of the device"):
            ask()
    channel.close()


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1_0", "\xb2", "", "65537", "0x10"])
def test_a_length_that_no_page_sends_is_refused(entered, capfd, length):
    proxy, cookie = entered
    for target in ("/enter", "/v1/holds"):
        said = answered(
            proxy, f"POST {target} HTTP/1.1", f"Host: {proxy.host}", f"Cookie: {cookie}",
            f"Origin: http://{proxy.host}", f"Content-Length: {length}",
        )  # fmt: skip
        assert said.split()[1] == "413"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("line", ["GET /v1/status?\x7f\xff HTTP/1.1", "GET /\xe9 HTTP/1.1", "GET /\x00 HTTP/1.1"])
def test_a_target_that_is_no_text_is_refused(entered, capfd, line):
    proxy, cookie = entered
    assert answered(proxy, line, f"Host: {proxy.host}", f"Cookie: {cookie}").split()[1] == "400"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("header", ["Accept: \xff", "Last-Event-ID: a\x00b", "Idempotency-Key: \x7f"])
def test_a_header_that_is_no_text_is_refused(entered, capfd, header):
    proxy, cookie = entered
    assert answered(proxy, "GET / HTTP/1.1", f"Host: {proxy.host}", f"Cookie: {cookie}", header).split()[1] == "400"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("form", [b"a=1&b=2&c=3&d=4", b"once=%ff", b"once=\xff", b"", b"=", b"once"])
def test_a_form_that_is_not_the_way_in_is_refused(device, capfd, form):
    with proxied(device) as (proxy, once):
        lines = ("POST /enter HTTP/1.1", f"Host: {proxy.host}", f"Content-Length: {len(form)}")
        assert answered(proxy, *lines, body=form).split()[1] == "403"
        assert proxy.enter(once) is not None
    assert capfd.readouterr().err == ""


def test_two_proxies_share_a_browser(device):
    with proxied(device) as one, proxied(device) as other, httpx.Client(trust_env=False) as browser:
        for proxy, once in (one, other):
            assert browser.post(f"http://{proxy.host}/enter", data={"once": once}).status_code == 200
        for proxy, _ in (one, other):
            assert browser.get(f"http://{proxy.host}/v1/status").status_code == 200
