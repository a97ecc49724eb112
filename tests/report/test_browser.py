"""The report in a real browser: every control works, the console stays empty, and nothing else is requested.

Screenshots are written to build/report. Needs Chromium with its driver, and selenium.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rescompile import elaborate, load
from rescompile.report.comparison import overview
from rescompile.report.facts import Subject, facts
from rescompile.report.page import comparison_page, network_page
from rescompile.report.results import Measurements

pytestmark = [pytest.mark.slow, pytest.mark.process]
webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
if CHROMIUM is None or DRIVER is None:
    pytest.skip("Chromium with chromedriver is not installed", allow_module_level=True)

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--hide-scrollbars", "--window-size=1500,1100", "--force-device-scale-factor=1",
)  # fmt: skip
SHOTS = Path(__file__).parents[2] / "build" / "report"
UNET = """
rescompile: 1
name: unet
input: [3, 64, 64]
block: basic
network:
  - conv1: {conv: {channels: 16, kernel: 3}}
  - parallel:
      merge: concat
      branches: [identity, [{encode: {depth: 2, width: 32, stride: 2}}, {upsample: 2}]]
  - decode: {depth: 2, width: 16}
  - head: {conv: {channels: 2, kernel: 1, bias: true}}
"""


class Browser:
    """Chromium with one page."""

    def __init__(self, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (*ARGUMENTS, f"--user-data-dir={folder}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, path: Path) -> None:
        """Load a page, without animations."""
        self.messages()
        self.driver.get(path.as_uri())
        self.script("document.documentElement.style.scrollBehavior = 'auto'")

    def script(self, text: str, *arguments: Any) -> Any:
        """Run a script and return its result."""
        return self.driver.execute_script(text, *arguments)

    def all(self, selector: str) -> list[Any]:
        """Return the elements of a selector."""
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def click(self, selector: str) -> None:
        """Click the first visible element of a selector."""
        element = next(each for each in self.all(selector) if each.is_displayed())
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def text(self, selector: str) -> str:
        """Return the text of the first element of a selector."""
        return str(self.all(selector)[0].text)

    def box(self) -> list[float]:
        """Return the view box of the picture."""
        return [
            float(each)
            for each in self.script("return document.querySelector('#picture').getAttribute('viewBox')").split()
        ]

    def keep(self, name: str) -> None:
        """Write a screenshot."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    def messages(self) -> tuple[list[str], list[str]]:
        """Return the console messages and the requested URLs since the last call."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return console, sent


def subject(name: str) -> Subject:
    """Return a network of the zoo with its description."""
    spec = load(name)
    return Subject(elaborate(spec), {"description": spec.description})


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return one browser for all tests, with an empty profile."""
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the report of ResNet-50."""
    path = tmp_path_factory.mktemp("report") / "resnet50.html"
    path.write_text(network_page(facts(subject("resnet50"), Measurements())), "utf-8")
    return path


@pytest.fixture(autouse=True)
def _quiet(browser: Browser) -> Iterator[None]:
    """Check after each test that the console is empty and only the page itself was requested."""
    yield
    console, sent = browser.messages()
    assert console == []
    assert all(address.startswith("file:") and address.endswith(".html") for address in sent)


def test_rows_of_the_picture_fold(browser: Browser, page: Path) -> None:
    """All rows, or a single one, can be folded and unfolded, by mouse and keyboard, without overlaps."""
    browser.open(page)
    browser.keep("light")
    folded = browser.script("return document.querySelectorAll('.item.open').length")
    browser.click("#unfold")
    opened = browser.script("return document.querySelectorAll('.item.open').length")
    assert (folded, opened) == (0, 6)
    browser.keep("unfolded")
    browser.click("#fold")
    browser.click("#picture .item:nth-child(4) .folded .switch")
    assert browser.script("return [...document.querySelectorAll('.item.open')].length") == 1
    tops = browser.script(
        "return [...document.querySelectorAll('.item')].map((e) => [e.getBoundingClientRect().top, e.getBoundingClientRect().bottom])"
    )
    assert all(one[1] <= two[0] + 1 for one, two in itertools.pairwise(tops))
    browser.all("#picture .item.open .unfolded .switch")[0].send_keys(Keys.ENTER)
    assert browser.script("return document.querySelectorAll('.item.open').length") == 0


def test_the_picture_can_be_moved(browser: Browser, page: Path) -> None:
    """The picture can be moved and zoomed by buttons, keys, wheel and mouse, and reset."""
    browser.open(page)
    browser.click("#fit")
    start = browser.box()
    browser.click("#zoom-in")
    assert browser.box()[3] < start[3]
    browser.click("#zoom-out")
    browser.click("#width")
    assert browser.box()[2] == browser.script("return document.querySelector('#view').clientWidth")
    view = browser.all("#view")[0]
    for key, axis, sign in (
        (Keys.ARROW_LEFT, 0, -1),
        (Keys.ARROW_RIGHT, 0, 1),
        (Keys.ARROW_UP, 1, -1),
        (Keys.ARROW_DOWN, 1, 1),
    ):
        before = browser.box()
        view.send_keys(key)
        assert sign * (browser.box()[axis] - before[axis]) > 0
    before = browser.box()
    view.send_keys("+")
    assert browser.box()[3] < before[3]
    view.send_keys("-")
    actions = webdriver.ActionChains(browser.driver)
    before = browser.box()
    actions.move_to_element_with_offset(view, -300, 0).click_and_hold().move_by_offset(60, 40).release().perform()
    assert browser.box()[0] < before[0]
    before = browser.box()
    actions.key_down(Keys.CONTROL).scroll_from_origin(
        webdriver.common.actions.wheel_input.ScrollOrigin.from_element(view), 0, -200
    ).key_up(Keys.CONTROL).perform()
    assert browser.box()[3] < before[3]
    view.send_keys("0")
    assert browser.box() == pytest.approx(start)


def test_details(browser: Browser, page: Path) -> None:
    """Selecting a card by mouse or keyboard shows its shapes and costs and marks its lines of the spec."""
    browser.open(page)
    browser.script(
        "document.querySelectorAll('#picture .folded [data-key]')[1].dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    details = browser.text("#details")
    for words in ("layer1", "64x56x56", "256x56x56", "215,808", "Unfold the row", "depth: 3"):
        assert words in details
    assert "layer1:" in browser.text("#spec-text .on")
    browser.click("#details .actions button")
    assert "Fold the row" in browser.text("#details")
    browser.click("#details .actions button:nth-child(2)")
    card = browser.all("#picture [tabindex='0'][data-key]")[0]
    card.send_keys(Keys.ARROW_DOWN)
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.text("#details h3").startswith("layer1.0")


def test_search(browser: Browser, page: Path) -> None:
    """Search shows the details of a layer and selects its card, also for a copy that is drawn only as part of a group."""
    browser.open(page)
    browser.all("body")[0].send_keys("/")
    field = browser.driver.switch_to.active_element
    field.send_keys("layer3.4.conv2")
    browser.keep("search")
    field.send_keys(Keys.ENTER)
    assert browser.text("#details h3") == "layer3.4.conv2"
    assert browser.all("#picture .selected")
    assert "3×3 conv, 256" in browser.text("#details")
    browser.keep("details")
    field.clear()
    field.send_keys("no such layer")
    assert "No layer" in browser.text("#matches")
    field.send_keys(Keys.ESCAPE)
    assert not browser.all("#matches")[0].is_displayed()
    field.send_keys("conv")
    for key in (Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP):
        field.send_keys(key)
    assert browser.all("#matches li[aria-selected=true]")[0].get_attribute("id") == "match-1"
    field.send_keys(Keys.ESCAPE)


#: The value and the text of each cell in a column of a table.
CELLS = "return [...arguments[0].tBodies[0].rows].map(({cells}) => cells[arguments[1]]).map((cell) => [cell.dataset.v, cell.textContent])"


def sort_key(value: str | None, text: str) -> tuple[bool, float, str]:
    """Return what a cell is sorted by: its value or a number in its text, before other texts."""
    number = value or text.replace(",", "")
    if re.fullmatch(r"-?[\d.]+", number):
        return False, float(number), ""
    return True, 0.0, text


def test_tables(browser: Browser, page: Path) -> None:
    """Every column can be sorted, and the filters show the matching layers."""
    browser.open(page)
    for table in browser.all("table.sortable"):
        for column, head in enumerate(table.find_elements(By.CSS_SELECTOR, ".sort")):
            directions = []
            for _ in range(2):
                browser.script("arguments[0].click()", head)
                cells = browser.script(CELLS, table, column)
                keys = [sort_key(value, text) for value, text in cells]
                directions.append(head.find_element(By.XPATH, "./ancestor::th").get_attribute("aria-sort"))
                assert keys == sorted(keys, reverse=directions[-1] == "descending"), (column, directions[-1])
            assert sorted(directions) == ["ascending", "descending"]
    macs = "#layer-table thead th:nth-child(7) .sort"
    browser.script(f"document.querySelector('{macs}').click()")
    values = browser.script(
        "return [...document.querySelectorAll('#layer-table tbody tr')].map((row) => Number(row.cells[6].dataset.v))"
    )
    assert values in (sorted(values), sorted(values, reverse=True))
    assert browser.text("#shown-layers") == "159 of 159"
    browser.click("#weighted")
    assert browser.text("#shown-layers") == "107 of 159"
    browser.all("#filter")[0].send_keys("layer4 3×3")
    assert browser.text("#shown-layers") == "3 of 159"
    browser.click("#layer-table tbody tr:not([hidden]) .link")
    assert browser.text("#details h3").endswith("conv2")
    browser.click("#row-table .link")
    assert browser.text("#details h3")


def test_colours(browser: Browser, page: Path) -> None:
    """The themes automatic, dark and light apply to page and picture; a printed page is light and has no controls."""
    browser.open(page)
    seen = []
    for _ in range(3):
        browser.click("#theme")
        seen.append((browser.text("#theme-name"), browser.script(
            "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('#picture .card')).fill]"
        )))  # fmt: skip
        browser.keep(f"theme_{browser.text('#theme-name')}")
    assert [name for name, _ in seen] == ["dark", "light", "automatic"]
    assert seen[0][1] != seen[1][1] == seen[2][1]
    browser.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert browser.script("return getComputedStyle(document.body).backgroundColor") == seen[0][1][0]
    browser.click("#theme")
    browser.click("#theme")
    assert browser.script("return getComputedStyle(document.body).backgroundColor") == seen[1][1][0]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert not browser.all("header")[0].is_displayed()
    assert not any(switch.is_displayed() for switch in browser.all("#picture .switch"))
    assert browser.script("return getComputedStyle(document.body).backgroundColor") == seen[1][1][0]
    browser.keep("print")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_links_and_titles(browser: Browser, page: Path) -> None:
    """Each link leads to a section, every control has an accessible name, and the page is not wider than the window."""
    browser.open(page)
    for link in browser.all("nav a"):
        link.click()
        assert browser.all(link.get_attribute("hash"))
    for summary in browser.all("summary"):
        browser.script("arguments[0].scrollIntoView()", summary)
        summary.click()
    unnamed = browser.script(
        "return [...document.querySelectorAll('button, input, [role=button], [role=img], section')].filter((e) => "
        "!(e.textContent.trim() || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.closest('label'))).length"
    )
    assert unnamed == 0
    for width in (1500, 800, 420):
        browser.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        assert browser.script("return document.documentElement.scrollWidth") <= width
        browser.keep(f"width_{width}")
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("name", ["preact_resnet1001_cifar", "unet"])
def test_other_networks(browser: Browser, name: str, tmp_path: Path) -> None:
    """Pages of a thousand layers, and of merges among rows, unfold and show the details of their cards."""
    path = tmp_path / f"{name}.html"
    spec = tmp_path / "unet.yaml"
    spec.write_text(UNET)
    found = subject(str(spec) if name == "unet" else name)
    path.write_text(network_page(facts(found, Measurements())), "utf-8")
    browser.open(path)
    browser.click("#unfold")
    browser.script("document.querySelector('#network').scrollIntoView()")
    browser.keep(name)
    for card in browser.all("#picture .open .unfolded [data-key]")[:40]:
        browser.script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", card)
        assert browser.all("#details dl")


def test_a_comparison(browser: Browser, tmp_path: Path) -> None:
    """On the page of a comparison, columns can be clicked and pictures opened without errors."""
    path = tmp_path / "several.html"
    named = [subject(name) for name in ("resnet50", "resnet50_D", "resnet101")]
    path.write_text(comparison_page(overview(named, [Measurements()] * 3)), "utf-8")
    browser.open(path)
    browser.keep("comparison")
    for head in browser.all(".sort"):
        browser.script("arguments[0].click()", head)
    for summary in browser.all("summary"):
        browser.script("arguments[0].scrollIntoView({block: 'center'})", summary)
        summary.click()
    assert browser.all("details[open]")
