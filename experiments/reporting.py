"""Tables in; verdicts, figures, summaries and the report out.

No model is in memory, and equal tables give equal bytes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import claims, figures, report, statistics
from analysis.claims import controls, verdicts
from analysis.claims.base import Claim
from analysis.claims.evidence import Evidence
from analysis.claims.verdicts import Verdicts
from analysis.tables import LOST_INTENSITY, lost_beyond
from experiments import checksums, cli, report_page, store, summaries
from experiments.errors import ExperimentError

# Figures over all layers: drawing function, and the table it is drawn from.
FIGURES: dict[str, tuple[Callable[[pd.DataFrame], Figure], str]] = {
  "invariance_by_layer": (figures.invariance_by_layer, "measurements.parquet"),
  "dose_response": (figures.dose_response, "measurements.parquet"),
  "sensitivity_map": (figures.sensitivity_map, "measurements.parquet"),
  "measures_by_layer": (figures.measures_by_layer, "measurements.parquet"),
  "accuracy_and_consistency": (
    figures.accuracy_and_consistency,
    "measurements.parquet",
  ),
  "training_curves": (figures.training_curves, "training.csv"),
}

# What a report is made of, and the columns without which it cannot be.
_COLUMNS = {
  "measurements.parquet": (
    *("run", "seed", "stage", "layer", "layer_index", "transform", "orbit"),
    *("theta", "magnitude", "unit", "displacement_px", "measure", "value"),
    *("floor", "note", "n_images"),
  ),
  "training.csv": ("run", "seed", "epoch", "test_accuracy"),
  "networks.csv": ("cell", "run", "seed", "stage", "test_accuracy"),
  "exact.csv": ("check", "expected", "obtained", "counted"),
}
TABLES = tuple(_COLUMNS)


class Results(NamedTuple):
  """A study's stored tables.

  Attributes:
    tables: by file name.
    provenance: of the study.
    runs: the run of each cell.
    overview: the runs that the figures over all layers show; all that were
      measured if none of those chosen was.
    failures: one row a training that failed; of failures.csv, if there is one.
  """

  tables: dict[str, pd.DataFrame]
  provenance: dict[str, Any]
  runs: dict[str, str]
  overview: list[str]
  failures: pd.DataFrame

  @property
  def failed(self) -> dict[str, list[int]]:
    """The seeds of each cell whose training failed."""
    if self.failures.empty:
      return {}
    return {
      str(cell): [int(seed) for seed in seeds]
      for cell, seeds in self.failures.groupby("cell")["seed"]
    }

  def shown(self, name: str) -> pd.DataFrame:
    """The rows of a table that are of the overview's runs."""
    table = self.tables[name]
    return table[table["run"].isin(self.overview)]


def read(workdir: Path) -> Results:
  """Reads a study's tables.

  Raises:
    ExperimentError: a table is missing or damaged.
  """
  if not (workdir / "measurements.parquet").exists():
    raise ExperimentError(
      f"{workdir} holds no measurements.parquet: give the --workdir of a study,"
      " or run python -m experiments.study first"
    )
  read = checksums.Sums(workdir).read
  tables = {n: store.read_table(workdir / n, read=read) for n in TABLES}
  provenance = store.read_json(workdir / "provenance.json", read=read)
  try:
    study = provenance["study"]
    runs = {cell["cell"]: cell["run"] for cell in study["cells"]}
    overview = [runs[name] for name in study["overview"]]
  except (KeyError, TypeError) as error:
    raise ExperimentError(
      f"{workdir / 'provenance.json'} is not a study of this version:"
      f" {error} is missing; run the study again"
    ) from error
  for name, table in tables.items():
    store.require(workdir / name, table, _COLUMNS[name])
  measured = set(tables["measurements.parquet"]["run"])
  if measured.isdisjoint(overview):
    overview = [run for run in runs.values() if run in measured]
  return Results(tables, provenance, runs, overview, _read_failures(workdir))


def _read_failures(workdir: Path) -> pd.DataFrame:
  path = workdir / "failures.csv"
  if not path.exists():
    return pd.DataFrame()
  table = store.read_table(path, read=checksums.Sums(workdir).read)
  return table.assign(loss=table["loss"].map(str))  # "nan" is read as no value


def judge(results: Results) -> Verdicts:
  """The verdicts on all claims."""
  return verdicts.judge(claims.CLAIMS, _evidence(results))


def _evidence(results: Results) -> Evidence:
  return Evidence(
    results.tables["measurements.parquet"],
    results.tables["networks.csv"],
    results.tables["exact.csv"],
    results.runs,
    results.failed,
  )


def write_report(workdir: Path) -> list[Path]:
  """Judges the claims and draws everything that the stored tables allow.

  Args:
    workdir: a results folder with the files of `TABLES` and provenance.json.

  Returns:
    The files written; report.html last.

  Raises:
    ExperimentError: a table is missing or damaged.
  """
  results = read(workdir)
  found = judge(results)
  pictures = _draw(results, found)
  written = []
  for name, files in pictures.items():
    for suffix, content in files.items():
      path = workdir / "figures" / f"{name}{suffix}"
      store.write_bytes(path, content)
      written.append(path)
  measurements = results.tables["measurements.parquet"]
  summary = statistics.summarize(results.shown("measurements.parquet"))
  checked = controls.check(_evidence(results), measurements)
  record = checksums.Sums(workdir).record
  for name, table in (
    ("claims", found.claims),
    ("effects", found.effects),
    ("effect_values", found.values),
    ("controls", checked),
    ("summary", summary),
  ):
    path = workdir / f"{name}.csv"
    store.write_table(path, _rounded(table), record=record)
    written.append(path)
  _warn_of(checked)
  lost = lost_intensity(results.shown("measurements.parquet"))
  if lost:
    cli.warn(lost)
  text = summaries.markdown(
    found.claims,
    summary,
    results.shown("training.csv"),
    results.provenance,
    [p for p in written if p.suffix == ".png"],
    note=lost,
    failures=results.failures,
  )
  store.write_text(workdir / "summary.md", text)
  html = report.page(
    report_page.assemble(
      report_page.Content(
        found,
        summary,
        checked,
        results.tables["networks.csv"],
        {name: files[".png"] for name, files in pictures.items()},
        results.provenance,
        lost,
        results.failures,
      )
    )
  )
  store.write_text(workdir / "report.html", html)
  return [*written, workdir / "summary.md", workdir / "report.html"]


def _draw(results: Results, found: Verdicts) -> dict[str, dict[str, bytes]]:
  """Every figure as files by suffix."""
  pictures = {}
  for name, (draw, source) in FIGURES.items():
    table = results.shown(source)
    if _drawable(name, table):
      shaded = name == "sensitivity_map"
      pictures[name] = figures.render(draw(table), few_colours=not shaded)
  drawn = set(found.claims["claim"][found.claims["figure"] != ""])
  for claim in claims.CLAIMS:
    if claim.id in drawn:
      pictures[f"claim_{claim.id}"] = figures.render(
        _draw_claim(claim, results, found), few_colours=True
      )
  return pictures


def _draw_claim(claim: Claim, results: Results, found: Verdicts) -> Figure:
  if claim.exact:
    return figures.exact_figure(claim, results.tables["exact.csv"])
  return figures.claim_figure(
    claim,
    found.effects,
    found.values,
    results.tables["measurements.parquet"],
    results.runs,
  )


def _warn_of(checked: pd.DataFrame) -> None:
  for row in checked[~checked["holds"].astype(bool)].to_dict("records"):
    cli.warn(
      f"control fails, so do not believe this study: {row['control']} is"
      f" {row['obtained']:.3g}, expected {row['expected']}"
    )


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
  if name == "measures_by_layer":
    return bool(figures.other_measures(table))
  if name == "accuracy_and_consistency":
    return {"accuracy", "consistency"} <= set(table["measure"])
  if name == "training_curves":
    return len(table) > 0
  return bool((table["measure"] == "invariance_error").any())


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
  """Six significant digits: enough to redraw, the same on every machine."""

  def digits(value: float) -> float:
    return float(f"{value:.6g}")

  numbers = table.select_dtypes(np.floating).columns
  return table.assign(**{c: table[c].map(digits) for c in numbers})
