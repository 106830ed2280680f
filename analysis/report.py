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

from analysis import wording
from analysis.claims.base import (
  EQUIVALENT,
  INCONCLUSIVE,
  NOT_TESTED,
  REFUTED,
  SUPPORTED,
  VERDICTS,
  Claim,
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
    floors: columns cell, layer, transform, equivariance_error, interval, floor,
      n_seeds.
    networks: columns cell, what, parameters, test_accuracy.
    methods: paragraphs.
    limits: sentences, a list item each.
    provenance: printed as JSON.
    files: links relative to the page, and what is behind them.
    failures: a line a training that failed: cell, seed, epoch, step,
      learning_rate, loss, of.
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
  failures: Sequence[Mapping[Any, Any]] = ()


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
    failures=report.failures,
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
  environment.filters["cell"] = wording.cell
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
    "plain": wording.PLAIN[row["verdict"]],
    "sentence": wording.sentence(row, effects),
    "decided_by": wording.text(row["decided_by"]),
    "effect": wording.with_unit(row["effect"], "" if exact else row["unit"]),
    "effect_value": wording.sortable(row["effect"]),
    "interval": "exact" if exact else wording.interval(row["low"], row["high"]),
    "floor": wording.floor(row),
    "p": wording.p(row["p_holm"]),
    "p_value": wording.sortable(row["p_holm"]),
    "n": str(n) if n else wording.MISSING,
    "n_value": str(n) if n else "",
    "note": wording.text(row["note"]),
    "source": row["source"],
    "quantity": claim.quantity,
    "asked": wording.asked_of(claim.parts),
    "reason": claim.reason,
    "power": "" if exact else wording.power(row),
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
    "asked": wording.asked(row["rule"], row["margin"], row["unit"]),
    "effect": wording.with_unit(row["effect"], row["unit"]),
    "interval": wording.interval(row["low"], row["high"]),
    "floor": wording.floor(row),
    "adjusted": wording.interval(row["low_holm"], row["high_holm"]),
    "p_sign_flip": wording.p(row["p_sign_flip"]),
    "n": str(n) if n else wording.MISSING,
    "verdict": row["verdict"],
    "note": wording.text(row["note"]),
  }


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
