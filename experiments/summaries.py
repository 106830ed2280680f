"""The short summary of a study, as Markdown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.claims.base import NOT_TESTED
from analysis.figures import style


def markdown(
  claims: pd.DataFrame,
  summary: pd.DataFrame,
  curves: pd.DataFrame,
  provenance: dict[str, Any],
  pictures: list[Path],
  *,
  note: str = "",
  failures: pd.DataFrame | None = None,
) -> str:
  """The short summary: verdicts, accuracy, invariance at the output, figures.

  Args:
    claims: of `verdicts.judge`.
    summary: of `statistics.summarize`, of the overview's networks.
    curves: one row a run, seed and epoch, of the same.
    provenance: of the study.
    pictures: the figures to show.
    note: something to mind when reading them.
    failures: one row a training that failed.

  Returns:
    Markdown text.
  """
  study, data = provenance["study"], provenance["data"]
  lines = [
    f"# {study['preset']}: {data['dataset']}",
    "",
    f"{len(study['cells'])} networks, seeds"
    f" {', '.join(map(str, study['seeds']))}; {data['train_examples']:,}"
    f" training and {data['test_examples']:,} test images ({data['source']},"
    f" order: {data['order']}), {study['train']['epochs']} epochs of"
    f" {study['train']['optimizer']}; invariance measured on"
    f" {int(summary['n_images'].max()):,} of the test images. Intervals are"
    " 95 % t intervals over seeds.",
    "",
    *_failed(failures),
    "## Verdicts",
    "",
    *verdict_table(claims),
    "",
    f"{POWER_NOTE} Rules, margins and every effect: [report.html](report.html),"
    " [claims.csv](claims.csv), [effects.csv](effects.csv).",
    "",
    "## Accuracy and invariance of the output",
    "",
    *output_table(summary, curves, study),
    "",
    "Invariance error: 0 is invariant, 1 as far as another image. It is that of"
    " the logits; in brackets that of the same networks before training.",
    *(["", note] if note else []),
    "",
    "## Equivariance of the convolutions",
    "",
    *_equivariance_table(summary),
    "",
    "Trained networks; the floor is what resampling alone costs an ideal layer"
    " of the same resolution.",
    "",
    "## Figures",
    "",
  ]
  for path in pictures:
    title = path.stem.replace("_", " ")
    lines += [f"![{title}](figures/{path.name})", ""]
  lines += [
    "## Provenance",
    "",
    "```json",
    json.dumps(provenance, indent=2),
    "```",
    "",
    "Drawn from the stored tables by `python -m experiments.report`.",
  ]
  return "\n".join(lines) + "\n"


def _failed(failures: pd.DataFrame | None) -> list[str]:
  """The section on failed trainings, if there are any."""
  if failures is None or failures.empty:
    return []
  lines = [
    "## Failed",
    "",
    "The loss of these trainings stopped being finite. They are in no table"
    " and no figure; verdicts rest on the seeds that are left.",
    "",
    "| network | seed | epoch | step | peak learning rate | loss |",
    "|---|---|---|---|---|---|",
  ]
  for row in failures.to_dict("records"):
    loss = f"{row['loss']} ({row['of']})"
    cells = [row["cell"], row["seed"], row["epoch"], row["step"]]
    cells += [f"{row['learning_rate']:g}", loss]
    lines.append(f"| {' | '.join(map(str, cells))} |")
  return [*lines, ""]


def verdict_table(claims: pd.DataFrame) -> list[str]:
  """Lines of a Markdown table: every claim with its verdict.

  Args:
    claims: of `verdicts.judge`, or claims.csv.

  Returns:
    A line a claim, after two of heading.
  """
  lines = [
    "| claim | verdict | effect (95 % interval) | p, adjusted | power | n |",
    "|---|---|---|---|---|---|",
  ]
  for row in claims.to_dict("records"):
    effect, p, power = "", "", ""
    if row["verdict"] == NOT_TESTED:
      effect = row["note"]
    elif row["rule"] == "exact":
      effect = f"{row['effect']:g} {row['decided_by']}"
    elif row["n_seeds"]:
      effect = f"{row['decided_by']}: {with_interval(row)}"
      p, power = _p(row["p_holm"]), _power(row)
    n = str(row["n_seeds"] or "")
    cells = [row["statement"], f"**{row['verdict']}**", effect, p, power, n]
    lines.append(f"| {' | '.join(cells)} |")
  return lines


# What the power column says, for those who read the table alone.
POWER_NOTE = (
  "Power: the probability of finding the smallest effect of interest, with the"
  " spread seen; where a value is held against a bound, the distance from it"
  " that is found with 80 %."
)


def with_interval(row: Mapping[Any, Any]) -> str:
  """An effect with its interval and unit, and the floor if it has one.

  Args:
    row: of the claims or the effects of `verdicts.judge`.
  """
  text = f"{row['effect']:.3g}"
  if row["low"] == row["low"]:
    text += f" ({row['low']:.3g} to {row['high']:.3g})"
  if row["unit"]:
    text += f" {row['unit']}"
  if row["floor"] == row["floor"]:
    text += f", floor {row['floor']:.3g}"
  return text


def _power(row: Mapping[Any, Any]) -> str:
  if row["detectable"] == row["detectable"]:
    return f"80 % from {row['detectable']:.2g} off"
  if row["power"] != row["power"]:
    return ""
  return "> 0.999" if row["power"] > 0.999 else f"{row['power']:.3f}"


def _p(value: float) -> str:
  if value != value:
    return ""
  return "< 0.001" if value < 0.001 else f"{value:.3f}"


def output_table(
  summary: pd.DataFrame, curves: pd.DataFrame, study: dict[str, Any]
) -> list[str]:
  """Lines of a Markdown table: accuracy and invariance of the output.

  Args:
    summary: of `statistics.summarize`.
    curves: one row a run, seed and epoch.
    study: the provenance's description of the study.

  Returns:
    A line an architecture, after two of heading.
  """
  parameters = {c["run"]: c["parameters"] for c in study["cells"]}
  logits = summary[
    (summary["measure"] == "invariance_error")
    & (summary["layer"] == "logits")
    & (summary["orbit"] == summary["transform"])
  ]
  last = curves[curves["epoch"] == curves["epoch"].max()]
  names = style.families(logits)
  doses = [f"{n} by {style.at_reference(logits, n)[1]}" for n in names]
  lines = [
    "| architecture | parameters | test accuracy (%) | "
    + " | ".join(f"invariance error, {dose}" for dose in doses)
    + " |",
    "|---" * (3 + len(names)) + "|",
  ]
  for architecture in style.architectures(curves):
    run = architecture.run
    accuracies = last["test_accuracy"][last["run"] == run] * 100
    accuracy = statistics.t_interval(list(accuracies))
    cells = [
      architecture.label,
      f"{parameters[run]:,}",
      _interval(accuracy._asdict(), ".2f"),
    ]
    for name in names:
      at, _ = style.at_reference(logits[logits["run"] == run], name)
      stage = {row["stage"]: row for row in at.to_dict("records")}
      cells.append(
        f"{_interval(stage['trained'])} [{stage['init']['mean']:.3f}]"
      )
    lines.append(f"| {' | '.join(cells)} |")
  return lines


def _equivariance_table(summary: pd.DataFrame) -> list[str]:
  lines = [
    "| architecture | layer | transformation | equivariance error | floor |",
    "|---|---|---|---|---|",
  ]
  rows = summary[
    (summary["measure"] == "equivariance_error")
    & (summary["stage"] == "trained")
    & summary["layer"].str.startswith("conv")
  ]
  for architecture in style.architectures(rows):
    own = rows[rows["run"] == architecture.run]
    for name in style.families(own):
      at, dose = style.at_reference(own, name)
      for row in at.sort_values("layer_index").to_dict("records"):
        value, floor = f"undefined: {row['note']}", ""
        if not np.isnan(row["mean"]):
          value, floor = _interval(row), f"{row['floor']:.3f}"
        cells = [architecture.label, row["layer"], f"{name} by {dose}"]
        lines.append(f"| {' | '.join([*cells, value, floor])} |")
  return lines


def _interval(row: Mapping[Any, Any], form: str = ".3f") -> str:
  mean = f"{row['mean']:{form}}"
  if np.isnan(row["low"]):
    return mean
  return f"{mean} ({row['low']:{form}} to {row['high']:{form}})"
