"""The page as a browser shows it: headless Chromium, where it is installed."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER and importlib.util.find_spec("selenium")),
    reason="needs Chromium, chromedriver and selenium",
)


@pytest.fixture(scope="module")
def browser(reported: Path) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        driver.get((reported / "report.html").as_uri())
        yield driver
    finally:
        driver.quit()


def shots(browser: Any) -> list[Any]:
    return browser.find_elements("css selector", "button.shot")


def choose(browser: Any, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", name)).select_by_value(value)


def test_names_stay_text_and_nothing_is_asked_for(browser: Any, reported: Path) -> None:
    assert browser.title == f"{reported.name} · report"
    requests = [
        entry["message"]
        for entry in browser.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert requests
    assert all('"url":"file:' in request or '"url":"data:' in request for request in requests)
    assert browser.get_log("browser") == []
    assert "<img src=" in browser.find_element("id", "objects-section").text


def test_filters_and_sorting_choose_what_is_shown(browser: Any) -> None:
    data = "JSON.parse(document.getElementById('gallery-data').textContent).images"
    assert len(shots(browser)) == 8
    choose(browser, "head", "count")
    losses = browser.execute_script(f"return {data}.map(image => image.heads.count.loss)")
    row = ".//tr[th='count']/td[@class='loss']"
    shown = [float(shot.find_element("xpath", row).text) for shot in shots(browser)]
    assert shown == pytest.approx(sorted(losses, reverse=True), abs=0.006)
    choose(browser, "kind", "no error")
    right = browser.execute_script(f"return {data}.filter(image => !image.heads.count.kinds.length).length")
    assert 0 < len(shots(browser)) == right < 8
    choose(browser, "kind", "")
    choose(browser, "head", "objects")
    choose(browser, "class", "washer")
    washers = browser.execute_script(
        f"return {data}.filter(image => image.heads.objects.classes.includes('washer')).length"
    )
    assert len(shots(browser)) == washers
    choose(browser, "class", "")
    choose(browser, "head", "")
    assert len(shots(browser)) == 8


def test_a_click_enlarges_and_arrows_go_on(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    name = browser.find_element("id", "name")
    shots(browser)[0].click()
    assert browser.find_element("id", "viewer").is_displayed()
    assert name.text.startswith("1 of 8")
    body = browser.find_element("tag name", "body")
    for key, expected in (
        (Keys.ARROW_RIGHT, "2 of 8"),
        (Keys.ARROW_LEFT, "1 of 8"),
        (Keys.ARROW_LEFT, "8 of 8"),
    ):
        body.send_keys(key)
        assert name.text.startswith(expected)
    body.send_keys(Keys.ESCAPE)
    assert not browser.find_element("id", "viewer").is_displayed()


def test_the_button_turns_the_theme_and_tables_sort(browser: Any) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(ground)
    button = browser.find_element("id", "theme")
    button.click()
    assert browser.execute_script(ground) != before
    button.click()
    assert browser.execute_script(ground) == before
    table = browser.find_element("css selector", "#objects-section table.sortable")
    head = table.find_elements("css selector", "th button")[1]
    for reverse in (True, False):
        head.click()
        cells = [int(cell.text) for cell in table.find_elements("css selector", "tbody td:nth-child(2)")]
        assert cells == sorted(cells, reverse=reverse)


def test_a_phones_page_does_not_scroll_sideways(browser: Any) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert browser.get_log("browser") == []
