"""A real Chromium, from Debian's packages ``chromium`` and ``chromium-driver``."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.runtime.bundles import write_bundle


@pytest.fixture(scope="session")
def plan(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("browser") / "plan")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--disable-extensions",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    driver.set_window_size(1200, 1000)
    yield driver
    driver.quit()
