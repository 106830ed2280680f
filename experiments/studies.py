"""Running a study: its runs one after another, then its tables and report."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import filters
from experiments import (
  building,
  checksums,
  diverging,
  exact,
  locks,
  measuring,
  reporting,
  runs,
  store,
)
from experiments.config import MeasureConfig, ModelConfig, TrainConfig
from experiments.datasets import Dataset
from experiments.diverging import Divergence
from experiments.errors import UsageError
from experiments.presets import Cell, Study, changed
from experiments.progress import Progress
from experiments.run_folder import STAGES
from experiments.runs import Part, Run
from models import zoo

# The width of random filters and of those that are compared with them: smaller
# ones have hardly more weights than an edge detector has parameters.
_FILTER_WIDTH = 5


class Planned(NamedTuple):
  """A cell with all its flags, and its run.

  Attributes:
    name: the cell's.
    run: the run.
    measure: how it is measured.
  """

  name: str
  run: Run
  measure: MeasureConfig


class Work(NamedTuple):
  """What is left to do of a cell."""

  cell: Planned
  seeds: list[int]
  parts: list[Part]


def plan(
  study: Study, dataset: Dataset, workdir: Path, *, claim: bool = True
) -> list[Planned]:
  """Every cell with all its flags.

  Args:
    study: what to run.
    dataset: the images.
    workdir: the results folder.
    claim: whether to make the folders of the runs; without, nothing is written.

  Returns:
    The cells.

  Raises:
    UsageError: flags that do not fit each other or the data.
    ExperimentError: a folder of another run.
  """
  cells: list[Planned] = []
  for cell in study.cells:
    measure = changed(study.measure, cell.measure)
    measuring.check(measure, dataset)
    train: TrainConfig = changed(study.train, cell.train)
    model = _architecture(cell, study, cells, dataset)
    path = workdir / "runs" / runs.run_name(model, train)
    run = runs.make_run(path, study.data, model, train, dataset, claim=claim)
    cells.append(Planned(cell.name, run, measure))
  _check_names(cells)
  return cells


def _check_names(cells: Sequence[Planned]) -> None:
  """Two cells that share a folder would undo each other's measurements.

  Raises:
    UsageError: flags that make two cells the same network.
  """
  names: dict[Path, str] = {}
  for cell in cells:
    other = names.setdefault(cell.run.folder.path, cell.name)
    if other != cell.name:
      raise UsageError(
        f"with these flags the cells {other!r} and {cell.name!r} are the same"
        f" network, {cell.run.name}: leave them as the preset has them"
      )


def _architecture(
  cell: Cell, study: Study, before: Sequence[Planned], dataset: Dataset
) -> ModelConfig:
  """The cell's architecture; its width, where it is to match another cell's.

  Raises:
    UsageError: no width matches.
  """
  model: ModelConfig = changed(study.model, cell.model)
  if not cell.match:
    return model
  other = next(p.run for p in before if p.name == cell.match)
  channels = dataset.train.images.shape[-1]

  def maker(width: int) -> zoo.Model:
    return building.build_model(
      dataclasses.replace(model, width=width),
      num_classes=dataset.num_classes,
      canvas=study.data.canvas,
    )

  counts = other.model.parameter_counts(study.data.canvas, channels)
  try:
    width = zoo.matched_width(
      maker,
      sum(counts.values()),
      canvas=study.data.canvas,
      channels=channels,
    )
  except ValueError as error:
    raise UsageError(f"cell {cell.name!r}: {error}") from error
  return dataclasses.replace(model, width=width)


def missing(
  cells: Sequence[Planned], seeds: Sequence[int], *, claim: bool = True
) -> list[Work]:
  """What is left to do, cell by cell."""
  return [
    Work(
      cell,
      runs.missing_seeds(cell.run, seeds),
      runs.missing_parts(cell.run, seeds, cell.measure, claim=claim),
    )
    for cell in cells
  ]


def cost(work: Work, dataset: Dataset) -> float:
  """About how many seconds it will take."""
  cell = work.cell
  return runs.expected_seconds(
    cell.run, dataset, work.seeds, cell.measure, work.parts
  )


def run_study(study: Study, dataset: Dataset, workdir: Path) -> None:
  """Trains and measures what is missing, then writes tables and report.

  Args:
    study: what to run.
    dataset: the images.
    workdir: the results folder; runs go to `runs/` inside.

  Raises:
    UsageError: flags that do not fit each other or the data.
    ExperimentError: a folder of another study or in use, or a damaged file.
    NonFiniteLossError: as `collect`.
  """
  with locks.holding(workdir):
    _run_study(study, dataset, workdir)


def _run_study(study: Study, dataset: Dataset, workdir: Path) -> None:
  cells = plan(study, dataset, workdir)
  left = missing(cells, study.seeds)
  jobs = sum(len(work.seeds) + len(work.parts) for work in left)
  if jobs:
    total = sum(cost(work, dataset) for work in left)
    with Progress(total, jobs) as bar:
      for work in left:
        run = work.cell.run
        with locks.holding(run.folder.path):
          runs.train(run, dataset, work.seeds, bar)
          runs.measure(run, dataset, work.cell.measure, work.parts, bar)
  collect(cells, study, dataset, workdir)


def dry_run(study: Study, dataset: Dataset, workdir: Path) -> str:
  """A line a cell: what it is, what is done, and the time expected.

  Nothing is written.
  """
  lines, total = [], 0.0
  cells = plan(study, dataset, workdir, claim=False)
  for work in missing(cells, study.seeds, claim=False):
    seconds = cost(work, dataset)
    total += seconds
    failed = len(runs.failures(work.cell.run, study.seeds))
    n = len(study.seeds) - failed
    lines.append(
      f"{work.cell.name:20} {work.cell.run.name:48} trained"
      f" {n - len(work.seeds)}/{n}, measured"
      f" {2 * n - len(work.parts)}/{2 * n}, {seconds / 60:.1f} min to go"
      + (f", {failed} failed" if failed else "")
    )
  lines.append(
    f"{len(lines)} cells, seeds {', '.join(map(str, study.seeds))}: about"
    f" {total / 60:.0f} min on 2 cores"
  )
  return "\n".join(lines)


def collect(
  cells: Sequence[Planned], study: Study, dataset: Dataset, workdir: Path
) -> None:
  """Joins the runs' tables and reports on the joined ones.

  Raises:
    NonFiniteLossError: trainings failed; raised when all else is written.
  """
  failed = {c.name: runs.failures(c.run, study.seeds) for c in cells}
  if all(len(found) == len(study.seeds) for found in failed.values()):
    diverging.check(failed, "nothing is left to report on")
  tables = [runs.join(cell.run, study.seeds) for cell in cells]
  curves = [
    pd.DataFrame(
      [
        cell.run.columns | m
        for m in cell.run.folder.metrics()
        if m["seed"] in study.seeds
      ]
    )
    for cell in cells
  ]
  record = checksums.Sums(workdir).record
  for name, table in (
    (
      "measurements.parquet",
      pd.concat([t for t in tables if len(t)], ignore_index=True),
    ),
    ("training.csv", pd.concat([c for c in curves if len(c)])),
    ("networks.csv", networks(cells, study)),
    ("exact.csv", exact.table()),
  ):
    store.write_table(workdir / name, table, record=record)
  provenance = store.provenance(dataset.provenance)
  store.write_json(
    workdir / "provenance.json",
    provenance | {"study": _describe(study, cells)},
    record=record,
  )
  _write_failures(cells, failed, workdir / "failures.csv")
  reporting.write_report(workdir)
  diverging.check(failed, f"the rest is in {workdir / 'report.html'}")


def _write_failures(
  cells: Sequence[Planned],
  failed: Mapping[str, Sequence[Divergence]],
  path: Path,
) -> None:
  """One row a failed training; no file where none failed."""
  rows = [
    {"cell": cell.name, "run": cell.run.name} | found._asdict()
    for cell in cells
    for found in failed[cell.name]
  ]
  if rows:
    record = checksums.Sums(path.parent).record
    store.write_table(path, pd.DataFrame(rows), record=record)
  else:
    path.unlink(missing_ok=True)


def networks(cells: Sequence[Planned], study: Study) -> pd.DataFrame:
  """What is known of each network as a whole.

  Returns:
    One row a cell, seed and stage: test_accuracy in percent, of the trained
    network, and the share of edge detectors among its first filters, where
    they are wide enough to tell.
  """
  rows = []
  level = filters.random_level(_FILTER_WIDTH)
  for cell in cells:
    folder = cell.run.folder
    accuracy = {m["seed"]: 100 * m["test_accuracy"] for m in folder.metrics()}
    for seed in runs.without_failed(cell.run, study.seeds):
      for stage in STAGES:
        params = folder.load_params(seed, stage)
        rows.append(
          {
            "cell": cell.name,
            "run": cell.run.name,
            "seed": seed,
            "stage": stage,
            "test_accuracy": accuracy[seed] if stage == "trained" else np.nan,
            "edge_detectors": edge_detectors(params["params"], level),
          }
        )
  return pd.DataFrame(rows)


def edge_detectors(learned: Any, level: float) -> float:
  """Share of the filters of the first layer that are edge detectors.

  Args:
    learned: the network's parameters by layer.
    level: the R-squared that an edge detector must exceed.

  Returns:
    0 to 1; NaN for filters that are not 5x5 or see colours.
  """
  kernel = np.asarray(learned.get("conv1", {}).get("kernel", np.zeros(0)))
  if kernel.ndim != 4 or kernel.shape[:3] != (_FILTER_WIDTH, _FILTER_WIDTH, 1):
    return float("nan")
  fits = [filters.fit_edge(k) for k in np.moveaxis(kernel[:, :, 0], -1, 0)]
  return float(np.mean([fit.r_squared > level for fit in fits]))


def _describe(study: Study, cells: Sequence[Planned]) -> dict[str, Any]:
  """The study's flags and how long it took, without the path of the data."""
  data = dataclasses.asdict(study.data)
  data.pop("data_dir")
  described = [
    {
      "cell": cell.name,
      "run": cell.run.name,
      "parameters": sum(
        cell.run.model.parameter_counts(study.data.canvas).values()
      ),
      "model": dataclasses.asdict(cell.run.config),
      "train": _changes(study.train, cell.run.train),
      "measure": _changes(study.measure, cell.measure),
      "seconds": cell.run.folder.seconds(),
    }
    for cell in cells
  ]
  return {
    "preset": study.preset,
    "data": data,
    "cells": described,
    "overview": [c.name for c in study.cells if c.name in study.overview],
    "train": dataclasses.asdict(study.train),
    "measure": dataclasses.asdict(study.measure),
    "seeds": list(study.seeds),
  }


def _changes(common: Any, own: Any) -> dict[str, Any]:
  """The fields in which a cell differs from the study."""
  before = dataclasses.asdict(common)
  return {
    name: value
    for name, value in dataclasses.asdict(own).items()
    if value != before[name]
  }
