"""Tables of a reproduction: published and ours side by side, and verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import statistics
from experiments.reproductions.base import (
  Experiment,
  Published,
  Quantity,
  Statement,
  Verdict,
)

KEYS = ["cell", "stage", "condition", "measure"]


def summarize(
  table: pd.DataFrame, published: Sequence[Published]
) -> pd.DataFrame:
  """Published values beside the means over seeds.

  Args:
    table: one row a value, as in results.csv.
    published: the published values.

  Returns:
    One row a cell, stage, condition and measure: published, published_spread,
    mean, low, high (95 % t interval over seeds) and n_seeds.
  """
  known = {(p.cell, p.stage, p.condition, p.measure): p for p in published}
  rows = []
  for key, values in table.groupby(KEYS, sort=False)["value"]:
    values = values.dropna()
    interval = [float("nan")] * 3
    if len(values):
      interval = list(statistics.t_interval(list(values)))
    one = known.get(key)
    spread = float("nan") if one is None or one.spread is None else one.spread
    rows.append(
      [
        *key,
        float("nan") if one is None else one.value,
        spread,
        *interval,
        len(values),
      ]
    )
  columns = [*KEYS, "published", "published_spread", "mean", "low", "high"]
  return pd.DataFrame(rows, columns=[*columns, "n_seeds"])


def claims(
  statements: Sequence[Statement], verdicts: Sequence[Verdict]
) -> pd.DataFrame:
  """One row a statement: source, rule, outcome, effect, interval, n_seeds."""
  rows = [
    {"statement": s.text, "source": s.source, "rule": s.rule} | v._asdict()
    for s, v in zip(statements, verdicts, strict=True)
  ]
  return pd.DataFrame(rows)


def rounded(table: pd.DataFrame) -> pd.DataFrame:
  """Six significant digits: enough for every number that is printed."""
  numbers = table.select_dtypes(np.floating).columns
  return table.assign(
    **{c: table[c].map(lambda x: float(f"{x:.6g}")) for c in numbers}
  )


def markdown(
  experiment: Experiment,
  summary: pd.DataFrame,
  claims: pd.DataFrame,
  provenance: Mapping[str, Any],
) -> str:
  """All that is printed: what was asked, found and concluded.

  Args:
    experiment: the experiment.
    summary: of `summarize`.
    claims: of `claims`.
    provenance: as stored.

  Returns:
    Markdown text.
  """
  run, data = provenance["reproduction"], provenance["data"]
  lines = [f"# {experiment.name}", "", *experiment.text.strip().splitlines()]
  lines += ["", "## Published and obtained", ""]
  for measure, quantity in experiment.quantities.items():
    rows = summary[summary["measure"] == measure]
    if len(rows):
      lines += [*_table(rows, quantity), ""]
  lines += [
    "Ours: mean (95 % t interval over seeds; n = number of seeds).",
    "",
    "## Statements, by rules fixed before the runs",
    "",
  ]
  for row in claims.to_dict("records"):
    lines += _verdict(row)
  train = run["settings"]["train"]
  lines += [
    "",
    f"Data: {data['source']}; {data['train_examples']:,} training and"
    f" {data['test_examples']:,} test images; at most {train['epochs']} epochs;"
    f" seeds {', '.join(map(str, run['seeds']))};"
    f" {run['seconds'] / 60:.1f} min on {provenance['cpu_count']} cores of"
    f" {provenance['processor']}.",
  ]
  return "\n".join(lines) + "\n"


def _table(rows: pd.DataFrame, quantity: Quantity) -> list[str]:
  """One measure: a line a cell and stage, a column a condition."""
  conditions = list(dict.fromkeys(rows["condition"]))
  stages = list(dict.fromkeys(rows["stage"]))
  header, cells = [quantity.label], []
  for condition in conditions:
    of = rows[rows["condition"] == condition]
    if of["published"].notna().any():
      header.append(f"{condition}: published".removeprefix(": "))
    header.append(f"{condition}: ours".removeprefix(": "))
  for (cell, stage), own in rows.groupby(["cell", "stage"], sort=False):
    name = f"{cell}, {stage}" if len(stages) > 1 else str(cell)
    line = [name]
    by_condition = {r["condition"]: r for r in own.to_dict("records")}
    for condition in conditions:
      row = by_condition.get(condition)
      if f"{condition}: published".removeprefix(": ") in header:
        line.append(_published(row, quantity.form))
      line.append(_ours(row, quantity.form))
    cells.append(line)
  return aligned([header, *cells])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """Lines of a Markdown table, the first row its header."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    "| "
    + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True))
    + " |"
    for row in rows
  ]
  rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
  return [lines[0], rule, *lines[1:]]


def _published(row: Mapping[Any, Any] | None, form: str) -> str:
  if row is None or np.isnan(row["published"]):
    return "-"
  spread = row["published_spread"]
  shown = f"{row['published']:{form}}"
  return shown if np.isnan(spread) else f"{shown} ± {spread:{form}}"


def _ours(row: Mapping[Any, Any] | None, form: str) -> str:
  if row is None or np.isnan(row["mean"]):
    return "-"
  return f"{row['mean']:{form}} ({interval(row, form)}n = {row['n_seeds']})"


def interval(row: Mapping[Any, Any], form: str) -> str:
  """'low to high, ', or nothing for a single seed."""
  if np.isnan(row["low"]):
    return ""
  return f"{row['low']:{form}} to {row['high']:{form}}, "


def _verdict(row: Mapping[Any, Any]) -> list[str]:
  outcome = {"undecided": "no (undecided)"}.get(row["outcome"], row["outcome"])
  # What nobody published cannot be reproduced.
  verb = "holds" if row["source"] == "ours" else "reproduced"
  return [
    f"* {verb}: {outcome}. {row['statement']} [{row['source']}]",
    f"  Rule: {row['rule']}. Obtained: {row['effect']:.4g}"
    f" ({interval(row, '.4g')}n = {row['n_seeds']}).",
  ]
