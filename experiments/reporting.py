"""Tables in, figures and summaries out: no model in memory."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import figures, statistics
from analysis.figures import style
from analysis.tables import LOST_INTENSITY, lost_beyond
from experiments import cli, store
from experiments.errors import ExperimentError

# Figure file -> drawing function and the table it is drawn from.
FIGURES: dict[str, tuple[Callable[[pd.DataFrame], Figure], str]] = {
  "invariance_by_layer": (figures.invariance_by_layer, "measurements.parquet"),
  "dose_response": (figures.dose_response, "measurements.parquet"),
  "sensitivity_map": (figures.sensitivity_map, "measurements.parquet"),
  "accuracy_and_consistency": (
    figures.accuracy_and_consistency,
    "measurements.parquet",
  ),
  "training_curves": (figures.training_curves, "training.csv"),
}


def write_report(workdir: Path) -> list[Path]:
  """Draws every figure and summary that the stored tables allow.

  Args:
    workdir: a results folder with measurements.parquet, training.csv and
      provenance.json.

  Returns:
    The files written.

  Raises:
    ExperimentError: a table is missing or damaged.
  """
  if not (workdir / "measurements.parquet").exists():
    raise ExperimentError(
      f"{workdir} holds no measurements.parquet: give the --workdir of a study,"
      " or run python -m experiments.study first"
    )
  tables = {
    name: store.read_table(workdir / name)
    for name in ("measurements.parquet", "training.csv")
  }
  provenance = store.read_json(workdir / "provenance.json")
  written = []
  for name, (draw, source) in FIGURES.items():
    if not _drawable(name, tables[source]):
      continue
    for suffix, content in figures.render(draw(tables[source])).items():
      path = workdir / "figures" / f"{name}{suffix}"
      store.write_bytes(path, content)
      written.append(path)
  summary = statistics.summarize(tables["measurements.parquet"])
  store.write_table(workdir / "summary.csv", _rounded(summary))
  lost = lost_intensity(tables["measurements.parquet"])
  if lost:
    cli.warn(lost)
  text = markdown(
    summary,
    tables["training.csv"],
    provenance,
    [path for path in written if path.suffix == ".png"],
    note=lost,
  )
  store.write_text(workdir / "summary.md", text)
  return [*written, workdir / "summary.csv", workdir / "summary.md"]


def lost_intensity(table: pd.DataFrame) -> str:
  """A sentence about transformations that push content off the canvas.

  Args:
    table: measurements.

  Returns:
    The sentence; empty if nothing over 1 % is lost.
  """
  lost = lost_beyond(table)
  if not lost:
    return ""
  units = dict(zip(table["transform"], table["unit"], strict=True))
  parts = [
    f"{family} from {start:.3g} {units[family]} on (up to {share:.1%})"
    for family, (start, share) in lost.items()
  ]
  return (
    f"More than {LOST_INTENSITY:.0%} of the image intensity leaves the canvas:"
    f" {', '.join(parts)}. A larger --canvas keeps it."
  )


def _drawable(name: str, table: pd.DataFrame) -> bool:
  """Whether the table has what the figure shows."""
  if name == "sensitivity_map":
    return bool((table["orbit"] == "translation_map").any())
  if name == "accuracy_and_consistency":
    return {"accuracy", "consistency"} <= set(table["measure"])
  if name == "training_curves":
    return len(table) > 0
  return bool((table["measure"] == "invariance_error").any())


def _rounded(summary: pd.DataFrame) -> pd.DataFrame:
  """Six significant digits: enough to redraw, the same on every machine."""

  def digits(value: float) -> float:
    return float(f"{value:.6g}")

  numbers = summary.select_dtypes(np.floating).columns
  return summary.assign(**{c: summary[c].map(digits) for c in numbers})


def markdown(
  summary: pd.DataFrame,
  curves: pd.DataFrame,
  provenance: dict[str, Any],
  pictures: list[Path],
  *,
  note: str = "",
) -> str:
  """The short summary: what ran, accuracy, invariance at the output, figures.

  Args:
    summary: of `statistics.summarize`.
    curves: one row a run, seed and epoch.
    provenance: of the study.
    pictures: the figures to show.
    note: something to mind when reading them.

  Returns:
    Markdown text.
  """
  study, data = provenance["study"], provenance["data"]
  lines = [
    f"# {study['preset']}: {data['dataset']}",
    "",
    f"{len(study['models'])} architectures, seeds"
    f" {', '.join(map(str, study['seeds']))}; {data['train_examples']:,}"
    f" training and {data['test_examples']:,} test images ({data['source']},"
    f" order: {data['order']}), {study['train']['epochs']} epochs of"
    f" {study['train']['optimizer']}; invariance measured on"
    f" {int(summary['n_images'].max()):,} of the test images. Intervals are"
    " 95 % t intervals over seeds.",
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
    "Drawn from `measurements.parquet` and `training.csv` by"
    " `python -m experiments.report`.",
  ]
  return "\n".join(lines) + "\n"


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
  parameters = {m["run"]: m["parameters"] for m in study["models"]}
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
