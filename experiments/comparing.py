"""Two studies side by side: which verdicts and numbers differ."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims.base import NOT_TESTED
from experiments import checksums, store
from experiments.errors import ExperimentError

COLUMNS = (
  "claim",
  "role",
  "label",
  "verdict_a",
  "verdict_b",
  "effect_a",
  "low_a",
  "high_a",
  "effect_b",
  "low_b",
  "high_b",
  "change",
)

# What happened between two studies, the most serious first.
VERDICT, BEYOND, WITHIN, SAME, ONE_ONLY = (
  "verdict changed",
  "number changed beyond its interval",
  "within the intervals",
  "same verdict",
  "tested in one study only",
)

_KEYS = ["claim", "role", "label"]


def compare(first: Path, second: Path) -> pd.DataFrame:
  """Every effect of two studies, and what became of it.

  A number changed beyond its interval if the two 95 % intervals do not
  overlap; without intervals, if the numbers differ. Of claims as a whole only
  the verdicts are compared: another part may decide in the other study.

  Args:
    first: a results folder with claims.csv and effects.csv.
    second: another.

  Returns:
    One row a claim as a whole (role "claim") and one an effect, in the order
    of the first study; `COLUMNS`.

  Raises:
    ExperimentError: a folder is no study's, or a table is damaged.
  """
  a, b = _effects(first), _effects(second)
  joined = a.merge(b, on=_KEYS, how="outer", suffixes=("_a", "_b"), sort=False)
  order = pd.concat([a[_KEYS], b[_KEYS]]).drop_duplicates()
  joined = order.merge(joined, on=_KEYS, how="left")
  joined["change"] = [_change(row) for row in joined.to_dict("records")]
  return joined[list(COLUMNS)]


def _effects(folder: Path) -> pd.DataFrame:
  for name in ("claims.csv", "effects.csv"):
    if not (folder / name).exists():
      raise ExperimentError(
        f"{folder} holds no {name}: give the results folder of a study, or run"
        f" python -m experiments.report --workdir={folder}"
      )
  claims = _read(folder, "claims.csv", ["claim", "verdict", "decided_by"])
  whole = claims.assign(role="claim", label=claims["decided_by"])
  whole["label"] = "decided by its weakest part"
  columns = [*_KEYS, "verdict", "effect", "low", "high"]
  effects = _read(folder, "effects.csv", columns)
  table = pd.concat([whole[columns], effects[columns]], ignore_index=True)
  numbers = ["effect", "low", "high"]
  return table.assign(**{n: table[n].astype(float) for n in numbers})


def _read(folder: Path, name: str, columns: list[str]) -> pd.DataFrame:
  table = store.read_table(folder / name, read=checksums.Sums(folder).read)
  columns = [*columns, "effect", "low", "high"]
  try:
    store.require(folder / name, table, columns)
  except ExperimentError as error:
    raise ExperimentError(
      f"{error}, python -m experiments.report --workdir={folder}"
    ) from error
  return table


def _change(row: dict[Any, Any]) -> str:
  untested = [
    isinstance(v, float) or v == NOT_TESTED
    for v in (row["verdict_a"], row["verdict_b"])
  ]
  if any(untested):
    return SAME if all(untested) else ONE_ONLY
  if row["verdict_a"] != row["verdict_b"]:
    return VERDICT
  if row["role"] == "claim":
    return SAME
  a, b = row["effect_a"], row["effect_b"]
  if math.isnan(a) or math.isnan(b):
    return WITHIN if math.isnan(a) == math.isnan(b) else ONE_ONLY
  ends = [row[f"{end}_{study}"] for study in "ab" for end in ("low", "high")]
  if any(map(math.isnan, ends)):
    return WITHIN if a == b else BEYOND
  apart = max(ends[0], ends[2]) > min(ends[1], ends[3])
  return BEYOND if apart else WITHIN


def describe(table: pd.DataFrame, first: str, second: str) -> str:
  """The comparison as text: counts, then what changed, claim by claim.

  Args:
    table: of `compare`.
    first: name of the first study.
    second: name of the second.

  Returns:
    Markdown.
  """
  claims = table[table["role"] == "claim"]
  effects = table[table["role"] != "claim"]
  same = effects["change"].isin([BEYOND, WITHIN]).sum()
  lines = [
    f"# {first} against {second}",
    "",
    f"{(claims['change'] == VERDICT).sum()} of {len(claims)} claims have"
    f" another verdict, {(claims['change'] == ONE_ONLY).sum()} are tested in"
    f" one study only; {(effects['change'] == BEYOND).sum()} of"
    f" {same} effects that have the same verdict in both have 95 % intervals"
    " that do not overlap.",
    "",
    f"| claim | {first} | {second} | change |",
    "|---|---|---|---|",
  ]
  for row in claims.to_dict("records"):
    cells = [row["claim"], *_sides(row), row["change"]]
    lines.append(f"| {' | '.join(cells)} |")
  changed = effects[effects["change"].isin([VERDICT, BEYOND])]
  if len(changed):
    lines += [
      "",
      "## Effects that changed",
      "",
      f"| claim | effect | {first} | {second} | change |",
      "|---|---|---|---|---|",
    ]
  for row in changed.to_dict("records"):
    role = "" if row["role"] == "decides" else f" ({row['role']})"
    cells = [row["claim"], row["label"] + role, *_sides(row), row["change"]]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _sides(row: dict[Any, Any]) -> list[str]:
  return [_side(row, study) for study in "ab"]


def _side(row: dict[Any, Any], study: str) -> str:
  verdict, effect = row[f"verdict_{study}"], row[f"effect_{study}"]
  if isinstance(verdict, float):
    return "absent"
  if math.isnan(effect):
    return verdict
  text = f"{verdict}, {effect:.3g}"
  low, high = row[f"low_{study}"], row[f"high_{study}"]
  return text if math.isnan(low) else f"{text} ({low:.3g} to {high:.3g})"
