"""``geoshift open``: a real Chromium sees a device whose certificate it could never trust; nobody else gets in."""

import threading

import httpx
import pytest
from selenium.webdriver.common.by import By

from runtime.client import Client
from runtime.desktop.page_proxy import Proxy
from runtime.service.tokens import Scope
from tests.browser.test_page import text, wait
from tests.service.running import running


@pytest.fixture(scope="module")
def device(plan, tmp_path_factory):
    with running(plan, tmp_path_factory.mktemp("state") / "service", config={"tls": True}) as one:
        yield one


@pytest.fixture
def proxy(device):
    with Client(device.url, device.token(Scope.SWITCH), device.service.certificate.sha256) as client:
        one = Proxy(client.channel)
        thread = threading.Thread(target=one.serve)
        thread.start()
        yield one
        one.stop()
        thread.join()


def test_the_page_opens_switches_and_follows(browser, device, proxy, tmp_path):
    place = proxy.way_in(tmp_path / "open.html")
    assert place.stat().st_mode & 0o777 == 0o600
    browser.get(place.as_uri())
    wait(browser, lambda driver: text(driver, "link") == "live")
    assert browser.current_url == f"http://{proxy.host}/"
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Switch to C2']").click()
    browser.find_element(By.ID, "yes").click()
    wait(browser, lambda driver: text(driver, "mode") == "C2" and text(driver, "phase") == "idle")
    assert device.service.device.status().mode == "C2"
    (cookie,) = browser.get_cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    # The way in worked once.
    browser.delete_all_cookies()
    browser.get(place.as_uri())
    wait(browser, lambda driver: "used already" in driver.page_source)
    browser.get("about:blank")


def test_nobody_else_gets_in(device, proxy, tmp_path):
    place = proxy.way_in(tmp_path / "open.html")
    once = place.read_text().split('value="')[1].split('"')[0]
    with httpx.Client(base_url=f"http://{proxy.host}", trust_env=False) as http:
        for method, path in (("GET", "/"), ("GET", "/v1/status"), ("POST", "/v1/switch"), ("DELETE", "/v1/holds/x")):
            assert http.request(method, path).status_code == 401
            assert http.request(method, path, headers={"Cookie": f"{proxy.cookie_name}=x"}).status_code == 401
        assert http.get("/v1/status", headers={"Host": "evil.example"}).status_code == 421
        assert http.get("/v1/status", headers={"Host": "localhost" + proxy.host[9:]}).status_code == 421
        assert http.post("/enter", data={"once": "x"}).status_code == 403
        assert http.get(f"/enter?once={once}").status_code == 401
        assert http.post("/enter", data={"once": once}, headers={"Origin": "null"}).status_code == 200
        assert http.get("/v1/status").json()["mode"] in {"C1", "C2"}
        hold = {"mode": "C1", "reason": ""}
        for origin in ({}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": f"https://{proxy.host}"}):
            assert http.post("/v1/holds", json=hold, headers=origin).status_code == 403
        assert device.service.device.holds() == ()
        mine = {"Origin": f"http://{proxy.host}"}
        assert http.post("/v1/holds", json=hold, headers=mine).status_code == 201
        assert http.post("/v1/holds", content=b"x" * 70000, headers=mine).status_code == 413
        # A token or cookie of the browser's own goes no further.
        assert http.get("/v1/identity", headers={"Authorization": "Bearer x"}).json()["scope"] == "switch"
        assert http.get("/v1/tokens").status_code == 403
    assert once not in device.log.getvalue()
