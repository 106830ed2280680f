"""A study's report: one HTML file that needs nothing else.

Tables and pictures in, text out: nothing is read from a study's folder, and
equal content gives equal bytes.
"""

import base64
import json
import math
import struct
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from analysis.claims.base import (
  EQUIVALENT,
  INCONCLUSIVE,
  NOT_TESTED,
  REFUTED,
  SUPPORTED,
  VERDICTS,
  Claim,
  Part,
)
from analysis.claims.verdicts import DECIDES

_TEMPLATES = Path(__file__).parent / "templates"

# A badge has a shape besides its colour.
_SYMBOLS = {
  SUPPORTED: "\N{CHECK MARK}",
  REFUTED: "\N{BALLOT X}",
  EQUIVALENT: "\N{ALMOST EQUAL TO}",
  INCONCLUSIVE: "?",
  NOT_TESTED: "\N{WHITE CIRCLE}",
}

_MEANINGS = {
  SUPPORTED: "what was predicted is shown",
  REFUTED: "what was predicted is excluded",
  EQUIVALENT: "an effect too small to matter",
  INCONCLUSIVE: "neither shown nor excluded: more seeds would be needed",
  NOT_TESTED: "this study has no network or no measurement for it",
}

_MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b⁰¹²³⁴⁵⁶⁷⁸⁹")

_PNG = b"\x89PNG\r\n\x1a\n"


class Report(NamedTuple):
  """What the page shows.

  Attributes:
    title: of the page.
    claims: `analysis.claims.verdicts.CLAIM_COLUMNS`, in the order shown.
    effects: `analysis.claims.verdicts.EFFECT_COLUMNS`.
    catalogue: the claims, for what the tables do not say.
    pictures: PNG files by name; that of a claim is named claim_<its id>.
    captions: what each shows, for those who do not see it.
    controls: columns control, expected, obtained, holds.
    floors: columns cell, layer, transform, equivariance_error, floor.
    networks: columns cell, what, parameters, test_accuracy.
    methods: paragraphs.
    limits: sentences, a list item each.
    provenance: printed as JSON.
    files: links relative to the page, and what is behind them.
  """

  title: str
  claims: pd.DataFrame
  effects: pd.DataFrame
  catalogue: Sequence[Claim]
  pictures: Mapping[str, bytes]
  captions: Mapping[str, str]
  controls: pd.DataFrame
  floors: pd.DataFrame
  networks: pd.DataFrame
  methods: Sequence[str]
  limits: Sequence[str]
  provenance: Mapping[str, Any]
  files: Sequence[tuple[str, str]]


def page(report: Report) -> str:
  """The report as HTML.

  Args:
    report: its content. Texts may hold anything: they are escaped.

  Returns:
    A page with styles, script and pictures inside.

  Raises:
    ValueError: a claim is not in the catalogue, a picture is no PNG, or a link
      to a file is not relative.
  """
  catalogue = {claim.id: claim for claim in report.catalogue}
  claims = []
  for row in report.claims.to_dict("records"):
    if row["claim"] not in catalogue:
      raise ValueError(f"no claim {row['claim']!r} in the catalogue")
    own = report.effects[report.effects["claim"] == row["claim"]]
    effects = own.to_dict("records")
    claims.append(_claim(catalogue[row["claim"]], row, effects, report))
  of_claims = {f"claim_{name}" for name in catalogue}
  verdicts = [claim["verdict"] for claim in claims]
  counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
  controls = report.controls.to_dict("records")
  return _template().render(
    title=report.title,
    claims=claims,
    verdicts=[
      {"name": name, "count": count, "meaning": _MEANINGS[name]}
      for name, count in counts.items()
    ],
    symbols=_SYMBOLS,
    named=[REFUTED, INCONCLUSIVE, EQUIVALENT],
    figures=[
      _picture(name, report)
      for name in report.pictures
      if name not in of_claims
    ],
    controls=controls,
    failed=[row for row in controls if not row["holds"]],
    floors=report.floors.to_dict("records"),
    networks=report.networks.to_dict("records"),
    methods=report.methods,
    limits=report.limits,
    provenance=json.dumps(
      _finite(report.provenance), indent=2, ensure_ascii=False, default=str
    ),
    files=[(_relative(link), what) for link, what in report.files],
  )


def _template() -> jinja2.Template:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["cell"] = _cell
  return environment.get_template("report.html")


def _claim(
  claim: Claim,
  row: Mapping[Any, Any],
  effects: Sequence[Mapping[Any, Any]],
  report: Report,
) -> dict[str, Any]:
  """What the table and the section of a claim show."""
  exact, n = row["rule"] == "exact", int(row["n_seeds"])
  picture = f"claim_{claim.id}"
  return {
    "id": claim.id,
    "name": claim.id.replace("-", " "),
    "statement": row["statement"],
    "verdict": row["verdict"],
    "rank": VERDICTS.index(row["verdict"]),
    "sentence": _sentence(row, effects),
    "decided_by": _text(row["decided_by"]),
    "effect": _with_unit(row["effect"], "" if exact else row["unit"]),
    "effect_value": _sortable(row["effect"]),
    "interval": "exact" if exact else _interval(row["low"], row["high"]),
    "p": _p(row["p_holm"]),
    "p_value": _sortable(row["p_holm"]),
    "n": str(n) if n else _MISSING,
    "n_value": str(n) if n else "",
    "note": _text(row["note"]),
    "source": row["source"],
    "quantity": claim.quantity,
    "asked": _asked_of(claim.parts),
    "reason": claim.reason,
    "power": "" if exact else _power(row),
    "figure": _picture(picture, report) if picture in report.pictures else None,
    "effects": [_effect(effect) for effect in effects],
  }


def _effect(row: Mapping[Any, Any]) -> dict[str, Any]:
  """A line of a claim's table."""
  n = int(row["n_seeds"])
  return {
    "role": row["role"],
    "decides": row["role"] == DECIDES,
    "label": row["label"],
    "asked": _asked(row["rule"], row["margin"], row["unit"]),
    "effect": _with_unit(row["effect"], row["unit"]),
    "interval": _interval(row["low"], row["high"]),
    "adjusted": _interval(row["low_holm"], row["high_holm"]),
    "p_sign_flip": _p(row["p_sign_flip"]),
    "n": str(n) if n else _MISSING,
    "verdict": row["verdict"],
    "note": _text(row["note"]),
  }


# --- words -------------------------------------------------------------------


def _sentence(
  row: Mapping[Any, Any], effects: Sequence[Mapping[Any, Any]]
) -> str:
  """The verdict and the numbers it rests on, in one or two sentences."""
  head, note = row["verdict"].capitalize(), _text(row["note"])
  if row["verdict"] == NOT_TESTED:
    return f"{head}: {note}."
  if row["rule"] == "exact":
    counted = f"{_number(row['effect'])} {row['decided_by']}"
    return f"{head}: {counted}; {note}."
  deciding = [e for e in effects if e["role"] == DECIDES]
  # A claim may be refuted by a part that is equivalent.
  verdict = next(
    (e["verdict"] for e in deciding if e["label"] == row["decided_by"]),
    row["verdict"],
  )
  together = _together(row["verdict"], [e["verdict"] for e in deciding])
  n = int(row["n_seeds"])
  seeds = f"n = {n} seed{'' if n == 1 else 's'}"
  value = _with_unit(row["effect"], row["unit"])
  label = row["decided_by"]
  if len(deciding) > 1:
    label = f"its part \N{LEFT DOUBLE QUOTATION MARK}{label}"
    label += "\N{RIGHT DOUBLE QUOTATION MARK}"
  if _is_missing(row["effect"]):
    return f"{head}: {label} has no value: {note}.{together}"
  if _is_missing(row["low_holm"]):
    why = f": {note}" if note else ""
    return f"{head}: {label} is {value} ({seeds}), no interval{why}.{together}"
  return (
    f"{head}: {label} is {value} (95 % interval"
    f" {_interval(row['low'], row['high'])}; adjusted for all claims"
    f" {_interval(*_read_off(row, verdict))}; {seeds}),"
    f" {_conclusion(row, verdict)}.{together}"
  )


def _read_off(row: Mapping[Any, Any], verdict: str) -> tuple[float, float]:
  """The interval that the verdict rests on: the wider one but for support."""
  kind = "holm" if verdict == SUPPORTED else "strict"
  return row[f"low_{kind}"], row[f"high_{kind}"]


def _conclusion(row: Mapping[Any, Any], verdict: str) -> str:
  """Where the interval lies, by the rule that read the verdict off it."""
  rule, (low, high) = row["rule"], _read_off(row, verdict)
  margin = _number(row["margin"])
  within = f"{_PLUS_MINUS}{margin}"
  if rule == "greater":
    opposite = "all below 0, the opposite of what was predicted"
    small = f"all below {margin}, the smallest effect of interest"
    return {
      SUPPORTED: "all above 0",
      EQUIVALENT: f"all within {within}, an effect too small to matter",
      REFUTED: opposite if high < 0 else small,
      INCONCLUSIVE: f"which holds both 0 and {margin}, the smallest effect of"
      " interest",
    }[verdict]
  if rule == "equivalent":
    side = "above" if low > 0 else "below"
    bound = margin if low > 0 else f"{_MINUS}{margin}"
    return {
      SUPPORTED: f"all within {within}, a difference too small to matter",
      REFUTED: f"all {side} {bound}, a difference that matters",
      INCONCLUSIVE: f"which lies partly within {within} and partly beyond",
    }[verdict]
  bound, above, below = {
    "at_least": ("the least that is claimed", SUPPORTED, REFUTED),
    "at_most": ("the most that is claimed", REFUTED, SUPPORTED),
  }[rule]
  return {
    above: f"all above {margin}, {bound}",
    below: f"all below {margin}, {bound}",
    INCONCLUSIVE: f"on both sides of {margin}, {bound}",
  }[verdict]


def _together(verdict: str, parts: Sequence[str]) -> str:
  """What the other parts say, if there are any; starts with a space."""
  if len(parts) < 2:
    return ""
  every = "Both" if len(parts) == 2 else f"All {len(parts)}"
  if verdict == SUPPORTED:
    least = "weaker" if len(parts) == 2 else "weakest"
    return f" {every} parts hold; this is the {least}."
  if verdict == EQUIVALENT:
    return f" {every} parts are that small."
  held = list(parts).count(SUPPORTED)
  do = {0: "none does", 1: "1 does"}.get(held, f"{held} do")
  return f" {every} parts have to hold, and {do}."


def _asked(rule: str, margin: float, unit: str) -> str:
  """What a part has to show, in a few words."""
  bound = _with_unit(margin, unit)
  return {
    "greater": f"above 0; matters from {bound}",
    "at_least": f"at least {bound}",
    "at_most": f"at most {bound}",
    "equivalent": f"within {_PLUS_MINUS}{bound}",
  }[rule]


def _asked_of(parts: Sequence[Part]) -> str:
  """The same for a claim, part by part where they differ."""
  asked = [_asked(part.rule, part.margin, part.unit) for part in parts]
  if len(set(asked)) < 2:
    return "".join(asked[:1])
  named = zip(parts, asked, strict=True)
  return "; ".join(f"{part.label}: {words}" for part, words in named)


def _power(row: Mapping[Any, Any]) -> str:
  if row["rule"] in ("at_least", "at_most"):
    return (
      "not defined: against a bound there is no effect of a known size to find"
    )
  if _is_missing(row["power"]):
    note = _text(row["note"])
    return f"{_MISSING} ({note})" if note else _MISSING
  power = row["power"]
  size = "above 0.999" if power > 0.999 else _number(power)
  text = f"power {size} at the smallest effect of interest"
  needed = row["seeds_needed"]
  if _is_missing(needed):
    return text
  if math.isinf(needed):
    return f"{text}; more seeds than 1,000 would be needed for 80 %"
  return f"{text}; {needed:,.0f} seeds would do for 80 %"


# --- numbers -----------------------------------------------------------------


def _is_missing(value: Any) -> bool:
  return value is None or bool(pd.isna(value))


def _text(value: Any) -> str:
  """A text; empty where a table that was read back has no value."""
  return "" if _is_missing(value) else str(value)


def _number(value: float) -> str:
  """Three significant digits, or an en dash where there is no number."""
  if _is_missing(value):
    return _MISSING
  if math.isinf(value):
    return "\N{INFINITY}" if value > 0 else f"{_MINUS}\N{INFINITY}"
  text = f"{float(value):.3g}"
  rounded = float(text)
  if abs(rounded) >= 1000:
    text = f"{rounded:,.0f}"
  if "e" in text:
    digits, exponent = text.split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    times = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
    text = f"{digits}{times}10{power}"
  if rounded == 0:
    text = "0"
  return text.replace("-", _MINUS, 1)


def _with_unit(value: float, unit: Any) -> str:
  known = _text(unit) and not _is_missing(value)
  return f"{_number(value)} {unit}" if known else _number(value)


def _interval(low: float, high: float) -> str:
  if _is_missing(low) or _is_missing(high):
    return _MISSING
  return f"{_number(low)} to {_number(high)}"


def _p(value: float) -> str:
  return "< 0.001" if value < 0.001 else _number(value)


def _sortable(value: float) -> str:
  """A number for the script to sort by; empty where there is none."""
  return "" if _is_missing(value) else repr(float(value))


def _cell(value: Any) -> str:
  """A cell of a table whose columns hold numbers and texts."""
  if _is_missing(value):
    return _MISSING
  if isinstance(value, str):
    return value
  if float(value).is_integer():
    return f"{int(value):,}"
  return _number(value)


def _finite(value: Any) -> Any:
  """JSON has no NaN and no infinity."""
  if isinstance(value, Mapping):
    return {str(name): _finite(inner) for name, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(inner) for inner in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


# --- pictures and links ------------------------------------------------------


def _picture(name: str, report: Report) -> dict[str, Any]:
  """A picture as a data URI; its size, so that nothing moves as it loads."""
  content = report.pictures[name]
  if not content.startswith(_PNG):
    raise ValueError(f"picture {name!r} is no PNG")
  width, height = struct.unpack(">II", content[16:24])
  return {
    "id": name.replace("_", "-"),
    "uri": "data:image/png;base64," + base64.b64encode(content).decode("ascii"),
    "alt": report.captions.get(name) or name.replace("_", " "),
    "width": width,
    "height": height,
  }


def _relative(link: str) -> str:
  """The link, which must stay beside the page."""
  parts = urllib.parse.urlsplit(link)
  if parts.scheme or parts.netloc or link.startswith(("/", "\\")):
    raise ValueError(f"{link!r} is no relative link")
  return link
