"""The device's page in a real Chromium: log in, switch, watch the walk, log out; by mouse, by keyboard, on a phone."""

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from runtime.service.tokens import Scope
from tests.service.running import running

PACE = {"writes__increments_per_second": 2.0, "writes__stall_budget_ms": 1e9}
"""A walk of a few increments that one can watch."""
ENERGY = {
    name: {"value": value, "provenance": "assumed", "source": "a test"}
    for name, value in {"idle_w": 2.5, "joules_per_mac": 1e-3, "joules_per_byte_written": 1e-6}.items()
}


@pytest.fixture(scope="module")
def device(plan, tmp_path_factory):
    with running(plan, tmp_path_factory.mktemp("state") / "service", pace=PACE, energy=ENERGY) as one:
        yield one


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    return Path(tmp_path_factory.mktemp("shots"))


def wait(browser, condition):
    return WebDriverWait(browser, 30, 0.05).until(lambda driver: condition(driver))


def text(browser, name):
    return browser.find_element(By.ID, name).text


def log_in(browser, device, scope=Scope.SWITCH):
    browser.get(device.url)
    wait(browser, lambda driver: driver.find_element(By.ID, "token").is_displayed())
    browser.find_element(By.ID, "token").send_keys(device.token(scope), Keys.ENTER)
    wait(browser, lambda driver: text(driver, "mode"))
    wait(browser, lambda driver: text(driver, "link") == "live")


def log_out(browser):
    browser.find_element(By.ID, "leave").click()
    wait(browser, lambda driver: driver.find_element(By.ID, "token").is_displayed())


def test_a_wrong_token_is_told_and_shows_nothing(browser, device):
    browser.get(device.url)
    wait(browser, lambda driver: driver.find_element(By.ID, "token").is_displayed())
    browser.find_element(By.ID, "token").send_keys("gs_000000000000_wrong", Keys.ENTER)
    wait(browser, lambda driver: "does not know" in text(driver, "refused"))
    assert not browser.find_element(By.ID, "board").is_displayed()


def test_a_mode_is_clicked_confirmed_walked_to_and_committed(browser, device, shots):
    log_in(browser, device)
    assert text(browser, "mode") == "C1"
    x = device.service.device.bundle.evaluation.inputs[:1]
    for _ in range(20):
        device.service.device.infer(x)
    device.service.device.poll()
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Switch to C2']").click()
    assert text(browser, "question") == "Switch from C1 to C2?"
    browser.find_element(By.CSS_SELECTOR, "button[value=no]").click()
    assert device.service.device.operations() == ()
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Switch to C2']").click()
    browser.find_element(By.ID, "yes").click()
    wait(browser, lambda driver: "walking to C2" in text(driver, "phase"))
    shares = set()

    def moving(driver):
        circle = driver.execute_script("const c = document.querySelector('circle'); return c && c.dataset.share")
        shares.add(float(circle or 0))
        return len([share for share in shares if 0 < share < 1]) >= 2

    wait(browser, moving)
    browser.save_screenshot(str(shots / "walking.png"))
    wait(browser, lambda driver: text(driver, "mode") == "C2" and text(driver, "phase") == "idle")
    browser.save_screenshot(str(shots / "committed.png"))
    assert "C1 → C2: committed" in text(browser, "operations")
    assert "manual: tester" in text(browser, "why")
    log_out(browser)


def test_a_walk_is_paused_and_cancelled_by_keyboard_alone(browser, device):
    log_in(browser, device)
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Switch to C3']").send_keys(Keys.ENTER)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait(browser, lambda driver: "walking" in text(driver, "phase"))
    pause = browser.find_element(By.CSS_SELECTOR, "[data-act=pause]")
    wait(browser, lambda driver: pause.is_enabled())
    pause.send_keys(Keys.SPACE)
    wait(browser, lambda driver: "paused" in text(driver, "phase"))
    browser.find_element(By.CSS_SELECTOR, "[data-act=cancel]").send_keys(Keys.ENTER)
    wait(browser, lambda driver: "C2 → C3: cancelled" in text(driver, "operations"))
    assert text(browser, "mode") == "C2"
    log_out(browser)


def test_figures_in_which_one_is_assumed_are_marked_and_say_where_they_come_from(browser, device):
    log_in(browser, device)
    assert text(browser, "power").endswith(" W, estimated, assumed")
    assert text(browser, "basis") == "estimated, assumed"
    assert text(browser, "assumed") == "* rests on a figure that the profile says is assumed"
    cells = browser.find_elements(By.CSS_SELECTOR, "#modes tr[data-mode=C1] td")
    accuracy, power, energy = cells[2:5]
    assert power.text.endswith(" W*")
    assert energy.text.endswith(" J*")
    assert "*" not in accuracy.text
    assert "joules_per_mac assumed: a test" in energy.get_attribute("title")
    log_out(browser)


def test_what_the_device_refuses_is_told_in_its_words(browser, device):
    log_in(browser, device, Scope.READ)
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Switch to C1']").click()
    browser.find_element(By.ID, "yes").click()
    wait(browser, lambda driver: "expected switch" in text(driver, "said"))
    log_out(browser)


def test_text_of_strangers_is_shown_as_text(browser, device):
    device.service.device.hold("C2", who="<img src=x onerror=alert(1)>", reason="<script>1</script>", ttl_s=None)
    log_in(browser, device)
    wait(browser, lambda driver: "<script>1</script>" in text(driver, "holds"))
    assert browser.find_elements(By.CSS_SELECTOR, "#holds img, #holds script") == []
    browser.find_element(By.CSS_SELECTOR, "#holds button").click()
    browser.find_element(By.ID, "yes").click()
    wait(browser, lambda driver: text(driver, "holds") == "No holds")
    log_out(browser)


def test_it_comes_back_after_a_reload_and_keeps_nothing_in_storage(browser, device):
    log_in(browser, device)
    assert browser.execute_script("return document.cookie + localStorage.length + sessionStorage.length") == "00"
    (cookie,) = browser.get_cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    browser.refresh()
    wait(browser, lambda driver: text(driver, "link") == "live")
    # The number of the session has come back too.
    browser.find_element(By.ID, "auto").click()
    browser.find_element(By.ID, "yes").click()
    wait(browser, lambda driver: "default" in text(driver, "why"))
    wait(browser, lambda driver: text(driver, "mode") == "C1" and text(driver, "phase") == "idle")
    log_out(browser)


def test_it_fits_a_phone(browser, device, shots):
    browser.set_window_size(500, 900)  # Chromium's least width; the page is measured at a phone's
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    log_in(browser, device)
    wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0
    for button in browser.find_elements(By.CSS_SELECTOR, "button"):
        if button.is_displayed():
            assert button.size["height"] >= 44, button.text
    browser.save_screenshot(str(shots / "phone.png"))
    log_out(browser)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.set_window_size(1200, 1000)


def test_nothing_was_refused_by_the_policy_and_nothing_came_from_elsewhere(browser, device):
    log_in(browser, device)
    found = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert found
    assert all(one.startswith((device.url, "data:")) for one in found)
    # Refused requests of the tests above are in the console too, and are meant to be.
    severe = [one["message"] for one in browser.get_log("browser") if one["level"] == "SEVERE"]
    assert [one for one in severe if "status of 4" not in one] == []
    log_out(browser)
