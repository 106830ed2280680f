"""What the report does in a browser: headless Chromium, if installed."""

import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from analysis import report
from analysis.claims import CLAIMS
from tests.analysis import reports

CHROMIUM = shutil.which("chromium") or ""
DRIVER = shutil.which("chromedriver") or ""

pytestmark = pytest.mark.skipif(
  not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"
)

SWITCHES = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
)

# Every visible text with the least contrast (WCAG 2) of its colour against the
# nearest background that is not transparent.
CONTRASTS = """
const channel = (v) => {
  v /= 255;
  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
};
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) =>
  0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const background = (node) => {
  for (; node; node = node.parentElement) {
    const found = parts(getComputedStyle(node).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
  throw new Error("the page has no background");
};
const result = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
  const pair = [parts(getComputedStyle(node).color), background(node)];
  const [a, b] = pair.map(luminance).sort((x, y) => y - x);
  result.push([(a + 0.05) / (b + 0.05), node.className, node.textContent]);
}
return result;
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  for switch in SWITCHES:
    options.add_argument(switch)
  profile = tmp_path_factory.mktemp("profile")
  options.add_argument(f"--user-data-dir={profile}")
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  # With both paths given Selenium looks for nothing to download.
  browser = webdriver.Chrome(options=options, service=Service(DRIVER))
  yield browser
  browser.quit()


@pytest.fixture(scope="session")
def url(tmp_path_factory):
  path = tmp_path_factory.mktemp("report") / "report.html"
  path.write_text(report.page(reports.example()), encoding="utf-8")
  return path.as_uri()


@pytest.fixture
def browser(driver, url):
  """The page, freshly loaded: light, 1280 px wide, with JavaScript."""
  _emulate(driver)
  driver.get(url)
  return driver


def _emulate(driver, scheme="light", width=1280, media="", script=True):
  for command, arguments in (
    (
      "setDeviceMetricsOverride",
      {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    ),
    (
      "setEmulatedMedia",
      {
        "media": media,
        "features": [
          {"name": "prefers-color-scheme", "value": scheme},
          {"name": "prefers-reduced-motion", "value": "reduce"},
        ],
      },
    ),
    ("setScriptExecutionDisabled", {"value": not script}),
  ):
    driver.execute_cdp_cmd(f"Emulation.{command}", arguments)


def _shown(browser):
  """The claims that the verdict table shows, in order."""
  links = browser.find_elements(By.CSS_SELECTOR, "#verdict-table tbody th a")
  return [
    link.get_attribute("href").split("#claim-")[1]
    for link in links
    if link.is_displayed()
  ]


ALL = [claim.id for claim in reports.CLAIMS]


def _status(browser):
  status = browser.find_element(By.CSS_SELECTOR, "[role=status]")
  return status.text


def test_the_page_logs_no_errors_and_runs_no_name(browser):
  # A hostile name that ran would leave an alert open, which fails here.
  assert browser.get_log("browser") == []
  assert browser.title == f"The study of {reports.HOSTILE}"


def test_every_picture_loads(browser):
  widths = browser.execute_script(
    "return [...document.images].map((image) => image.naturalWidth)"
  )
  assert len(widths) == len(reports.example().pictures)
  assert min(widths) > 0


def test_nothing_is_requested_but_the_page(browser):
  names = browser.execute_script(
    "return performance.getEntriesByType('resource').map((e) => e.name)"
  )
  assert [name for name in names if not name.startswith("data:")] == []


@pytest.mark.parametrize("study", ["mnist", "quick-mnist"])
def test_the_published_report_loads_filters_and_fetches_nothing(driver, study):
  _emulate(driver, width=390)
  path = Path(__file__).parents[2] / "results" / study / "report.html"
  driver.get(path.as_uri())
  assert driver.get_log("browser") == []
  wide, pictures, fetched = driver.execute_script(
    "return [document.documentElement.scrollWidth,"
    " [...document.images].map((image) => image.naturalWidth),"
    " performance.getEntriesByType('resource').map((e) => e.name)]"
  )
  assert wide <= 390
  assert len(pictures) > len(CLAIMS) // 2
  assert min(pictures) > 0
  assert [name for name in fetched if not name.startswith("data:")] == []
  assert _shown(driver) == [claim.id for claim in CLAIMS]
  verdicts = [
    row.get_attribute("data-verdict")
    for row in driver.find_elements(By.CSS_SELECTOR, "#verdict-table tbody tr")
  ]
  wanted = Select(driver.find_element(By.ID, "verdict-filter"))
  wanted.select_by_value("supported")
  supported = [
    claim.id
    for claim, verdict in zip(CLAIMS, verdicts, strict=True)
    if verdict == "supported"
  ]
  assert _shown(driver) == supported
  assert 0 < len(supported) < len(CLAIMS)


@pytest.mark.parametrize(
  ("verdict", "expected"),
  [
    ("supported", ["counted", "high-beats-low"]),
    ("refuted", ["low-is-large"]),
    ("equivalent", ["low-is-above-zero"]),
    ("inconclusive", ["wide-is-small"]),
    ("not tested", ["nobody-measured"]),
  ],
)
def test_the_filter_shows_one_verdict(browser, verdict, expected):
  assert _shown(browser) == ALL
  assert _status(browser) == "Showing 6 of 6 claims."
  choice = Select(browser.find_element(By.ID, "verdict-filter"))
  choice.select_by_value(verdict)
  assert _shown(browser) == expected
  assert _status(browser) == f"Showing {len(expected)} of 6 claims."
  choice.select_by_value("")
  assert _shown(browser) == ALL


def test_the_search_filters_and_combines_with_the_verdict(browser):
  search = browser.find_element(By.ID, "verdict-search")
  search.send_keys("LOW is")
  assert _shown(browser) == ALL[1:4], "in any order and case"
  Select(browser.find_element(By.ID, "verdict-filter")).select_by_value(
    "refuted"
  )
  assert _shown(browser) == ["low-is-large"]
  search.send_keys(" nonsense")
  assert _shown(browser) == []
  assert _status(browser) == "Showing 0 of 6 claims."
  browser.find_element(By.ID, "verdict-reset").click()
  assert _shown(browser) == ALL
  search.send_keys("arithmetic")
  assert _shown(browser) == ["counted"], "sources are searched too"


def _sort(browser, name):
  head = next(
    each
    for each in browser.find_elements(
      By.CSS_SELECTOR, "#verdict-table thead th"
    )
    if each.text.startswith(name)
  )
  head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
  return head


def test_a_column_sorts_both_ways_with_missing_values_last(browser):
  head = _sort(browser, "Effect")
  assert head.get_attribute("aria-sort") == "ascending"
  ascending = _shown(browser)
  assert set(ascending[:3]) == {"counted", "low-is-large", "low-is-above-zero"}
  assert ascending[3:] == ["wide-is-small", "high-beats-low", "nobody-measured"]
  _sort(browser, "Effect")
  assert head.get_attribute("aria-sort") == "descending"
  assert _shown(browser)[:2] == ["high-beats-low", "wide-is-small"]
  assert _shown(browser)[-1] == "nobody-measured"
  other = _sort(browser, "Claim")
  assert head.get_attribute("aria-sort") is None
  assert other.get_attribute("aria-sort") == "ascending"
  assert _shown(browser)[0] == "high-beats-low"
  _sort(browser, "p, Holm")
  assert _shown(browser)[0] == "high-beats-low", "2.5e-08 is less than 1.0"
  _sort(browser, "Verdict")
  assert _shown(browser)[2:] == [
    "low-is-large",
    "low-is-above-zero",
    "wide-is-small",
    "nobody-measured",
  ]
  browser.find_element(By.ID, "verdict-reset").click()
  assert _shown(browser) == ALL
  assert not browser.find_elements(By.CSS_SELECTOR, "[aria-sort]")


@pytest.mark.parametrize("how", ["click", "enter"])
def test_a_figure_is_enlarged_and_put_back(browser, how):
  _emulate(browser, width=800)
  opener = browser.find_element(By.CSS_SELECTOR, "figure .enlarge")
  before = opener.find_element(By.TAG_NAME, "img").size["width"]
  if how == "click":
    opener.click()
  else:
    opener.send_keys(Keys.ENTER)
  dialog = browser.find_element(By.CSS_SELECTOR, "dialog[open]")
  large = dialog.find_element(By.TAG_NAME, "img")
  assert large.size["width"] > 1.2 * before
  assert large.get_attribute("naturalWidth") != "0"
  assert dialog.get_attribute("aria-label") == large.get_attribute("alt")
  focused = browser.switch_to.active_element
  assert focused.text == "Close"
  focused.send_keys(Keys.ESCAPE)
  # The page hears of it after the key has been sent.
  WebDriverWait(browser, 10).until(
    lambda b: not b.find_elements(By.TAG_NAME, "dialog")
  )
  assert browser.switch_to.active_element == opener


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_the_page_never_scrolls_sideways(browser, width):
  _emulate(browser, width=width)
  inner, needed = browser.execute_script(
    "const page = document.documentElement;"
    "return [page.clientWidth, page.scrollWidth];"
  )
  assert needed <= inner <= width


def test_tables_scroll_in_their_container(browser):
  _emulate(browser, width=360)
  sizes = browser.execute_script(
    "const box = document.querySelector('.scroll');"
    "return [box.scrollWidth, box.clientWidth, box.tabIndex];"
  )
  assert sizes[0] > sizes[1]
  assert sizes[2] == 0, "by keyboard too"


def test_both_schemes_have_contrast(browser):
  backgrounds = {}
  for scheme in ("light", "dark"):
    _emulate(browser, scheme=scheme)
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 200
    assert {"badge supported", "badge not-tested", "small"} <= {
      name for _, name, _ in found
    }
    assert [line for line in found if line[0] < 4.5] == []
    body = browser.find_element(By.TAG_NAME, "body")
    backgrounds[scheme] = body.value_of_css_property("background-color")
    picture = browser.find_element(By.CSS_SELECTOR, "figure img")
    white = "rgba(255, 255, 255, 1)"
    assert picture.value_of_css_property("background-color") == white
  assert backgrounds["light"] != backgrounds["dark"]


def test_without_javascript_everything_is_there(browser, url):
  _emulate(browser, script=False)
  browser.get(url)
  assert _shown(browser) == ALL
  for claim in reports.CLAIMS:
    section = browser.find_element(By.ID, f"claim-{claim.id}")
    assert section.is_displayed()
    assert claim.quantity in section.text
  hidden = browser.execute_script(
    "return [...document.querySelectorAll('main *')].filter((node) =>"
    " !node.checkVisibility() && !node.closest('details, template')"
    " ).map((node) => node.outerHTML.slice(0, 80))"
  )
  assert hidden == []
  controls = "main button, main select, main input"
  assert not browser.find_elements(By.CSS_SELECTOR, controls), "they do nothing"
  browser.find_element(By.TAG_NAME, "summary").click()
  assert browser.find_element(By.TAG_NAME, "pre").is_displayed()


def test_print_has_every_claim_and_no_controls(browser):
  Select(browser.find_element(By.ID, "verdict-filter")).select_by_value(
    "refuted"
  )
  _emulate(browser, media="print")
  assert _shown(browser) == ALL
  for selector in ("nav", ".controls", ".back"):
    node = browser.find_element(By.CSS_SELECTOR, selector)
    assert not node.is_displayed()
  badge = browser.find_element(By.CSS_SELECTOR, "#verdict-table .badge")
  assert badge.value_of_css_property("color") == "rgba(0, 0, 0, 1)"
  assert badge.is_displayed()


def test_the_keyboard_starts_at_the_skip_link(browser):
  browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
  focused = browser.switch_to.active_element
  assert focused.text == "Skip to the content"
  assert focused.rect["x"] >= 0
  assert focused.value_of_css_property("outline-style") == "solid"
  focused.send_keys(Keys.ENTER)
  assert browser.switch_to.active_element.get_attribute("id") == "main"
