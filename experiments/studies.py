"""Running a study: its runs one after another, then its tables and report."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import filters
from experiments import (
  cells,
  checksums,
  diverging,
  exact,
  launchers,
  locks,
  reporting,
  runs,
  store,
)
from experiments.cells import Planned, Task
from experiments.datasets import Dataset
from experiments.diverging import Divergence
from experiments.launchers import Launcher
from experiments.presets import Study
from experiments.progress import Progress
from experiments.run_folder import STAGES

# The width of random filters and of those that are compared with them: smaller
# ones have hardly more weights than an edge detector has parameters.
_FILTER_WIDTH = 5


def run_study(
  study: Study,
  dataset: Dataset,
  workdir: Path,
  launch: Launcher = launchers.local,
) -> None:
  """Trains and measures what is missing, then writes tables and report.

  Args:
    study: what to run.
    dataset: the images.
    workdir: the results folder; runs go to `runs/` inside.
    launch: what does the cells.

  Raises:
    UsageError: flags that do not fit each other or the data.
    ExperimentError: a folder of another study or in use, or a damaged file.
    NonFiniteLossError: as `collect`.
  """
  with locks.holding(workdir):
    planned = cells.plan(study, dataset, workdir)
    _do(planned, study, dataset, launch)
    collect(planned, study, dataset, workdir)


def run_task(study: Study, dataset: Dataset, workdir: Path, task: Task) -> str:
  """Trains and measures what is missing of a task's share of the cells.

  Tasks may run at the same time, also on several machines that share the
  folder. Tables and report are left to `run_study`.

  Args:
    study: what to run.
    dataset: the images.
    workdir: the results folder.
    task: which share.

  Returns:
    What was done, for the user.

  Raises:
    UsageError, ExperimentError: see `run_study`.
    NonFiniteLossError: at the end, if trainings failed.
  """
  with locks.holding(workdir, shared=True):
    planned = cells.plan(study, dataset, workdir)
    share = cells.share(planned, study, dataset, task)
    _do(share, study, dataset, launchers.local)
    diverging.check(
      {c.run.name: runs.failures(c.run, study.seeds) for c in share},
      f"what did not fail of task {task.index} is in {workdir}",
    )
  names = ", ".join(cell.name for cell in share) or "none"
  return (
    f"task {task.index} of {task.count} is complete: {len(share)} of"
    f" {len(planned)} cells ({names}). When all tasks are, the same command"
    " without --task_index and --task_count writes the tables and the report."
  )


def _do(
  planned: Sequence[Planned], study: Study, dataset: Dataset, launch: Launcher
) -> None:
  """Does what is missing of some cells."""
  cells.claim(planned, dataset)
  left = [w for w in cells.missing(planned, study.seeds) if cells.jobs(w)]
  if left:
    total = sum(cells.cost(work, dataset) for work in left)
    with Progress(total, sum(map(cells.jobs, left))) as bar:
      launch(left, dataset, bar)


def dry_run(
  study: Study, dataset: Dataset, workdir: Path, task: Task | None = None
) -> str:
  """A line a cell: what it is, what is done, and the time expected.

  Nothing is written.

  Args:
    study: what would be run.
    dataset: the images, or an outline of them.
    workdir: the results folder.
    task: whose share; None for all cells.
  """
  lines, total = [], 0.0
  share = planned = cells.plan(study, dataset, workdir)
  if task is not None:
    share = cells.share(planned, study, dataset, task)
  for work in cells.missing(share, study.seeds, claim=False):
    seconds = cells.cost(work, dataset)
    total += seconds
    failed = len(runs.failures(work.cell.run, study.seeds))
    n = len(study.seeds) - failed
    lines.append(
      f"{work.cell.name:20} {work.cell.run.name:48} trained"
      f" {n - len(work.seeds)}/{n}, measured"
      f" {2 * n - len(work.parts)}/{2 * n}, {seconds / 60:.1f} min to go"
      + (f", {failed} failed" if failed else "")
    )
  which = f"{len(lines)} cells"
  if task is not None:
    which = f"task {task.index} of {task.count}: {which} of {len(planned)}"
  lines.append(
    f"{which}, seeds {', '.join(map(str, study.seeds))}: about"
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
            "edge_detectors": edge_detectors(params["params"]),
          }
        )
  return pd.DataFrame(rows)


def edge_detectors(learned: Any) -> float:
  """Share of the filters of the first layer that are edge detectors.

  Args:
    learned: the network's parameters by layer.

  Returns:
    0 to 1; NaN for filters that are not 5x5 or see colours.
  """
  kernel = np.asarray(learned.get("conv1", {}).get("kernel", np.zeros(0)))
  if kernel.ndim != 4 or kernel.shape[:3] != (_FILTER_WIDTH, _FILTER_WIDTH, 1):
    return float("nan")
  level = filters.random_level(_FILTER_WIDTH)  # takes seconds, the first time
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
