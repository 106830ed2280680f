"""What the report's HTML says, without a browser."""

import base64
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.claims import verdicts
from analysis.claims.base import Claim, Part, Select, value
from tests.analysis import reports

VOID = {"br", "hr", "img", "input", "link", "meta"}
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


class Element:
  """A node of a page: its tag, attributes, children and text."""

  def __init__(self, tag, attributes=()):
    self.tag, self.attributes = tag, dict(attributes)
    self.children = []

  def walk(self):
    yield self
    for child in self.children:
      if isinstance(child, Element):
        yield from child.walk()

  def all(self, tag, **attributes):
    return [
      node
      for node in self.walk()
      if node.tag == tag and attributes.items() <= node.attributes.items()
    ]

  def one(self, tag, **attributes):
    (found,) = self.all(tag, **attributes)
    return found

  @property
  def text(self):
    """As read: white space collapsed, without styles and scripts."""
    parts = (
      child if isinstance(child, str) else child.text
      for child in self.children
      if isinstance(child, str) or child.tag not in ("style", "script")
    )
    return " ".join(" ".join(parts).split())


class _Parser(HTMLParser):
  def __init__(self):
    super().__init__()
    self.open = [Element("root")]

  def handle_starttag(self, tag, attrs):
    node = Element(tag, attrs)
    self.open[-1].children.append(node)
    if tag not in VOID:
      self.open.append(node)

  def handle_endtag(self, tag):
    assert self.open.pop().tag == tag, f"</{tag}> closes something else"

  def handle_data(self, data):
    self.open[-1].children.append(data)


def parse(html):
  parser = _Parser()
  parser.feed(html)
  parser.close()
  assert len(parser.open) == 1, "an element stays open"
  return parser.open[0]


@pytest.fixture(scope="module")
def example():
  return reports.example()


@pytest.fixture(scope="module")
def html(example):
  return report.page(example)


@pytest.fixture(scope="module")
def dom(html):
  return parse(html)


def _cells(table):
  rows = [row for row in table.all("tr") if row.all("td")]
  return [
    [c.text for c in row.children if isinstance(c, Element)] for row in rows
  ]


# --- the verdicts ------------------------------------------------------------


def test_the_verdict_table_has_every_claim_in_order(dom):
  rows = _cells(dom.one("table", id="verdict-table"))
  found = [(r[0], *r[1:2], *r[3:6]) for r in rows]
  small = f"{MINUS}0.00196 to 0.00196"
  assert found == [
    ("Numbers that are counted", "✓ supported", "exact", DASH, DASH),
    ("High is above low", "✓ supported", "0.492 to 0.508", "< 0.001", "5"),
    (
      f"Low is large, says {reports.HOSTILE}",
      *("✗ refuted", small, "1", "5"),
    ),
    ("Low is above 0", "≈ equivalent", small, "1", "5"),
    ("Wide is small", "? inconclusive", f"{MINUS}0.791 to 0.831", "1", "5"),
    ("What nobody measured", "○ not tested", DASH, DASH, DASH),
  ]
  assert rows[0][2] == "0 wrong numbers, of 40 counted"
  assert rows[4][2] == "0.02 points wide"
  missing = "no network 'absent': --preset=mnist tests it"
  assert rows[5][2] == f"{DASH} {missing}"


def test_the_table_of_another_order_is_in_that_order(example):
  turned = example._replace(claims=example.claims.iloc[::-1])
  rows = _cells(parse(report.page(turned)).one("table", id="verdict-table"))
  assert [row[0] for row in rows] == list(turned.claims["statement"])


def test_the_first_words_count_verdicts_and_name_what_failed(dom):
  header = dom.one("header").text
  assert (
    "2 supported, 1 refuted, 1 equivalent, 1 inconclusive, 1 not tested."
  ) in header
  for words in (
    "✗ refuted low is large",
    "? inconclusive wide is small",
    "≈ equivalent low is above zero",
  ):
    assert words in header
  assert "high beats low" not in header


def test_every_verdict_is_explained(dom):
  legend = dom.one("ul", **{"class": "legend"}).text
  for verdict in report.VERDICTS:
    assert verdict in legend
  assert "equivalent an effect too small to matter" in legend


def test_every_claim_has_a_section_with_what_it_rests_on(dom, example):
  for claim in example.catalogue:
    text = dom.one("article", id=f"claim-{claim.id}").text
    for words in (claim.statement, claim.quantity, claim.source, claim.reason):
      assert words in text
  own = dom.one("article", id="claim-high-beats-low")
  assert "above 0; matters from 0.05" in own.text
  assert "at the smallest effect of interest" in own.text
  rows, asked = _cells(own.one("table")), "above 0; matters from 0.05"
  assert [row[:2] for row in rows] == [
    [f"high less low {asked}", "decides"],
    [f"low less high {asked}", "beside"],
    ["low alone at most 0.1 points", "beside"],
    [f"high less low {asked}", "accuracy-adjusted"],
    [f"high less low {asked}", "accuracy-matched"],
  ]
  numbers = ["0.5", "0.492 to 0.508", "0.488 to 0.512", "0.0312", "5"]
  assert rows[0][2:] == [*numbers, "✓ supported"]
  assert rows[2][2:4] == ["0 points", f"{MINUS}0.00196 to 0.00196"]
  assert rows[1][-1] == "✗ refuted"


def test_two_parts_show_both_bounds(dom):
  text = dom.one("article", id="claim-low-is-large").text
  assert "Both parts have to hold, and 1 does." in text
  assert "its part “low” is 0" in text


def test_what_is_not_tested_says_why(dom):
  text = dom.one("article", id="claim-nobody-measured").text
  assert "Not tested: no network 'absent': --preset=mnist tests it." in text
  assert "Power" not in text


def test_every_verdict_is_said_in_plain_words_first(dom):
  for name, words in (
    ("high-beats-low", "✓ supported In this study it holds. Supported: high"),
    ("low-is-large", "✗ refuted In this study it does not hold. Refuted: its"),
    ("low-is-above-zero", "In this study there is no effect that matters. Equ"),
    ("wide-is-small", "? inconclusive This study cannot tell. Inconclusive:"),
    ("nobody-measured", "○ not tested Not tested: no network"),
  ):
    assert words in dom.one("article", id=f"claim-{name}").text


def test_power_is_said_with_every_verdict(dom, example):
  of = {
    claim.id: dom.one("article", id=f"claim-{claim.id}").text
    for claim in reports.CLAIMS
  }
  above = "Power power above 0.999 at the smallest effect of interest; "
  assert above in of["high-beats-low"]
  distance = example.claims.set_index("claim")["detectable"]["low-is-large"]
  assert 0 < distance < 0.01
  assert f"Power 80 % for a value {distance:.3g} or more" in of["low-is-large"]
  assert "Power" not in of["counted"]
  alone = _judged(example, "at_least", 0.05, [0.25])
  assert f"Power {DASH} (fewer than two seeds)" in alone


def test_a_floor_stands_beside_its_effect(example):
  some = "high-beats-low"
  found = parse(
    report.page(
      example._replace(
        claims=example.claims.assign(floor=0.123456),
        effects=example.effects.assign(floor=0.25),
      )
    )
  )
  (row,) = [
    r
    for r in _cells(found.one("table", id="verdict-table"))
    if r[0] == "High is above low"
  ]
  assert row[2] == "0.5 high less low; floor 0.123"
  rows = _cells(found.one("article", id=f"claim-{some}").one("table"))
  assert rows[0][2] == "0.5 floor 0.25"


CASES = [
  ("greater", 0.05, 0.2, "Supported: it is 0.2", "all above 0."),
  ("greater", 0.05, 0.01, "Equivalent", "all within ±0.05, an effect too"),
  ("greater", 0.05, -0.2, "Refuted", "all below 0, the opposite"),
  ("at_least", 0.25, 0.5, "Supported", "all above 0.25, the least"),
  ("at_least", 0.25, 0.1, "Refuted", "all below 0.25, the least"),
  ("at_least", 0.25, 0.2501, "Inconclusive", "on both sides of 0.25, the"),
  ("at_most", 0.25, 0.1, "Supported", "all below 0.25, the most"),
  ("at_most", 0.25, 0.5, "Refuted", "all above 0.25, the most"),
  ("equivalent", 0.3, 0.1, "Supported", "all within ±0.3, a difference too"),
  ("equivalent", 0.3, 0.5, "Refuted", "all above 0.3, a difference that"),
  (
    "equivalent",
    0.3,
    -0.5,
    "Refuted",
    f"all below {MINUS}0.3, a difference that",
  ),
  ("equivalent", 0.3, 0.3, "Inconclusive", "partly within ±0.3 and partly"),
]


_IT = Select("it", "score", at=())


def _judged(example, rule, margin, scores):
  claim = Claim(
    "it", "It.", "s", "q", "r", (Part("it", value(_IT), rule, margin),)
  )
  found = verdicts.judge([claim], reports.evidence({"it": scores}))
  one = example._replace(
    catalogue=[claim], claims=found.claims, effects=found.effects
  )
  return parse(report.page(one)).one("article", id="claim-it").text


@pytest.mark.parametrize(("rule", "margin", "mean", "start", "end"), CASES)
def test_the_sentence_follows_the_rule(example, rule, margin, mean, start, end):
  scores = mean + 0.001 * np.array([-2, -1, 0, 1, 2])
  sentence = _judged(example, rule, margin, scores)
  assert start in sentence
  assert end in sentence
  assert "adjusted for all claims" in sentence
  assert "n = 5 seeds" in sentence


def test_a_wide_and_a_low_effect_of_rule_greater(example):
  wide = _judged(example, "greater", 0.05, [-0.5, 0.6, 0.1])
  assert "Inconclusive" in wide
  assert "which holds both 0 and 0.05, the smallest effect" in wide
  low = _judged(example, "greater", 0.05, [-0.1, -0.03, 0.02, -0.05])
  assert "Refuted" in low
  assert "all below 0.05, the smallest effect of interest" in low


def test_one_seed_has_no_interval_and_says_so(example):
  text = _judged(example, "greater", 0.05, [0.25])
  assert (
    "Inconclusive: it is 0.25 (n = 1 seed), no interval: fewer than two seeds."
  ) in text
  assert f"Power {DASH} (fewer than two seeds)" in text


# --- the rest of the page ----------------------------------------------------


def test_the_sections_come_in_order(dom):
  assert [h.text for h in dom.all("h2")] == [
    "Verdicts",
    "Claims, one by one",
    "Overview figures",
    "Networks",
    "Methods",
    "Controls",
    "Floors",
    "Limits",
    "Data files",
    "Provenance",
  ]


def test_controls_show_values_and_say_which_fails(dom, example):
  table = next(t for t in dom.all("table") if "identity" in t.text)
  assert _cells(table) == [
    ["identity", "at most 0.0001", f"2.5 {TIMES} 10⁻⁷", "✓ holds"],
    ["other", "1", "0.5", "✗ fails"],
  ]
  assert "1 of 2 controls of this run fails:" in dom.one("header").text
  fine = example._replace(controls=example.controls[:1])
  assert "fail" not in parse(report.page(fine)).one("header").text


def test_networks_and_floors_have_a_dash_for_what_is_missing(dom):
  tables = [_cells(table) for table in dom.all("table")]
  assert [
    ["low", reports.HOSTILE, "7,370", "97.00 %"],
    ["high", "no run", "168,650", DASH],
  ] in tables
  assert [
    ["low", "conv1", "rotation by 15°", "0.212", "0.2 to 0.225", "0.2", "5"],
    ["low", "conv2", *[DASH] * 5],
  ] in tables


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0.08333, "0.0833"),
    (-1.5, f"{MINUS}1.5"),
    (12345.6, "12,300"),
    (-2.5e-7, f"{MINUS}2.5 {TIMES} 10⁻⁷"),
    (-0.0, "0"),
    (float("inf"), "∞"),
    (float("nan"), DASH),
  ],
)
def test_numbers_have_three_digits(example, number, text):
  floors = pd.DataFrame(
    [("c", "l", "t", number, "i", 0.5, 5)], columns=example.floors.columns
  )
  dom = parse(report.page(example._replace(floors=floors)))
  (row,) = next(r for r in map(_cells, dom.all("table")) if r[0][0] == "c")
  assert row == ["c", "l", "t", text, "i", "0.5", "5"]


def test_no_nan_is_shown(dom):
  shown = re.findall(r"\b(nan|none|inf|nat|undefined)\b", dom.text.lower())
  # "None could be drawn" is a sentence, and not of this report.
  assert shown == []
  assert '"spread": null' in dom.one("pre").text


def test_empty_tables_leave_a_readable_page(example):
  bare = example._replace(
    controls=example.controls[:0],
    floors=example.floors[:0],
    networks=example.networks[:0],
    pictures={},
  )
  text = parse(report.page(bare)).text
  assert text.count("This study has none.") == 3
  assert "None could be drawn" in text


# --- the page as a file ------------------------------------------------------


def test_the_same_content_gives_the_same_bytes(html):
  assert report.page(reports.example()).encode() == html.encode()


def test_every_picture_is_inside_and_described(dom, example):
  pictures = dom.all("img")
  assert len(pictures) == len(example.pictures)
  png = reports.picture()
  for node in pictures:
    assert node.attributes["alt"].strip()
    head, content = node.attributes["src"].split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content) == png
    assert int(node.attributes["width"]) > int(node.attributes["height"]) > 99
  described = {node.attributes["alt"] for node in pictures}
  assert "What high-beats-low rests on" in described
  assert "training curves" in described, "a name stands in for no caption"


def test_nothing_is_fetched_from_outside(dom, html):
  loading = ("src", "href", "srcset", "poster", "action", "data", "background")
  for node in dom.walk():
    for name in loading:
      link = node.attributes.get(name, "#")
      assert link.startswith(("#", "data:image/png;")) or re.fullmatch(
        r"[\w.]+\.csv", link
      ), f"{node.tag} {name}={link}"
    assert "style" not in node.attributes
    assert not [name for name in node.attributes if name.startswith("on")]
  for tag in ("link", "iframe", "object", "embed", "base", "form"):
    assert not dom.all(tag)
  assert not re.search(r"url\(|@import|https?:|src\s*=\s*[\"']?//", html)


def test_the_policy_forbids_what_is_outside(dom):
  policy = dom.one("meta", **{"http-equiv": "Content-Security-Policy"})
  assert policy.attributes["content"] == (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
    " script-src 'unsafe-inline'"
  )


def test_names_are_escaped(dom, html):
  assert len(dom.all("script")) == 1
  assert "alert" not in "".join(dom.one("script").children)
  assert reports.HOSTILE not in html
  assert dom.one("h1").text == f"The study of {reports.HOSTILE}"
  assert f'Layers of "{reports.HOSTILE}"' in {
    node.attributes["alt"] for node in dom.all("img")
  }
  assert reports.HOSTILE in dom.one("pre").text


def test_headings_skip_no_level(dom):
  levels = [
    int(node.tag[1]) for node in dom.walk() if re.fullmatch(r"h[1-6]", node.tag)
  ]
  assert levels[0] == 1
  assert levels.count(1) == 1
  assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
  assert levels.count(3) == len(reports.CLAIMS)


def test_links_within_the_page_lead_somewhere(dom):
  ids = [n.attributes["id"] for n in dom.walk() if "id" in n.attributes]
  assert len(ids) == len(set(ids))
  targets = [
    node.attributes["href"][1:]
    for node in dom.all("a")
    if node.attributes["href"].startswith("#")
  ]
  assert set(targets) <= set(ids)
  for heading in dom.all("h2"):
    assert heading.attributes["id"] in targets
  for claim in reports.CLAIMS:
    assert f"claim-{claim.id}" in targets
  assert "figure-claim-high-beats-low" in targets


def test_tables_and_landmarks_are_named(dom):
  assert dom.one("html").attributes["lang"] == "en"
  assert dom.one("meta", name="viewport")
  assert dom.one("main").attributes["id"] == "main"
  assert dom.one("a", **{"class": "skip"}).attributes["href"] == "#main"
  assert dom.one("nav").attributes["aria-label"]
  for table in dom.all("table"):
    assert table.one("caption").text
    for head in table.all("th"):
      assert head.attributes["scope"] in ("col", "row")
      assert head.text


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"catalogue": ()}, "no claim 'counted'"),
    ({"pictures": {"map": b"GIF89a"}}, "picture 'map' is no PNG"),
    ({"files": (("https://a.b/c.csv", "x"),)}, "no relative link"),
    ({"files": (("//a.b/c.csv", "x"),)}, "no relative link"),
    ({"files": (("javascript:alert(1)", "x"),)}, "no relative link"),
  ],
)
def test_content_that_does_not_belong_is_refused(example, change, message):
  with pytest.raises(ValueError, match=message):
    report.page(example._replace(**change))
