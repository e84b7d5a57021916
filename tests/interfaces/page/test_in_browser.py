"""The page in Debian's Chromium: searching, captions of an uploaded picture, errors, signing in, two widths, the keyboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http_service import WAIT, RunningService

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("needs a browser: apt-get install chromium chromium-driver", allow_module_level=True)

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra test")
keys = webdriver.Keys

KEY = "a-secret-key"
PICTURES = [Path(entry["path"]) for entry in gallery()]
WIDE, PHONE = (1200, 1000), (400, 860)
TABS = ("Search", "Match", "Caption", "Ask", "Explain")

# What is shown beside the screen.
OUTSIDE = """return [...document.querySelectorAll('button, input, textarea, img, p')]
    .filter(each => each.checkVisibility()).map(each => [each.outerHTML, each.getBoundingClientRect()])
    .filter(([_, at]) => at.width > 1 && (at.left < 0 || at.right > arguments[0] + 1)).map(([html, _]) => html)"""

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --no-proxy-server --disable-dev-shm-usage"
)


class Browser:
    """A browser, and how to wait for what it shows."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in (*OPTIONS.split(), f"--user-data-dir={profile}", f"--window-size={WIDE[0]},{WIDE[1]}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def wait(self, condition: Callable[[], Any]) -> Any:
        """The first value of a condition that is true. What the page replaces meanwhile is looked for again."""
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, WAIT, 0.1, [WebDriverException]).until(lambda _: condition())

    def all(self, selector: str) -> list[Any]:
        """What is shown of a CSS selector."""
        found = self.driver.find_elements("css selector", selector)
        return [each for each in found if each.is_displayed()]

    def first(self, selector: str) -> Any:
        return self.wait(lambda: self.all(selector))[0]

    def text(self, selector: str) -> str:
        return self.wait(lambda: self.first(selector).text)

    def click(self, text: str, selector: str = "button") -> None:
        self.wait(lambda: [each.click() or True for each in self.all(selector) if each.text.strip() == text])

    def open(self, url: str, size: tuple[int, int] = WIDE) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size is PHONE},
        )
        self.driver.get(url)

    def requests(self) -> set[str]:
        """The addresses of all requests since the last call."""
        messages = [json.loads(each["message"])["message"] for each in self.driver.get_log("performance")]
        return {each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    try:
        yield started
    finally:
        started.driver.quit()


def captions(browser: Browser) -> list[str]:
    return browser.wait(lambda: [each.text for each in browser.all("#search-results .caption-label")])


def test_a_newcomer_finds_the_teddy_bear(browser: Browser, service: RunningService) -> None:
    browser.requests()
    browser.open(service.url)
    browser.first("#search-words textarea, #search-words input").send_keys("a teddy bear", keys.ENTER)
    found = captions(browser)
    assert len(found) == 12 and found[0].endswith("a teddy bear on a skateboard")
    shown = "return [...document.querySelectorAll('#search-results img')].every(each => each.naturalWidth > 0)"
    browser.wait(lambda: browser.driver.execute_script(shown))
    # A click shows where the words are.
    browser.first("#search-results button.thumbnail-item").click()
    words = browser.wait(lambda: [each.text for each in browser.all("#search-maps .caption-label")])
    assert words == ["the picture", "a", "teddy", "bear"]
    # No request left the machine: no fonts, no scripts, no statistics.
    asked = [
        url for url in browser.requests() if not url.startswith(("chrome:", "chrome-untrusted:", "data:", "blob:"))
    ]
    assert len(asked) > 20 and [url for url in asked if not url.startswith(f"{service.url}/")] == []


def test_the_caption_of_an_uploaded_picture(browser: Browser, service: RunningService, tmp_path: Path) -> None:
    browser.open(service.url)
    browser.click("Caption", "[role=tab]")
    clear = "#caption-picture .icon-button"
    browser.first(clear).click()
    browser.click("Caption", "button.primary")
    assert browser.text("#caption-message [role=alert]") == "Choose a picture first."
    expected = ite.load("blip_demo").caption(PICTURES[11])
    upload = "#caption-picture input[type=file]"
    browser.wait(lambda: browser.driver.find_elements("css selector", upload))[0].send_keys(str(PICTURES[11]))
    browser.first(clear)
    browser.click("Caption", "button.primary")
    assert browser.text("#caption-result .sentence") == expected and not browser.all("#caption-message [role=alert]")
    # A file that is no picture, whatever its name says.
    broken = tmp_path / "broken.png"
    broken.write_text("this is no picture")
    browser.first(clear).click()
    browser.wait(lambda: browser.driver.find_elements("css selector", upload))[0].send_keys(str(broken))
    browser.first(clear)
    browser.click("Caption", "button.primary")
    assert browser.text("#caption-message [role=alert]").startswith("Expected a picture (JPEG, PNG")
    assert not browser.all("#caption-result .sentence")


def test_the_keyboard_is_enough(browser: Browser, service: RunningService) -> None:
    browser.open(service.url)
    box = browser.first("#search-words textarea, #search-words input")
    box.send_keys("a teddy bear", keys.ENTER)
    captions(browser)
    for _ in range(12):
        browser.driver.switch_to.active_element.send_keys(keys.TAB)
        focused = browser.driver.switch_to.active_element
        if "thumbnail-item" in focused.get_attribute("class"):
            break
    focused.send_keys(keys.ENTER)
    assert browser.text("#search-explained").startswith("“a teddy bear” matches")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_tab_fits_the_screen(browser: Browser, service: RunningService, size: tuple[int, int]) -> None:
    browser.open(service.url, size)
    browser.first("#search-words")
    assert [each.text for each in browser.all("[role=tab]")] == list(TABS)
    for tab in TABS:
        browser.click(tab, "[role=tab]")
        if tab != "Search":
            browser.click(tab, "button.primary")
            browser.wait(lambda tab=tab: browser.all(f"#{tab.lower()}-result p, #{tab.lower()}-result li"))
        width = browser.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= size[0], tab
        assert browser.driver.execute_script(OUTSIDE, size[0]) == [], tab


def test_signing_in(browser: Browser, locked: RunningService) -> None:
    browser.open(locked.url)
    browser.first("#key").send_keys("another", keys.ENTER)
    assert browser.text("[role=alert]").startswith("This is not the key of this server.")
    browser.first("#key").send_keys(KEY, keys.ENTER)
    browser.first("#search-words textarea, #search-words input").send_keys("a teddy bear", keys.ENTER)
    assert captions(browser)[0].endswith("a teddy bear on a skateboard")
