"""The report's words and numbers: what a verdict says, in a sentence or two."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.claims.base import (
  EQUIVALENT,
  INCONCLUSIVE,
  NOT_TESTED,
  REFUTED,
  SUPPORTED,
  Part,
)
from analysis.claims.verdicts import DECIDES

# What a verdict means for the statement, for those who read no numbers.
PLAIN = {
  SUPPORTED: "In this study it holds.",
  REFUTED: "In this study it does not hold.",
  EQUIVALENT: "In this study there is no effect that matters.",
  INCONCLUSIVE: "This study cannot tell.",
  NOT_TESTED: "",
}

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b⁰¹²³⁴⁵⁶⁷⁸⁹")

# --- words -------------------------------------------------------------------


def sentence(
  row: Mapping[Any, Any], effects: Sequence[Mapping[Any, Any]]
) -> str:
  """The verdict and the numbers it rests on, in one or two sentences."""
  head, note = row["verdict"].capitalize(), text(row["note"])
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
  value = with_unit(row["effect"], row["unit"])
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
    f" {interval(row['low'], row['high'])}; adjusted for all claims"
    f" {interval(*_read_off(row, verdict))}; {seeds}),"
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


def asked(rule: str, margin: float, unit: str) -> str:
  """What a part has to show, in a few words."""
  bound = with_unit(margin, unit)
  return {
    "greater": f"above 0; matters from {bound}",
    "at_least": f"at least {bound}",
    "at_most": f"at most {bound}",
    "equivalent": f"within {_PLUS_MINUS}{bound}",
  }[rule]


def asked_of(parts: Sequence[Part]) -> str:
  """The same for a claim, part by part where they differ."""
  words = [asked(part.rule, part.margin, part.unit) for part in parts]
  if len(set(words)) < 2:
    return "".join(words[:1])
  named = zip(parts, words, strict=True)
  return "; ".join(f"{part.label}: {asks}" for part, asks in named)


def power(row: Mapping[Any, Any]) -> str:
  """The power at the smallest effect, or how far from a bound there is some."""
  if row["rule"] in ("at_least", "at_most"):
    distance = row["detectable"]
    if _is_missing(distance):
      return _unknown(row)
    least = with_unit(distance, row["unit"])
    return f"80 % for a value {least} or more beyond the bound"
  if _is_missing(row["power"]):
    return _unknown(row)
  share = row["power"]
  size = "above 0.999" if share > 0.999 else _number(share)
  found = f"power {size} at the smallest effect of interest"
  needed = row["seeds_needed"]
  if _is_missing(needed):
    return found
  if math.isinf(needed):
    return f"{found}; more seeds than 1,000 would be needed for 80 %"
  return f"{found}; {needed:,.0f} seeds would do for 80 %"


def _unknown(row: Mapping[Any, Any]) -> str:
  note = text(row["note"])
  return f"{MISSING} ({note})" if note else MISSING


def floor(row: Mapping[Any, Any]) -> str:
  """The floor of an effect, or nothing where there is none."""
  return "" if _is_missing(row["floor"]) else f"floor {_number(row['floor'])}"


# --- numbers -----------------------------------------------------------------


def _is_missing(value: Any) -> bool:
  return value is None or bool(pd.isna(value))


def text(value: Any) -> str:
  """A text; empty where a table that was read back has no value."""
  return "" if _is_missing(value) else str(value)


def _number(value: float) -> str:
  """Three significant digits, or an en dash where there is no number."""
  if _is_missing(value):
    return MISSING
  if math.isinf(value):
    return "\N{INFINITY}" if value > 0 else f"{_MINUS}\N{INFINITY}"
  shown = f"{float(value):.3g}"
  rounded = float(shown)
  if abs(rounded) >= 1000:
    shown = f"{rounded:,.0f}"
  if "e" in shown:
    digits, exponent = shown.split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    times = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
    shown = f"{digits}{times}10{power}"
  if rounded == 0:
    shown = "0"
  return shown.replace("-", _MINUS, 1)


def with_unit(value: float, unit: Any) -> str:
  """A number and its unit, if it has one."""
  known = text(unit) and not _is_missing(value)
  return f"{_number(value)} {unit}" if known else _number(value)


def interval(low: float, high: float) -> str:
  """Both ends, or an en dash where one is unknown."""
  if _is_missing(low) or _is_missing(high):
    return MISSING
  return f"{_number(low)} to {_number(high)}"


def p(value: float) -> str:
  """A p value, not more exactly than anyone needs."""
  return "< 0.001" if value < 0.001 else _number(value)


def sortable(value: float) -> str:
  """A number for the script to sort by; empty where there is none."""
  return "" if _is_missing(value) else repr(float(value))


def cell(value: Any) -> str:
  """A cell of a table whose columns hold numbers and texts."""
  if _is_missing(value):
    return MISSING
  if isinstance(value, str):
    return value
  if float(value).is_integer():
    return f"{int(value):,}"
  return _number(value)
